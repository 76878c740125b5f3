//! A growing text under a guard, whoever writes it: one look after another, the watermark that they move, and how it ends. The
//! calls that use it read or write the text and tell their clients.
//!
//! Where the looks are and what they mean is decided in [`crate::guard`]; a look itself is an ordinary Classify.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};

use super::{
    classifier::{Classifications, classify_all},
    decision::{Decided, DecidedAbout},
    error::ServiceError,
    guard_end::{End, Reason, reason_name, reason_of},
    judge::{judge, retry_when_full},
    label::label,
    sequence::WorkContext,
    validate::{ClassifiedText, ClassifyWork, GuardWork},
};
use crate::{
    engine::PrefixKeeper,
    guard::{
        Classified, Course, GrowingText, GuardMode, LookOutcome, LookPlanner, LookStage, NotUtf8, Release,
        SentMessage, Speaker,
    },
    proto::{self, guard_look},
};

/// A text between its beginning and its end. When it is dropped before that, it counts as broken off.
pub(crate) struct Guarding {
    context: WorkContext,
    work: GuardWork,
    text: GrowingText,
    planner: LookPlanner,
    release: Release,
    /// What the decision policies make of the verdict on the complete text.
    decided: Option<Decided>,
    /// The watermark that the client knows.
    announced: usize,
    /// The look under way.
    look: Option<Look>,
    /// Looks that have ended.
    looks: u32,
    /// All of the text has come.
    is_complete: bool,
    /// Its end has been counted.
    has_ended: bool,
}

/// A look under way.
struct Look {
    stage: LookStage,
    /// Bytes of the text that it judges.
    at: usize,
    judged: BoxFuture<'static, JudgedText>,
}

/// What is said of a text.
struct JudgedText {
    verdict: Result<proto::Verdict, ServiceError>,
    /// Of the complete text, by the classifiers that decision policies have thresholds of.
    classified: Vec<Classified>,
}

/// A look that has ended.
pub(crate) struct Looked {
    stage: LookStage,
    at: usize,
    judged: JudgedText,
}

/// What a look has found, and the end of the text if that is one.
pub(crate) struct Found {
    pub(crate) look: proto::GuardLook,
    pub(crate) end: Option<End>,
}

impl Guarding {
    /// A text of which nothing has come.
    pub(crate) fn new(context: WorkContext, work: GuardWork) -> Self {
        Self {
            text: GrowingText::default(),
            planner: LookPlanner::new(work.cadence),
            release: Release::new(work.rules),
            decided: None,
            announced: 0,
            look: None,
            looks: 0,
            is_complete: false,
            has_ended: false,
            context: WorkContext {
                keeper: Some(PrefixKeeper::default()),
                ..context
            },
            work,
        }
    }

    /// Who writes the text.
    pub(crate) fn role(&self) -> Speaker {
        self.work.role
    }

    /// When text is released.
    pub(crate) fn mode(&self) -> GuardMode {
        self.work.rules.mode
    }

    /// Time between two heartbeats.
    pub(crate) fn heartbeat_interval(&self) -> Duration {
        let server = self.context.shared.times.guard_heartbeat;
        self.work.heartbeat.unwrap_or(server)
    }

    /// What has come of the text.
    pub(crate) fn text(&self) -> &GrowingText {
        &self.text
    }

    /// Bytes of the text that may be shown.
    pub(crate) fn released(&self) -> usize {
        self.release.released()
    }

    /// Bytes of the text that have come since the last look.
    pub(crate) fn ahead(&self) -> usize {
        self.text.received().saturating_sub(self.release.judged())
    }

    /// Whether text has come that is not released.
    pub(crate) fn is_holding(&self) -> bool {
        self.text.received() > self.release.released()
    }

    /// Whether all of the text has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// Whether a look is under way.
    pub(crate) fn is_looking(&self) -> bool {
        self.look.is_some()
    }

    /// Takes the next bytes of the text.
    pub(crate) fn receive(&mut self, bytes: &[u8]) -> Result<(), NotUtf8> {
        self.text.push(bytes)?;
        self.release.receive(self.text.text().len());
        Ok(())
    }

    /// Notes that all of the text has come.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Begins the next look if one is due and none is under way.
    pub(crate) fn begin_look(&mut self) {
        if self.look.is_some() {
            return;
        }
        let guard = self.work.before.guard.guard().cloned();
        // A word that cannot be encoded counts as one token, and the look will say what is wrong with it. So does each word where the
        // guard's tokenizer is not known.
        let count = |word: &str| {
            let tokenizer = guard.as_ref().and_then(|guard| guard.tokenizer());
            let tokens = tokenizer.and_then(|tokenizer| tokenizer.encode_plain(word).ok());
            tokens.map_or(1, |tokens| tokens.len())
        };
        let (stage, at) = match self.planner.next(self.text.text(), count) {
            Some(at) => (LookStage::Interim, at),
            None if self.is_complete => (LookStage::Final, self.text.text().len()),
            None => return,
        };
        let mut work: ClassifyWork = self.work.before.clone();
        // Nothing is decided about a part of the text.
        work.category_probabilities &= stage == LookStage::Final;
        let text = self.text.text()[..at].to_owned();
        let classifiers = match stage {
            LookStage::Interim => Vec::new(),
            LookStage::Final => self.work.classifiers.clone(),
        };
        let classified_text = match classifiers.is_empty() {
            true => ClassifiedText::default(),
            false => ClassifiedText {
                text: text.clone(),
                field: work.fields.conversation.clone(),
            },
        };
        work.messages
            .push(Arc::new(SentMessage::plain(self.work.role, text)));
        let context = self.context.clone();
        let judged = async move {
            // What is kept in the prefix cache from one look to the next is the guard's.
            let observing = WorkContext {
                keeper: None,
                ..context.clone()
            };
            let verdict = retry_when_full(&context, || judge(&context, work.clone())).await;
            // One after the other: what classifiers take of the tenant's quota is nothing that the verdict could lack. Without a
            // verdict there is no decision.
            let classified = match verdict.is_ok() {
                true => classify_all(&observing, classifiers, &classified_text).await,
                false => Ok(Classifications::default()),
            };
            JudgedText {
                verdict,
                // Without an answer the decision says so; see the observers of a growing text.
                classified: classified.unwrap_or_default().classified,
            }
        };
        self.look = Some(Look {
            stage,
            at,
            judged: judged.boxed(),
        });
    }

    /// Waits for the look under way. Never resolves without one. Nothing is lost when the result is dropped before it resolves.
    pub(crate) async fn looked(&mut self) -> Looked {
        let Some(Look { stage, at, judged }) = &mut self.look else {
            return std::future::pending().await;
        };
        let looked = Looked {
            stage: *stage,
            at: *at,
            judged: judged.await,
        };
        self.look = None;
        looked
    }

    /// Takes what a look has found.
    ///
    /// # Errors
    /// When something else than the guard has ended the look, such as the deadline. Failing open is not for that.
    pub(crate) fn take(&mut self, looked: Looked) -> Result<Found, ServiceError> {
        let Looked { stage, at, judged } = looked;
        let JudgedText { verdict, classified } = judged;
        let (verdict, error) = match verdict {
            Ok(verdict) => (Some(verdict), None),
            Err(error) if reason_of(&error) == Some(Reason::GuardFailed) => (None, Some(error)),
            Err(error) => return Err(error),
        };
        if let (LookStage::Final, Some(verdict)) = (stage, &verdict) {
            self.decided = Some(self.work.decider.decide(DecidedAbout {
                classified: &classified,
                ..DecidedAbout::verdict(verdict)
            }));
        }
        let outcome = match &verdict {
            Some(verdict) => self
                .release
                .outcome(stage, label(verdict.label()), verdict.unsafe_score),
            None => LookOutcome::Failed,
        };
        self.looks += 1;
        let (outcome_name, outcome_value) = named(outcome);
        metrics::counter!("babelward_guard_stream_looks_total", "outcome" => outcome_name).increment(1);
        let course = self.release.look(stage, at, outcome);
        let look = proto::GuardLook {
            outcome: outcome_value.into(),
            text_bytes: at as u64,
            is_final: stage == LookStage::Final,
            verdict: verdict.clone(),
            error: error.as_ref().map(ServiceError::to_item),
        };
        let ending = |reason, error| {
            Some(End {
                reason,
                verdict,
                error,
            })
        };
        let end = match course {
            Course::Continue => None,
            Course::Complete => ending(Reason::Complete, None),
            Course::Policy => ending(Reason::Policy, None),
            Course::GuardFailed => ending(
                Reason::GuardFailed,
                Some(error.unwrap_or(ServiceError::VerdictUndetermined)),
            ),
        };
        Ok(Found { look, end })
    }

    /// How much is released, if that has risen since it was asked for.
    pub(crate) fn announcement(&mut self) -> Option<proto::GuardReleased> {
        let released = self.release.released();
        (released > self.announced).then(|| {
            self.announced = released;
            proto::GuardReleased {
                released_bytes: released as u64,
                unguarded: self.release.is_unguarded(),
            }
        })
    }

    /// What has to be taken back if the text ends here without being complete.
    pub(crate) fn retraction(&self) -> Option<proto::GuardRetracted> {
        let kept = self.release.retracted_to()?;
        Some(proto::GuardRetracted {
            kept_bytes: kept as u64,
        })
    }

    /// Says that the text is still looked at.
    pub(crate) fn heartbeat(&self) -> proto::GuardHeartbeat {
        proto::GuardHeartbeat {
            received_bytes: self.text.received() as u64,
            released_bytes: self.release.released() as u64,
        }
    }

    /// Ends the text, and counts that. A look that is under way is cancelled.
    pub(crate) fn end(&mut self, end: &End) -> proto::GuardEnded {
        self.count_end(reason_name(end.reason));
        let (decision, shadow_decisions) = match self.decided.take() {
            Some(Decided { decision, shadows }) => (decision, shadows),
            None => Default::default(),
        };
        proto::GuardEnded {
            decision,
            shadow_decisions,
            reason: end.reason.into(),
            received_bytes: self.text.received() as u64,
            released_bytes: self.release.released() as u64,
            looks: self.looks,
            unguarded: self.release.is_unguarded(),
            verdict: end.verdict.clone(),
            error: end.error.as_ref().map(ServiceError::to_item),
        }
    }

    /// Counts the end of the text by the name of its reason in metrics, once. A look that is under way is cancelled.
    pub(crate) fn count_end(&mut self, reason: &'static str) {
        self.look = None;
        if std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let unguarded = match self.release.is_unguarded() {
            true => "true",
            false => "false",
        };
        metrics::counter!("babelward_guard_stream_ended_total", "reason" => reason, "unguarded" => unguarded)
            .increment(1);
    }
}

impl Drop for Guarding {
    /// The client is gone, or the connection has ended.
    fn drop(&mut self) {
        let reason = match self.context.deadline.has_passed() {
            true => Reason::Deadline,
            false => Reason::Cancelled,
        };
        self.count_end(reason_name(reason));
    }
}

/// The name of an outcome in metrics, and its value in events.
fn named(outcome: LookOutcome) -> (&'static str, guard_look::Outcome) {
    match outcome {
        LookOutcome::Passed => ("passed", guard_look::Outcome::Passed),
        LookOutcome::Unsafe => ("unsafe", guard_look::Outcome::Unsafe),
        LookOutcome::Undetermined => ("undetermined", guard_look::Outcome::Undetermined),
        LookOutcome::Failed => ("failed", guard_look::Outcome::Failed),
    }
}
