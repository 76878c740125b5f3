//! The command line: one file per subcommand. Data goes to stdout, everything else to stderr.

mod arguments;
mod banner;
mod bench;
mod chat_message;
mod classify;
mod collector;
mod compare;
mod completions;
mod config;
mod config_args;
mod connection;
mod data;
mod data_source;
mod decision_args;
mod demo;
mod device_error;
mod devices;
mod doctor;
mod engine_bench;
mod evidence;
mod exit;
mod failure;
mod generate;
mod global;
mod guard;
mod guard_args;
mod guard_prompts;
mod input;
mod interrupt;
mod json;
mod judge_scope;
mod keys;
mod man;
mod models;
#[cfg(feature = "cuda")]
mod nvidia;
#[cfg(not(feature = "cuda"))]
#[path = "nvidia_not_built.rs"]
mod nvidia;
mod output;
mod policies;
mod policy;
mod priority;
mod progress;
mod receipt;
mod renderings;
mod replay;
mod report;
mod score;
mod serve;
mod study_text;
mod top;
mod translate;
mod validate;
mod verify;
mod wire;

use std::{env, io, process::ExitCode};

use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use self::failure::Failure;
pub use self::{
    connection::Connection,
    device_error::{CardSearch, DeviceError, DeviceProblem},
    exit::{CommandError, Exit},
    global::Global,
    output::Format,
    wire::{ServiceOptions, registry_options, server_options},
};

/// Guard models and target models behind gRPC, and the M-ALERT benchmark against them.
#[derive(Debug, Parser)]
#[command(
    name = "babelward",
    version,
    propagate_version = true,
    infer_subcommands = false
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    global: Global,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models over gRPC
    Serve(serve::Args),
    /// Run the whole benchmark on a small model and the bundled prompts
    Demo(demo::Args),
    /// Judge text with a guard
    Classify(classify::Args),
    Evidence(evidence::Args),
    Renderings(renderings::Args),
    Guard(guard::Args),
    Verify(verify::Args),
    Replay(replay::Args),
    /// Let a target answer, streamed to the terminal
    Generate(generate::Args),
    /// Let a target answer and a guard judge the answer
    Score(score::Args),
    /// Run the benchmark against a server
    Bench(bench::Args),
    /// Check and convert prompt sets
    Data(data::Args),
    /// Make a prompt set in several languages from prompts in one
    Translate(translate::Args),
    /// Write a run's summary and report again, or compare many runs
    Report(report::Args),
    /// Compare two runs, with a gate for what must not get worse
    Compare(compare::Args),
    /// Find out how often a run's guard errs: people label some answers, and the labels are compared with its verdicts
    Validate(validate::Args),
    /// List, watch, load, unload and fetch models
    Models(models::Args),
    /// List the policies of a server, by which guards can judge
    Policies(policies::Args),
    /// Make, list and revoke API keys of a server
    Keys(keys::Args),
    /// Show or check the configuration
    Config(config::Args),
    Top(top::Args),
    /// Check this machine, or with --server a running server; every problem is shown with its fix
    ///
    /// Without --server: processor, memory, ports, configuration and model files, so that `serve` works with the same flags.
    /// With --server: connection, version, health and models of that server, which must be running.
    Doctor(doctor::Args),
    /// Print the script by which a shell completes commands and flags
    ///
    /// bash: babelward completions bash > ~/.local/share/bash-completion/completions/babelward
    ///
    /// zsh: babelward completions zsh > a file _babelward in a folder of $fpath
    ///
    /// fish: babelward completions fish > ~/.config/fish/completions/babelward.fish
    Completions(completions::Args),
    /// Write the manual as pages for `man`, one for each command
    Man(man::Args),
    /// Raw speed of a model, without a server
    #[command(hide = true)]
    EngineBench(engine_bench::Args),
    /// The prompts that a guard is given for conversations on standard input
    #[command(hide = true)]
    GuardPrompts(guard_prompts::Args),
}

/// Parses the command line and runs the subcommand.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // When stdout cannot be written there is no other way to report it.
            let _ = error.print();
            return Exit::Done.into();
        }
        Err(error) => {
            failure::print_usage(&error, env::args_os());
            return Exit::Usage.into();
        }
    };
    let format = cli.global.format;
    let server = cli.named_server();
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) if is_broken_pipe(&error) => Exit::Failure.into(),
        Err(error) => {
            let failure = Failure {
                error: &error,
                server: server.as_deref(),
            };
            failure.print(format);
            Exit::of_error(&error).into()
        }
    }
}

impl Cli {
    /// The value of `--server`, before or after the command's name.
    fn named_server(&self) -> Option<String> {
        let own = self.command.connection().and_then(Connection::named);
        own.or_else(|| self.connection.named()).map(str::to_owned)
    }

    fn run(self) -> anyhow::Result<Exit> {
        let Self {
            command,
            mut global,
            connection: before_command,
        } = self;
        global.connection = match (command.connection(), before_command.first_given()) {
            (Some(own), _) => own.clone().or(before_command),
            (None, None) => before_command,
            (None, Some(flag)) => {
                let message = format!("this command calls no server: leave {flag} out");
                return Err(CommandError::usage(message).into());
            }
        };
        run(command, &global)
    }
}

impl Command {
    /// The connection flags of a command that calls a server.
    fn connection(&self) -> Option<&Connection> {
        match self {
            Self::Classify(args) => Some(&args.connection),
            Self::Evidence(args) => Some(&args.connection),
            Self::Renderings(args) => Some(&args.connection),
            Self::Guard(args) => Some(&args.connection),
            Self::Replay(args) => Some(&args.connection),
            Self::Generate(args) => Some(&args.connection),
            Self::Score(args) => Some(&args.connection),
            Self::Translate(args) => Some(&args.connection),
            Self::Doctor(args) => Some(&args.connection),
            Self::Bench(args) => args.connection(),
            Self::Models(args) => args.connection(),
            Self::Policies(args) => Some(args.connection()),
            Self::Validate(args) => args.connection(),
            Self::Top(args) => Some(&args.connection),
            Self::Serve(_)
            | Self::Demo(_)
            | Self::Data(_)
            | Self::Report(_)
            | Self::Compare(_)
            | Self::Verify(_)
            | Self::Keys(_)
            | Self::Config(_)
            | Self::Completions(_)
            | Self::Man(_)
            | Self::EngineBench(_)
            | Self::GuardPrompts(_) => None,
        }
    }
}

fn run(command: Command, global: &Global) -> anyhow::Result<Exit> {
    match command {
        Command::Serve(args) => serve::run(args, global),
        Command::Demo(args) => demo::run(args, global),
        Command::Bench(args) => bench::run(args, global),
        Command::Data(args) => data::run(args, global),
        Command::Translate(args) => translate::run(args, global),
        Command::Report(args) => report::run(args, global),
        Command::Compare(args) => compare::run(args, global),
        Command::Validate(args) => validate::run(args, global),
        Command::Classify(args) => classify::run(args, global),
        Command::Evidence(args) => evidence::run(&args, global),
        Command::Renderings(args) => renderings::run(&args, global),
        Command::Guard(args) => guard::run(&args, global),
        Command::Verify(args) => verify::run(&args, global),
        Command::Replay(args) => replay::run(&args, global),
        Command::Generate(args) => generate::run(args, global),
        Command::Score(args) => score::run(args, global),
        Command::Models(args) => models::run(args, global),
        Command::Policies(args) => policies::run(args, global),
        Command::Keys(args) => keys::run(args, global),
        Command::Config(args) => config::run(args, global),
        Command::Doctor(args) => doctor::run(args, global),
        Command::Top(args) => top::run(&args, global),
        Command::Completions(args) => completions::run(&args, Cli::command()),
        Command::Man(args) => man::run(&args, Cli::command(), global),
        Command::EngineBench(args) => engine_bench::run(&args).map(|()| Exit::Done),
        Command::GuardPrompts(args) => guard_prompts::run(&args).map(|()| Exit::Done),
    }
}

/// Whether the reader of our output has stopped (`| head`): that is no error to report.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
