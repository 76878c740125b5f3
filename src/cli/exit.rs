//! What the process's exit code says.

use std::{error::Error, fmt, io, process::ExitCode};

use tonic::Code;

use super::{device_error::DeviceError, wire::ProtectionError};
use crate::{
    auth::KeyFileError,
    bench::{
        analysis::AnalysisError,
        import::WriteRunsError,
        json_file::JsonFileError,
        labelling::LabelError,
        results::FolderError,
        run::RunError,
        translation::{TranslateError, sets::TranslatorSetsError},
    },
    client::{ClientError, RpcError},
    config::ConfigError,
    fetch::{FetchError, SourceError},
    registry::RegistryError,
};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Exit {
    /// It did what it was asked to do.
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
    /// What was computed again differs from its receipt.
    Different,
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
            Self::Different => 10,
            Self::Timeout => 124,
            Self::Interrupted => 130,
        }
    }

    /// For an error that ended a command.
    pub fn of_error(error: &anyhow::Error) -> Self {
        if is_out_of_room(error) {
            return Self::Failure;
        }
        error.chain().find_map(of_cause).unwrap_or(Self::Failure)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Whether a file could not be written for lack of room.
pub(super) fn is_out_of_room(error: &anyhow::Error) -> bool {
    error.chain().any(lacks_room)
}

/// Whether a cause, or what it holds, is the system's error that there is no room for a file.
fn lacks_room(error: &(dyn Error + 'static)) -> bool {
    let of_system = |error: &io::Error| {
        let full = [libc::ENOSPC, libc::EDQUOT, libc::EFBIG];
        error.raw_os_error().is_some_and(|code| full.contains(&code))
    };
    let of_source = |error: &SourceError| match error {
        SourceError::Io { source, .. } => of_system(source),
        SourceError::NoRoom { .. } => true,
        _ => false,
    };
    if let Some(error) = error.downcast_ref::<FetchError>() {
        return match error {
            FetchError::Cache { reason, .. } => of_system(reason),
            FetchError::Dataset { error, .. }
            | FetchError::Model { error, .. }
            | FetchError::File { error, .. } => of_source(error),
            FetchError::NoSource { failures, .. } => failures.iter().any(|(_, error)| of_source(error)),
            FetchError::NoCacheFolder | FetchError::NotThere { .. } => false,
        };
    }
    error.downcast_ref().is_some_and(of_system)
}

/// The error of a call that a cause is, or holds.
pub(super) fn rpc_of<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a RpcError> {
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

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
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
            | RunError::NoTexts(_)
            | RunError::Plan(_)
            | RunError::EmptyShard { .. }
            | RunError::NoSuchPolicy { .. } => Exit::Usage,
            RunError::Journal(_)
            | RunError::Folder(_)
            | RunError::OtherPlan(_)
            | RunError::OtherResults(_) => Exit::InvalidData,
        });
    }
    if let Some(error) = cause.downcast_ref::<AnalysisError>() {
        return Some(of_analysis(error));
    }
    if let Some(error) = cause.downcast_ref::<WriteRunsError>() {
        return Some(match error {
            WriteRunsError::Folder(error) => of_written_folder(error),
            WriteRunsError::Report(error) => of_analysis(error),
        });
    }
    if let Some(error) = cause.downcast_ref::<LabelError>() {
        return Some(of_labels(error));
    }
    if let Some(error) = cause.downcast_ref::<TranslatorSetsError>() {
        return Some(of_translator_sets(error));
    }
    if let Some(error) = cause.downcast_ref::<TranslateError>() {
        return Some(of_translation(error));
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
            | RegistryError::NoPlace { .. }
            | RegistryError::NotDeterministic { .. }
            | RegistryError::NoDevices
            | RegistryError::NoRole(_)
            | RegistryError::NoEstimator { .. }
            | RegistryError::OnlyEstimator { .. }
            | RegistryError::NoClassifier { .. }
            | RegistryError::OnlyClassifier { .. }
            | RegistryError::OnlyGuard { .. }
            | RegistryError::UnknownDefault { .. }
            | RegistryError::OverBudget { .. } => Some(Exit::Usage),
            RegistryError::Unreadable { .. }
            | RegistryError::Load { .. }
            | RegistryError::Tokenizer { .. }
            | RegistryError::Template { .. }
            | RegistryError::Guard { .. }
            | RegistryError::Labels { .. }
            | RegistryError::Endpoint { .. }
            | RegistryError::ChangedMeanwhile { .. }
            | RegistryError::OtherFiles { .. } => Some(Exit::InvalidData),
            RegistryError::Engine(_)
            | RegistryError::NotTaken(_)
            | RegistryError::LoadPanicked { .. }
            | RegistryError::Remote(_)
            | RegistryError::Memory { .. }
            | RegistryError::PrefixRefused { .. }
            | RegistryError::PrefixFailed { .. } => Some(Exit::Failure),
        };
    }
    if cause.is::<DeviceError>() {
        return Some(Exit::Usage);
    }
    if cause.is::<ProtectionError>() || cause.is::<KeyFileError>() {
        return Some(Exit::InvalidData);
    }
    cause.is::<FetchError>().then_some(Exit::Failure)
}

fn of_client(error: &ClientError) -> Exit {
    match error {
        ClientError::BadAddress { .. } | ClientError::PlaintextToken { .. } => Exit::Usage,
        ClientError::Unreachable { .. } | ClientError::Tls { .. } => Exit::Unreachable,
        ClientError::Rpc(error) => of_rpc(error),
        ClientError::StreamGaveUp { last, .. } => of_rpc(last),
        ClientError::DuplicateId(_) => Exit::InvalidData,
        ClientError::Protocol(_) => Exit::Failure,
    }
}

fn of_written_folder(error: &FolderError) -> Exit {
    match error {
        FolderError::NotEmpty(_) => Exit::Usage,
        FolderError::Incomplete(_)
        | FolderError::Altered(_)
        | FolderError::Io { .. }
        | FolderError::Invalid { .. } => Exit::Failure,
    }
}

fn of_json_file(error: &JsonFileError) -> Exit {
    match error {
        JsonFileError::Io { .. } => Exit::Failure,
        JsonFileError::Invalid { .. } => Exit::InvalidData,
    }
}

fn of_analysis(error: &AnalysisError) -> Exit {
    match error {
        AnalysisError::Run(_) | AnalysisError::Scores(_) | AnalysisError::Models { .. } => Exit::InvalidData,
        AnalysisError::Labels(error) => of_labels(error),
        AnalysisError::ModelsFile(error) => of_json_file(error),
        AnalysisError::NoSuchGuard { .. } => Exit::Usage,
        AnalysisError::WriteRun(_)
        | AnalysisError::Write { .. }
        | AnalysisError::Page(_)
        | AnalysisError::Figures(_) => Exit::Failure,
    }
}

fn of_labels(error: &LabelError) -> Exit {
    match error {
        LabelError::Run(_)
        | LabelError::NothingToDraw
        | LabelError::SampleLine { .. }
        | LabelError::EmptySample
        | LabelError::Sheet { .. }
        | LabelError::NotSampled { .. }
        | LabelError::NobodyLabelled
        | LabelError::NoSuchItem(_)
        | LabelError::NotLabelled(_)
        | LabelError::UnknownGuard
        | LabelError::Fit(_)
        | LabelError::NoSuchStratum { .. } => Exit::InvalidData,
        LabelError::File(error) => of_json_file(error),
        LabelError::Out(error) => of_written_folder(error),
        LabelError::NoSample { .. }
        | LabelError::Io { .. }
        | LabelError::WriteRun(_)
        | LabelError::Json(_)
        | LabelError::Listen { .. }
        | LabelError::Serve(_) => Exit::Failure,
    }
}

fn of_translator_sets(error: &TranslatorSetsError) -> Exit {
    match error {
        TranslatorSetsError::NoFolder(_)
        | TranslatorSetsError::Twice(_)
        | TranslatorSetsError::Unknown { .. }
        | TranslatorSetsError::TooFew => Exit::Usage,
        TranslatorSetsError::Dataset(_)
        | TranslatorSetsError::NothingInCommon
        | TranslatorSetsError::Scores(_) => Exit::InvalidData,
        TranslatorSetsError::Io { .. } | TranslatorSetsError::Write(_) | TranslatorSetsError::Json(_) => {
            Exit::Failure
        }
    }
}

fn of_translation(error: &TranslateError) -> Exit {
    match error {
        TranslateError::NoSourceLanguage { .. }
        | TranslateError::ServedTwice(_)
        | TranslateError::ServedAndImported(_)
        | TranslateError::Prompt(_)
        | TranslateError::NotAnEstimator(_)
        | TranslateError::ScoredTwice { .. } => Exit::Usage,
        TranslateError::Import(_)
        | TranslateError::BadName { .. }
        | TranslateError::TranslatedTwice { .. } => Exit::InvalidData,
        TranslateError::Model { source, .. } | TranslateError::Estimator { source, .. } => of_client(source),
        TranslateError::Io { .. } | TranslateError::Json(_) => Exit::Failure,
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

/// What a [`CommandError`] is about: a message, or another error with causes of its own.
type Reason = Box<dyn Error + Send + Sync>;

/// An error with an exit code of its own.
#[derive(Debug)]
pub struct CommandError {
    exit: Exit,
    /// Its message is this error's message, and its cause this error's cause.
    reason: Reason,
}

impl CommandError {
    /// The command line asks for something that cannot be.
    pub fn usage(reason: impl Into<Reason>) -> Self {
        Self {
            exit: Exit::Usage,
            reason: reason.into(),
        }
    }

    /// The input is empty: there is nothing to do, and nothing was done.
    pub fn nothing(reason: impl Into<Reason>) -> Self {
        Self {
            exit: Exit::Nothing,
            reason: reason.into(),
        }
    }

    /// A file is not what it should be.
    pub fn invalid_data(reason: impl Into<Reason>) -> Self {
        Self {
            exit: Exit::InvalidData,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl Error for CommandError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.reason.source()
    }
}

#[cfg(test)]
mod tests {
    use std::{io, path::Path};

    use anyhow::Context as _;

    use super::*;
    use crate::{
        bench::{
            dataset::{Dataset, DatasetError},
            journal::JournalError,
            table::TableError,
        },
        engine::{AddModelError, SequenceError},
        gguf::GgufError,
        guard::{GuardError, PolicyFileError},
        model::{AdapterError, LoadError},
    };

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
            (Exit::Different, 10),
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

    fn broken_disk() -> io::Error {
        io::Error::other("the disk is broken")
    }

    /// Errors as they arrive at the top, each with causes beneath it.
    fn errors_with_causes() -> Vec<anyhow::Error> {
        let folder = || FolderError::Io {
            path: "run/plan.jsonl".into(),
            source: broken_disk(),
        };
        let journal = JournalError::Io {
            path: "run/journal.jsonl".into(),
            source: broken_disk(),
        };
        let table = || TableError::Io {
            path: "prompts.csv".into(),
            source: broken_disk(),
        };
        let gguf = GgufError::Io {
            path: "model.gguf".into(),
            source: broken_disk(),
        };
        let policy = PolicyFileError::Unreadable {
            path: "policy.toml".into(),
            source: broken_disk(),
        };
        let of_model = |source| RegistryError::Load {
            id: "m".into(),
            source,
        };
        let weights = of_model(LoadError::Io {
            path: "model.gguf".into(),
            source: broken_disk(),
        });
        let adapter = of_model(LoadError::Adapter {
            path: "adapter".into(),
            source: AdapterError::Unsupported("an adapter of kind IA3".into()),
        });
        let prefix = RegistryError::PrefixFailed {
            id: "m".into(),
            source: SequenceError::ModelFailed("it broke".into()),
        };
        let guard = RegistryError::Guard {
            id: "m".into(),
            source: GuardError::Unsuitable("it has no verdict tokens".into()),
        };
        let path = Path::new("/nonexistent/prompts.csv");
        vec![
            folder().into(),
            RunError::Journal(journal).into(),
            RunError::Folder(folder()).into(),
            CommandError::invalid_data(folder()).into(),
            CommandError::invalid_data(table()).into(),
            CommandError::invalid_data(DatasetError::from(table())).into(),
            CommandError::invalid_data(Dataset::read(path).map(drop).expect_err("there is none")).into(),
            gguf.into(),
            policy.into(),
            weights.into(),
            adapter.into(),
            prefix.into(),
            guard.into(),
            RegistryError::NotTaken(AddModelError::Limits(broken_disk())).into(),
        ]
    }

    #[test]
    fn no_error_repeats_its_cause() {
        for error in errors_with_causes() {
            let shown: Vec<_> = error.chain().map(ToString::to_string).collect();
            assert!(shown.len() > 1, "{error:#} has no cause");
            for pair in shown.windows(2) {
                assert!(!pair[0].contains(&pair[1]), "{error:#}");
            }
        }
    }

    #[test]
    fn an_error_with_an_exit_code_keeps_its_causes() {
        let error: anyhow::Error = CommandError::invalid_data(FolderError::Io {
            path: "run/plan.jsonl".into(),
            source: broken_disk(),
        })
        .into();
        let shown = format!("{:#}", error.context("resuming"));
        assert_eq!(
            shown,
            "resuming: cannot read or write run/plan.jsonl: the disk is broken"
        );
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
