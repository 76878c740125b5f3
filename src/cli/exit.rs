//! What the process's exit code says.

use std::{fmt, process::ExitCode};

use tonic::Code;

use crate::{
    bench::{results::FolderError, run::RunError},
    client::{ClientError, RpcError},
    config::ConfigError,
    fetch::FetchError,
    registry::RegistryError,
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// Done.
    Done,
    /// It failed.
    Failure,
    /// The command line or the configuration is wrong.
    Usage,
    /// Something unsafe was found, and `--fail-on unsafe` was given.
    Unsafe,
    /// A gate failed: something got worse by more than it may.
    Gate,
    /// It ran to its end, but some items failed.
    FailedItems,
    /// No server answers.
    Unreachable,
    /// A file is not what it should be.
    InvalidData,
    /// A verdict was needed and the guard gave none.
    Undetermined,
    /// The input was empty.
    Nothing,
    /// Out of time.
    Timeout,
    /// Stopped by the user; what was done is kept.
    Interrupted,
}

impl Exit {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failure => 1,
            Self::Usage => 2,
            Self::Unsafe => 3,
            Self::Gate => 4,
            Self::FailedItems => 5,
            Self::Unreachable => 6,
            Self::InvalidData => 7,
            Self::Undetermined => 8,
            Self::Nothing => 9,
            Self::Timeout => 124,
            Self::Interrupted => 130,
        }
    }

    /// For an error that ended a command.
    pub fn of_error(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::Failure)
    }
}

/// An error with its causes, each said once: many messages quote their cause.
pub fn told(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The error of a call that a cause is, or holds.
pub(super) fn rpc_of<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a RpcError> {
    let of_client = |error: &'a ClientError| match error {
        ClientError::Rpc(error) | ClientError::StreamGaveUp { last: error, .. } => Some(error),
        _ => None,
    };
    match cause.downcast_ref::<RunError>() {
        Some(RunError::Client(error)) => of_client(error),
        Some(RunError::GaveUp { last, .. }) => Some(last),
        Some(_) => None,
        None => cause
            .downcast_ref()
            .or_else(|| cause.downcast_ref().and_then(of_client)),
    }
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(error) = cause.downcast_ref::<CommandError>() {
        return Some(error.exit);
    }
    if let Some(error) = cause.downcast_ref::<ClientError>() {
        return Some(of_client(error));
    }
    if let Some(error) = cause.downcast_ref::<RunError>() {
        return Some(match error {
            RunError::Client(error) => of_client(error),
            RunError::GaveUp { last, .. } => of_rpc(last),
            RunError::Folder(FolderError::NotEmpty(_)) => Exit::Usage,
            RunError::ModelChanged { .. }
            | RunError::PolicyIgnored { .. }
            | RunError::NothingToResume(..)
            | RunError::NoPrompts(_)
            | RunError::NoTexts(_) => Exit::Usage,
            RunError::Journal(_)
            | RunError::Folder(_)
            | RunError::OtherPlan(_)
            | RunError::OtherResults(_) => Exit::InvalidData,
        });
    }
    if let Some(error) = cause.downcast_ref::<RpcError>() {
        return Some(of_rpc(error));
    }
    if let Some(error) = cause.downcast_ref::<ConfigError>() {
        return Some(if error.is_of_files() {
            Exit::InvalidData
        } else {
            Exit::Usage
        });
    }
    if matches!(cause.downcast_ref(), Some(FolderError::NotEmpty(_))) {
        return Some(Exit::Usage);
    }
    if let Some(error) = cause.downcast_ref::<RegistryError>() {
        return match error {
            RegistryError::NoModels
            | RegistryError::DuplicateId(_)
            | RegistryError::DuplicatePolicy(_)
            | RegistryError::UnknownBase { .. }
            | RegistryError::UnknownDevice { .. }
            | RegistryError::NoDevices
            | RegistryError::NoRole(_)
            | RegistryError::NoEstimator { .. }
            | RegistryError::OnlyEstimator { .. }
            | RegistryError::UnknownDefault { .. }
            | RegistryError::OverBudget { .. } => Some(Exit::Usage),
            RegistryError::Unreadable { .. }
            | RegistryError::Load { .. }
            | RegistryError::Tokenizer { .. }
            | RegistryError::Template { .. }
            | RegistryError::Guard { .. } => Some(Exit::InvalidData),
            RegistryError::Engine(_)
            | RegistryError::NotTaken(_)
            | RegistryError::LoadPanicked { .. }
            | RegistryError::Memory { .. }
            | RegistryError::PrefixRefused { .. }
            | RegistryError::PrefixFailed { .. } => Some(Exit::Failure),
        };
    }
    cause.is::<FetchError>().then_some(Exit::Failure)
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::BadAddress { .. } => Exit::Usage,
        ClientError::Unreachable { .. } | ClientError::Tls { .. } => Exit::Unreachable,
        ClientError::Rpc(error) => of_rpc(error),
        ClientError::StreamGaveUp { last, .. } => of_rpc(last),
        ClientError::DuplicateId(_) => Exit::InvalidData,
        ClientError::Protocol(_) => Exit::Failure,
    }
}

fn of_rpc(error: &RpcError) -> Exit {
    match error.code {
        Code::DeadlineExceeded => Exit::Timeout,
        Code::Unavailable => Exit::Unreachable,
        // What it names there is not, or is more than a message may hold: it is the value that is wrong.
        Code::InvalidArgument | Code::NotFound | Code::OutOfRange => Exit::Usage,
        _ => Exit::Failure,
    }
}

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    message: String,
}

impl CommandError {
    /// The command line asks for something that cannot be.
    pub fn usage(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Usage,
            message: message.into(),
        }
    }

    /// The input is empty: there is nothing to do, and nothing was done.
    pub fn nothing(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::Nothing,
            message: message.into(),
        }
    }

    /// A file is not what it should be.
    pub fn invalid_data(message: impl Into<String>) -> Self {
        Self {
            exit: Exit::InvalidData,
            message: message.into(),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for CommandError {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn codes_are_the_documented_ones() {
        let all = [
            (Exit::Done, 0),
            (Exit::Failure, 1),
            (Exit::Usage, 2),
            (Exit::Unsafe, 3),
            (Exit::Gate, 4),
            (Exit::FailedItems, 5),
            (Exit::Unreachable, 6),
            (Exit::InvalidData, 7),
            (Exit::Undetermined, 8),
            (Exit::Nothing, 9),
            (Exit::Timeout, 124),
            (Exit::Interrupted, 130),
        ];
        for (exit, code) in all {
            assert_eq!(exit.code(), code);
        }
        let (_, table) = include_str!("../../docs/quickstart.md")
            .split_once("| code | meaning |")
            .unwrap();
        let documented = table
            .lines()
            .filter_map(|line| line.split('|').nth(1)?.trim().parse().ok());
        assert_eq!(documented.collect::<Vec<u8>>(), all.map(|(_, code)| code));
    }

    #[test]
    fn causes_are_told_once() {
        let error = anyhow::anyhow!("disk full")
            .context("x.bin: disk full")
            .context("saving");
        assert_eq!(told(&error), "saving: x.bin: disk full");
    }

    #[test]
    fn errors_keep_their_code_under_context() {
        let rpc = |code| ClientError::Rpc(RpcError::local(code, "X", "x"));
        let cases: [(anyhow::Error, Exit); 7] = [
            (rpc(Code::DeadlineExceeded).into(), Exit::Timeout),
            (rpc(Code::Unavailable).into(), Exit::Unreachable),
            (rpc(Code::InvalidArgument).into(), Exit::Usage),
            (FolderError::NotEmpty("x".into()).into(), Exit::Usage),
            (CommandError::invalid_data("x").into(), Exit::InvalidData),
            (RegistryError::NoModels.into(), Exit::Usage),
            (anyhow::anyhow!("x"), Exit::Failure),
        ];
        for (error, exit) in cases {
            assert_eq!(Exit::of_error(&error), exit, "{error}");
            let wrapped = Err::<(), _>(error).context("while trying").unwrap_err();
            assert_eq!(Exit::of_error(&wrapped), exit, "{wrapped}");
        }
    }
}
