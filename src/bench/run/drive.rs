//! Sends what a run still has to ask: first every prompt to the target, then every answer to the guards that have not
//! judged it. Says also what happens to items that fail on the way.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::ControlFlow,
    time::{Duration, Instant},
};

use super::{
    answers::{self, FailureKind, Received},
    error::RunError,
    event::BenchEvent,
    state::Run,
    store::{RunRole, first_label},
};
use crate::{
    bench::results::{Failure, GuardOutcome, Label, Origin, Outcome},
    client::{
        ClassifyItems, Client, ClientError, ItemResult, RpcError, ScoreItems, StreamItem, StreamMethod,
        StreamOptions, StreamWork,
    },
    proto::{ClassifyRequest, ClassifyResponse, ScoreRequest, ScoreResponse},
};

/// Time between two attempts at items that the server could not take.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

impl Run {
    /// Asks everything that is open and waits for it. The future may be dropped at any time: what has been recorded stays.
    /// While the server answers nothing, sending is repeated for `retry_for`.
    ///
    /// # Errors
    /// [`RunError`]. Items that failed are results and no errors.
    pub async fn drive(
        &mut self,
        client: &Client,
        retry_for: Duration,
        on_event: &mut dyn FnMut(BenchEvent),
    ) -> Result<(), RunError> {
        self.began = Instant::now();
        if self.info.origin == Origin::Run {
            finish(&ScoreStage, self, client, retry_for, on_event).await?;
        }
        for guard in 0..self.info.settings.guards.len() {
            finish(&JudgeStage { guard }, self, client, retry_for, on_event).await?;
        }
        Ok(())
    }
}

/// One kind of request that a run sends for each of its slots.
trait Stage {
    type Method: StreamMethod;

    /// Slots that have no result of this stage yet, in sending order.
    fn open_slots(&self, run: &Run) -> Vec<usize>;

    fn request(&self, run: &Run, slot: usize) -> Result<<Self::Method as StreamMethod>::Request, RunError>;

    /// Writes a response into the run's journal.
    fn record(
        &self,
        run: &mut Run,
        slot: usize,
        response: <Self::Method as StreamMethod>::Response,
    ) -> Result<Recorded, RunError>;

    /// Writes a final failure into the run's journal.
    fn record_failure(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError>;
}

/// What a recorded response adds to the progress of a run.
struct Recorded {
    /// Verdict of the primary guard; `None` where its judgement failed.
    label: Option<Label>,
    /// Tokens that the server computed for it.
    computed_tokens: u64,
}

/// Asks the target for an answer to every prompt with every seed, and the first guard for its verdict, in one request.
struct ScoreStage;

impl Stage for ScoreStage {
    type Method = ScoreItems;

    fn open_slots(&self, run: &Run) -> Vec<usize> {
        let mut open: Vec<_> = run.store.unasked().filter(|&slot| !run.skips(slot)).collect();
        if let Some(cells) = &run.cells {
            open.sort_by_key(|&slot| cells.sending_rank(slot));
        }
        open
    }

    fn request(&self, run: &Run, slot: usize) -> Result<ScoreRequest, RunError> {
        let (item, seed) = run.item(slot);
        Ok(answers::score_request(item, seed, &run.info.settings))
    }

    fn record(&self, run: &mut Run, slot: usize, response: ScoreResponse) -> Result<Recorded, RunError> {
        let received = answers::read_score(response).map_err(ClientError::Rpc)?;
        let outcome = Outcome::Answered(received.result);
        run.store.put_model(RunRole::Target, received.target)?;
        run.record_guard(0, received.guard)?;
        run.add_usage(received.cached_tokens);
        let label = first_label(&outcome);
        run.record_item(slot, outcome)?;
        Ok(Recorded {
            label,
            computed_tokens: received.computed_tokens,
        })
    }

    fn record_failure(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError> {
        run.add_usage(0);
        run.record_item(slot, Outcome::Failed(failure))
    }
}

/// Asks one guard about every answer that it has not judged yet.
struct JudgeStage {
    /// Number of the guard in the run's settings.
    guard: usize,
}

impl Stage for JudgeStage {
    type Method = ClassifyItems;

    fn open_slots(&self, run: &Run) -> Vec<usize> {
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

    fn record(&self, run: &mut Run, slot: usize, response: ClassifyResponse) -> Result<Recorded, RunError> {
        let Received {
            result,
            guard,
            cached_tokens,
            computed_tokens,
            ..
        } = answers::read_verdict(response).map_err(ClientError::Rpc)?;
        run.record_guard(self.guard, guard)?;
        run.add_usage(cached_tokens);
        let label = result.label;
        run.store
            .put_verdict(slot, self.guard, GuardOutcome::Judged(result))?;
        Ok(Recorded {
            label: Some(label),
            computed_tokens,
        })
    }

    fn record_failure(&self, run: &mut Run, slot: usize, failure: Failure) -> Result<(), RunError> {
        run.add_usage(0);
        run.store
            .put_verdict(slot, self.guard, GuardOutcome::Failed(failure))
    }
}

/// Sends the open slots of a stage until none is left. Items whose failure may come from another item of the same
/// batch are sent again at the end, one at a time, and only that result counts: so results do not depend on which
/// requests shared a batch.
///
/// # Errors
/// [`RunError`]; [`RunError::GaveUp`] when the server has answered nothing for `retry_for`.
async fn finish<S: Stage>(
    stage: &S,
    run: &mut Run,
    client: &Client,
    retry_for: Duration,
    on_event: &mut dyn FnMut(BenchEvent),
) -> Result<(), RunError> {
    let mut repeat_alone = BTreeSet::new();
    for alone in [false, true] {
        let mut last_result = Instant::now();
        loop {
            let belongs_here = |slot: &usize| repeat_alone.contains(slot) == alone;
            let queue: VecDeque<_> = stage.open_slots(run).into_iter().filter(belongs_here).collect();
            if queue.is_empty() {
                break;
            }
            let options = StreamOptions {
                window: if alone { 1 } else { run.info.settings.concurrency },
                item_timeout: None,
            };
            let mut stream = StageStream {
                stage,
                run: &mut *run,
                queue,
                alone,
                recorded: 0,
                repeat_alone: BTreeSet::new(),
                unavailable: None,
                error: None,
                on_event: &mut *on_event,
            };
            let ended = client.drive::<S::Method>(&mut stream, &options).await;
            let StageStream {
                recorded,
                repeat_alone: found,
                unavailable,
                error,
                ..
            } = stream;
            repeat_alone.extend(found);
            run.store.sync()?;
            if let Some(error) = error {
                return Err(error);
            }
            let last = match ended {
                Ok(()) => unavailable,
                Err(ClientError::StreamGaveUp { last, .. }) => Some(last),
                Err(error) => return Err(error.into()),
            };
            if recorded > 0 {
                last_result = Instant::now();
            }
            if let Some(last) = last {
                let waited = last_result.elapsed();
                if waited >= retry_for {
                    return Err(RunError::GaveUp { waited, last });
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        }
    }
    Ok(())
}

/// The requests and responses of a stage on one stream.
struct StageStream<'a, S> {
    stage: &'a S,
    run: &'a mut Run,
    queue: VecDeque<usize>,
    alone: bool,
    /// Results that were recorded from this stream.
    recorded: usize,
    repeat_alone: BTreeSet<usize>,
    /// The last error of an item that the server could not take for the moment.
    unavailable: Option<RpcError>,
    /// Set when the whole run has to stop.
    error: Option<RunError>,
    on_event: &'a mut dyn FnMut(BenchEvent),
}

impl<S: Stage> StageStream<'_, S> {
    fn take(
        &mut self,
        slot: usize,
        result: ItemResult<<S::Method as StreamMethod>::Response>,
    ) -> Result<(), RunError> {
        let language = self.run.item(slot).0.key.language;
        let error = match result {
            Ok(response) => match self.stage.record(self.run, slot, response) {
                Ok(recorded) => {
                    self.recorded += 1;
                    (self.on_event)(BenchEvent::Ended {
                        language,
                        label: recorded.label,
                        computed_tokens: recorded.computed_tokens,
                    });
                    return Ok(());
                }
                // An incomplete response is a failure of this item alone.
                Err(RunError::Client(ClientError::Rpc(error))) => error,
                Err(error) => return Err(error),
            },
            Err(error) => error,
        };
        match FailureKind::of(&error) {
            FailureKind::Retry => self.unavailable = Some(error),
            FailureKind::StopsRun => return Err(ClientError::Rpc(error).into()),
            FailureKind::MaybeBatch if !self.alone => {
                self.repeat_alone.insert(slot);
            }
            FailureKind::MaybeBatch | FailureKind::Final => {
                self.stage
                    .record_failure(self.run, slot, answers::failure(error))?;
                self.recorded += 1;
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

impl<S: Stage> StreamWork<S::Method> for StageStream<'_, S> {
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
            // The stream hands back only ids that it was given, so this is a fault of the protocol.
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
