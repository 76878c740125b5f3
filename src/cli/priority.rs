//! `--priority`: which requests go first when the server is busy.

use crate::proto::Priority;

/// The flag of commands that ask for verdicts or answers.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(super) struct PriorityArg {
    /// Which requests go first when the server is busy; interactive when absent
    #[arg(long, value_enum, value_name = "CLASS")]
    priority: Option<Class>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum Class {
    /// Somebody waits for the answer.
    Interactive,
    /// Throughput matters, not latency.
    Batch,
}

impl PriorityArg {
    /// The value of the request's field.
    pub(super) fn value(self) -> i32 {
        let priority = match self.priority {
            None => Priority::Unspecified,
            Some(Class::Interactive) => Priority::Interactive,
            Some(Class::Batch) => Priority::Batch,
        };
        priority.into()
    }
}
