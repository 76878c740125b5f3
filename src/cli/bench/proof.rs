//! `bench proof` and `bench verify-proof`: that a row belongs to a run, without the run's other rows.

use std::path::PathBuf;

use crate::{
    bench::{
        json_file::read_json_within,
        results::RunFolder,
        row_proof::{ProofError, RowProof},
    },
    cli::{
        CommandError, Exit,
        output::{print_line, write_to},
    },
    digest,
};

/// Bytes of the largest proof that is read: one of a row with a long answer.
const MAX_BYTES: u64 = 16 << 20;

/// Which row to prove.
#[derive(Debug, clap::Args)]
pub(super) struct ProofArgs {
    /// Run folder
    run: PathBuf,
    /// The row: the prompt's id, its language and the seed, such as 17/de/0
    item: String,
    /// File for the proof; standard output without it
    #[arg(long, value_name = "FILE", default_value = "-", hide_default_value = true)]
    out: PathBuf,
}

/// Which proof to check, and by which root.
#[derive(Debug, clap::Args)]
pub(super) struct VerifyProofArgs {
    /// File that `bench proof` has written
    proof: PathBuf,
    /// Root of the run's rows, sha256:<hex>, as its run.json states it (`results_tree.root`), from somebody who is trusted to know it
    #[arg(
        long,
        value_name = "DIGEST",
        required_unless_present = "run",
        conflicts_with = "run"
    )]
    root: Option<String>,
    /// Run folder whose run.json states the root
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
}

pub(super) fn proof(args: &ProofArgs) -> anyhow::Result<Exit> {
    let proof = RowProof::of(&RunFolder::open(&args.run), &args.item).map_err(|error| match error {
        ProofError::NoSuchRow(_) => CommandError::usage(error),
        ProofError::Run(_) | ProofError::OtherRoot => CommandError::invalid_data(error),
    })?;
    let text = serde_json::to_string_pretty(&proof)? + "\n";
    write_to(Some(&args.out), || text)?;
    Ok(Exit::Done)
}

pub(super) fn verify(args: &VerifyProofArgs) -> anyhow::Result<Exit> {
    let mut rows = None;
    let root = match (&args.root, &args.run) {
        (Some(root), _) if digest::is_digest(root) => root.clone(),
        (Some(root), _) => {
            let message = format!("--root `{root}` is no digest: sha256: and 64 hexadecimal digits");
            return Err(CommandError::usage(message).into());
        }
        (None, Some(run)) => {
            let info = RunFolder::open(run).info().map_err(CommandError::invalid_data)?;
            let tree = info.results_tree.ok_or_else(|| {
                CommandError::invalid_data(format!(
                    "{} states no results_tree: the run is not complete, or was made by a version without it",
                    run.join("run.json").display()
                ))
            })?;
            rows = Some(tree.rows);
            tree.root
        }
        (None, None) => return Err(CommandError::usage("--root or --run says by which root").into()),
    };
    let proof: RowProof = read_json_within(&args.proof, MAX_BYTES).map_err(CommandError::invalid_data)?;
    proof
        .verify(&root)
        .map_err(|refusal| CommandError::invalid_data(format!("{}: {refusal}", args.proof.display())))?;
    // The root does not state how many rows there are, and the place follows from that number.
    if let Some(rows) = rows
        && rows != proof.tree.rows
    {
        let message = format!(
            "{}: the proof states {} rows, run.json {rows}: it was changed",
            args.proof.display(),
            proof.tree.rows
        );
        return Err(CommandError::invalid_data(message).into());
    }
    print_line(&format!(
        "{} is row {} of the {} of the run with the root {root}",
        proof.item,
        proof.index + 1,
        proof.tree.rows
    ))?;
    Ok(Exit::Done)
}
