//! The `babelward` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    babelward::cli::main()
}
