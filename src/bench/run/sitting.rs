//! One sitting of a run: it asks what is open until all has a result or somebody stops it, and writes the results.

use std::time::Duration;

use super::{error::RunError, event::BenchEvent, state::Run};
use crate::{client::Client, errors::with_causes};

/// What a run that is stopped by the user records as the reason why items are open.
const STOPPED_BY_USER: &str = "stopped by the user";

/// What happens to open items when a sitting ends early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenItems {
    /// They stay open, so that the run can be resumed.
    Keep,
    /// They become failures and the results are written; but they stay open where no item has a result yet.
    Fail,
}

/// How a sitting is done.
#[derive(Debug, Clone, Copy)]
pub struct SittingOptions {
    /// How long to go on trying while the server gives no result.
    pub retry_for: Duration,
    /// What happens to open items when the sitting ends early.
    pub open_items: OpenItems,
}

/// Why a sitting ended before every item had a result.
#[derive(Debug)]
pub enum EarlyEnd {
    /// The user stopped it.
    Stopped,
    /// The run could not go on.
    Failed(RunError),
}

/// How a sitting ended.
#[derive(Debug)]
pub enum SittingEnd {
    /// Every item has a result, and the results are written.
    Complete,
    /// It ended early; open items were written as failures.
    CompleteWithOpenItems(EarlyEnd),
    /// It ended early; nothing was written, and the run can be resumed.
    Resumable(EarlyEnd),
}

/// Drives a run until every item has a result, it cannot go on, or `stop` is ready; then writes the results, unless open items
/// are kept for a later sitting.
///
/// # Errors
/// When the results cannot be written, or the journal cannot be read. An error while driving is in [`EarlyEnd::Failed`].
pub async fn sit(
    client: &Client,
    mut run: Run,
    options: SittingOptions,
    stop: impl Future<Output = ()>,
    on_event: &mut dyn FnMut(BenchEvent),
) -> Result<SittingEnd, RunError> {
    let driven = tokio::select! {
        driven = run.drive(client, options.retry_for, on_event) => Some(driven),
        () = stop => None,
    };
    let early = match driven {
        Some(Ok(())) => {
            run.complete(None)?;
            return Ok(SittingEnd::Complete);
        }
        Some(Err(error)) => EarlyEnd::Failed(error),
        None => EarlyEnd::Stopped,
    };
    if options.open_items == OpenItems::Keep || run.recorded_judgements()?.is_empty() {
        return Ok(SittingEnd::Resumable(early));
    }
    let reason = match &early {
        EarlyEnd::Stopped => STOPPED_BY_USER.to_owned(),
        EarlyEnd::Failed(error) => with_causes(error),
    };
    run.complete(Some(&reason))?;
    Ok(SittingEnd::CompleteWithOpenItems(early))
}
