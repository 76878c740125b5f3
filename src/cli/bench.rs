//! `bench`: the benchmark against a running server.

mod drive;
mod import;
mod merge;
mod proof;
mod resume;
mod run;

use clap::Subcommand;

pub(super) use self::drive::drive_with;
use super::{Connection, Exit, Global};

/// Run the benchmark against a server.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a prompt set against the server
    Run(Box<run::RunArgs>),
    /// Continue a run that ended early, by Ctrl-C or a failure: verdicts are kept, and only the rest is asked
    Resume(resume::ResumeArgs),
    /// Judge the answers of a complete run again, with other guards or by another policy, as a run of its own; no answer
    /// is generated again
    Rescore(resume::RescoreArgs),
    /// Make runs of verdicts that another program made
    Import(import::ImportArgs),
    /// Merge the shards of a run into one run
    Merge(merge::MergeArgs),
    /// Show that a row belongs to a run: the row, and the hashes by which the run's root follows from it, without the other rows
    Proof(proof::ProofArgs),
    /// Check that a row belongs to the run with a root, by what `proof` has written
    VerifyProof(proof::VerifyProofArgs),
}

impl Args {
    /// The connection flags of the subcommands that call a server.
    pub(super) fn connection(&self) -> Option<&Connection> {
        match &self.command {
            Command::Run(args) => Some(&args.connection),
            Command::Resume(args) => Some(&args.connection),
            Command::Rescore(args) => Some(&args.connection),
            Command::Import(_) | Command::Merge(_) | Command::Proof(_) | Command::VerifyProof(_) => None,
        }
    }
}

/// Runs the subcommand.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    match args.command {
        Command::Run(args) => run::run(&args, global),
        Command::Resume(args) => resume::resume(&args, global),
        Command::Rescore(args) => resume::rescore(args, global),
        Command::Import(args) => import::import(args, global),
        Command::Merge(args) => merge::merge(args, global),
        Command::Proof(args) => proof::proof(&args),
        Command::VerifyProof(args) => proof::verify(&args),
    }
}
