//! The two things that a run asks of a server, and how it goes on when some of it fails.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use tonic::Code;

use super::{
    BenchEvent, Run,
    answers::{self, FailureKind, Received},
    error::RunError,
    store::{Speaker, first_label},
};
use crate::{
    bench::results::{Failure, GuardOutcome, Label, Outcome},
    client::{
        ClassifyItems, Client, ClientError, ItemResult, RpcError, ScoreItems, StreamItem, StreamMethod,
        StreamOptions, StreamWork,
    },
    proto::{ClassifyRequest, ClassifyResponse, ScoreRequest, ScoreResponse},
};

/// Between two attempts at what the server did not take.
const PAUSE: Duration = Duration::from_millis(500);

/// One of the things to ask.
pub(super) trait Stage {
    type Method: StreamMethod;

    /// Slots to ask, in order.
    fn open(&self, run: &Run) -> Vec<usize>;

    fn request(&self, run: &Run, slot: usize) -> Result<<Self::Method as StreamMethod>::Request, RunError>;

    /// Keeps an answer; says what the primary guard makes of it and how many tokens it took.
    fn keep(
        &self,
        run: &mut Run,
        slot: usize,
        response: <Self::Method as StreamMethod>::Response,
    ) -> Result<Kept, RunError>;

    /// Keeps a failure that is final.
    fn fail(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError>;
}

/// What was kept of an answer.
pub(super) struct Kept {
    label: Option<Label>,
    computed_tokens: u64,
}

/// Every prompt with every seed: an answer and the first guard's verdict.
pub(super) struct Ask;

impl Stage for Ask {
    type Method = ScoreItems;

    fn open(&self, run: &Run) -> Vec<usize> {
        let mut open: Vec<_> = run.store.unasked().filter(|&slot| !run.skips(slot)).collect();
        if let Some(cells) = &run.cells {
            open.sort_by_key(|&slot| cells.turn(slot));
        }
        open
    }

    fn request(&self, run: &Run, slot: usize) -> Result<ScoreRequest, RunError> {
        let (item, seed) = run.item(slot);
        Ok(answers::score_request(item, seed, &run.info.settings))
    }

    fn keep(&self, run: &mut Run, slot: usize, response: ScoreResponse) -> Result<Kept, RunError> {
        let received = answers::scored(response).map_err(ClientError::Rpc)?;
        let outcome = Outcome::Answered(received.result);
        run.store.put_model(Speaker::Target, received.target)?;
        run.put_guard(0, received.guard)?;
        run.spend(received.cached_tokens);
        let label = first_label(&outcome);
        run.put_item(slot, outcome)?;
        Ok(Kept {
            label,
            computed_tokens: received.computed_tokens,
        })
    }

    fn fail(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError> {
        run.spend(0);
        run.put_item(slot, Outcome::Failed(failure))
    }
}

/// Every answer once more, by a guard that has not judged it.
pub(super) struct Judge {
    pub(super) guard: usize,
}

impl Stage for Judge {
    type Method = ClassifyItems;

    fn open(&self, run: &Run) -> Vec<usize> {
        run.store
            .unjudged(self.guard)
            .filter(|&slot| !run.skips(slot))
            .collect()
    }

    fn request(&self, run: &Run, slot: usize) -> Result<ClassifyRequest, RunError> {
        let (item, _) = run.item(slot);
        let text = match run.store.outcome(slot)? {
            Some(Outcome::Answered(answer)) => answer.text.unwrap_or_default(),
            _ => String::new(),
        };
        Ok(answers::classify_request(
            &item.prompt,
            &text,
            self.guard,
            &run.info.settings,
        ))
    }

    fn keep(&self, run: &mut Run, slot: usize, response: ClassifyResponse) -> Result<Kept, RunError> {
        let Received {
            result,
            guard,
            cached_tokens,
            computed_tokens,
            ..
        } = answers::classified(response).map_err(ClientError::Rpc)?;
        run.put_guard(self.guard, guard)?;
        run.spend(cached_tokens);
        let label = result.label;
        run.store
            .put_verdict(slot, self.guard, GuardOutcome::Judged(result))?;
        Ok(Kept {
            label: Some(label),
            computed_tokens,
        })
    }

    fn fail(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError> {
        run.spend(0);
        run.store
            .put_verdict(slot, self.guard, GuardOutcome::Failed(failure))
    }
}

/// Asks what is open until nothing is. Items that failed in a way that may be the fault of their company are
/// asked again alone at the end, and only that counts: so results do not depend on what shared a step.
///
/// # Errors
/// [`RunError`]; [`RunError::GaveUp`] when the server has answered nothing for `retry_for`.
pub(super) async fn finish<S: Stage>(
    stage: &S,
    run: &mut Run,
    client: &Client,
    retry_for: Duration,
    on_event: &mut dyn FnMut(BenchEvent),
) -> Result<(), RunError> {
    let mut suspects = BTreeSet::new();
    for alone in [false, true] {
        let mut heard = Instant::now();
        loop {
            let is_due = |slot: &usize| suspects.contains(slot) == alone;
            let queue: VecDeque<_> = stage.open(run).into_iter().filter(is_due).collect();
            if queue.is_empty() {
                break;
            }
            let options = StreamOptions {
                window: if alone { 1 } else { run.info.settings.concurrency },
                item_timeout: None,
            };
            let mut sending = Sending {
                stage,
                run: &mut *run,
                queue,
                alone,
                kept: 0,
                suspects: BTreeSet::new(),
                postponed: None,
                error: None,
                on_event: &mut *on_event,
            };
            let ended = client.drive::<S::Method>(&mut sending, &options).await;
            let Sending {
                kept,
                suspects: found,
                postponed,
                error,
                ..
            } = sending;
            suspects.extend(found);
            run.store.sync()?;
            if let Some(error) = error {
                return Err(error);
            }
            let last = match ended {
                Ok(()) => postponed,
                Err(ClientError::StreamGaveUp { last, .. }) => Some(last),
                Err(error) => return Err(error.into()),
            };
            if kept > 0 {
                heard = Instant::now();
            }
            if let Some(last) = last {
                let waited = heard.elapsed();
                if waited >= retry_for {
                    return Err(RunError::GaveUp { waited, last });
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    Ok(())
}

/// One stream's worth of a stage.
struct Sending<'a, S> {
    stage: &'a S,
    run: &'a mut Run,
    queue: VecDeque<usize>,
    alone: bool,
    /// Results so far.
    kept: usize,
    suspects: BTreeSet<usize>,
    /// The last error of an item that the server could not take now.
    postponed: Option<RpcError>,
    /// Ends the run.
    error: Option<RunError>,
    on_event: &'a mut dyn FnMut(BenchEvent),
}

impl<S: Stage> Sending<'_, S> {
    fn take(
        &mut self,
        slot: usize,
        result: ItemResult<<S::Method as StreamMethod>::Response>,
    ) -> Result<(), RunError> {
        let language = self.run.item(slot).0.key.language;
        let error = match result {
            Ok(response) => match self.stage.keep(self.run, slot, response) {
                Ok(kept) => {
                    self.kept += 1;
                    (self.on_event)(BenchEvent::Ended {
                        language,
                        label: kept.label,
                        computed_tokens: kept.computed_tokens,
                    });
                    return Ok(());
                }
                // What the answer lacks, it lacks for this item.
                Err(RunError::Client(ClientError::Rpc(error))) => error,
                Err(error) => return Err(error),
            },
            Err(error) => error,
        };
        match FailureKind::of(&error) {
            FailureKind::Later => self.postponed = Some(error),
            FailureKind::Run => return Err(ClientError::Rpc(error).into()),
            FailureKind::PerhapsCompany if !self.alone => {
                self.suspects.insert(slot);
            }
            FailureKind::PerhapsCompany | FailureKind::Item => {
                self.stage.fail(self.run, slot, answers::failure(error))?;
                self.kept += 1;
                (self.on_event)(BenchEvent::Ended {
                    language,
                    label: None,
                    computed_tokens: 0,
                });
            }
        }
        Ok(())
    }

    fn stop(&mut self, error: RunError) {
        self.error = Some(error);
        self.queue.clear();
    }
}

impl<S: Stage> StreamWork<S::Method> for Sending<'_, S> {
    fn next(&mut self) -> Option<StreamItem<<S::Method as StreamMethod>::Request>> {
        while let Some(slot) = self.queue.pop_front() {
            if self.run.skips(slot) {
                continue;
            }
            match self.stage.request(self.run, slot) {
                Ok(request) => {
                    return Some(StreamItem {
                        id: slot.to_string(),
                        request,
                    });
                }
                Err(error) => self.stop(error),
            }
        }
        None
    }

    fn left(&self) -> usize {
        self.queue.len()
    }

    fn ended(
        &mut self,
        id: &str,
        result: ItemResult<<S::Method as StreamMethod>::Response>,
    ) -> ControlFlow<()> {
        let taken = match id.parse() {
            Ok(slot) => self.take(slot, result),
            // The driver hands back only ids that it was given.
            Err(_) => Err(ClientError::Protocol(format!("an answer for `{id}`")).into()),
        };
        match taken {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.stop(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// What to say of items that a run which was ended early did not get to.
pub(super) fn not_asked(reason: &str) -> Failure {
    answers::failure(RpcError::local(Code::Cancelled, "NOT_ASKED", reason))
}
