//! An answer that a guard looks at while the target writes it. Both run at the same time on the engine; what the client gets is
//! decided by the same rules as in GuardStream.
//!
//! The target is not slowed down for its guard: what is decoded and not released is bounded by the longest answer, and is never
//! released to make room.

use std::{collections::VecDeque, pin::Pin};

use tokio::time::{Instant, Sleep, sleep};

use super::{
    error::ServiceError,
    generation::Generation,
    guard_end::{End, Reason},
    guarding::{Guarding, Looked},
    pieces::{CutEnd, Delta, Finished, Piece},
    sequence::WorkContext,
    validate::GuardWork,
    withheld::Withheld,
};
use crate::{
    digest,
    guard::GuardMode,
    proto::{self, generate_response::Event},
};

/// What a piece of an answer is to a client.
pub(crate) fn event_of(piece: Piece) -> Event {
    match piece {
        Piece::Started(started) => Event::Started(*started),
        Piece::Delta(delta) => Event::Delta(delta.event),
        Piece::Finished(finished) => Event::Finished(finished.event),
    }
}

/// How far the target has got.
enum Target {
    /// It writes.
    Writing,
    /// It was stopped because the answer has ended for its guard.
    Cut,
    /// Its answer is complete.
    Complete(Box<Finished>),
}

/// How the call ends once its last events are sent.
enum Over {
    /// The answer has ended for its guard, and its last event is to come.
    Ended(Box<End>),
    Well,
    Badly(ServiceError),
}

/// A guarded answer in progress.
pub(crate) struct GuardedGeneration {
    generation: Generation,
    target: Target,
    guarding: Guarding,
    withheld: Withheld,
    outbox: VecDeque<Event>,
    over: Option<Over>,
    /// Runs while text is held back, from the last event on.
    heartbeat: Pin<Box<Sleep>>,
}

/// What has happened.
enum Happening {
    Looked(Box<Looked>),
    Wrote(Result<Option<Piece>, ServiceError>),
    Heartbeat,
}

impl GuardedGeneration {
    /// Guards an answer that has been queued in this context.
    pub(crate) fn new(context: &WorkContext, generation: Generation, guard: GuardWork) -> Self {
        let guarding = Guarding::new(context.for_looks(), guard);
        Self {
            generation,
            target: Target::Writing,
            heartbeat: Box::pin(sleep(guarding.heartbeat_interval())),
            guarding,
            withheld: Withheld::default(),
            outbox: VecDeque::new(),
            over: None,
        }
    }

    /// The next event; `None` at the end. Nothing follows an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Event, ServiceError>> {
        loop {
            if let Some(event) = self.outbox.pop_front() {
                self.restart_heartbeat();
                return Some(Ok(event));
            }
            match self.over.take() {
                Some(Over::Ended(end)) => {
                    self.finish(*end).await;
                    continue;
                }
                Some(Over::Well) => return None,
                Some(Over::Badly(error)) => return Some(Err(error)),
                None => {}
            }
            self.guarding.begin_look();
            match self.happening().await {
                Happening::Looked(looked) => self.on_look(*looked),
                Happening::Wrote(piece) => self.on_piece(piece),
                Happening::Heartbeat => {
                    self.outbox.push_back(Event::Heartbeat(self.guarding.heartbeat()));
                }
            }
        }
    }

    /// Waits for the next thing to happen. The target and the looks end by the deadline, and when the server stops. While the
    /// target writes no more, a look is under way.
    async fn happening(&mut self) -> Happening {
        let is_holding = self.guarding.is_holding();
        let is_looking = self.guarding.is_looking();
        let is_writing = matches!(self.target, Target::Writing);
        tokio::select! {
            biased;
            looked = self.guarding.looked(), if is_looking => Happening::Looked(Box::new(looked)),
            piece = self.generation.next(), if is_writing || !is_looking => Happening::Wrote(piece),
            () = &mut self.heartbeat, if is_holding => Happening::Heartbeat,
        }
    }

    fn restart_heartbeat(&mut self) {
        let pause = self.guarding.heartbeat_interval();
        self.heartbeat.as_mut().reset(Instant::now() + pause);
    }

    /// Takes what the target has written.
    fn on_piece(&mut self, piece: Result<Option<Piece>, ServiceError>) {
        match piece {
            Ok(Some(Piece::Started(started))) => self.outbox.push_back(Event::Started(*started)),
            Ok(Some(Piece::Delta(delta))) => self.on_delta(delta),
            Ok(Some(Piece::Finished(finished))) => {
                self.target = Target::Complete(finished);
                self.guarding.complete();
            }
            Ok(None) => self.fail(ServiceError::ModelFailed),
            Err(error) => self.fail(error),
        }
    }

    fn on_delta(&mut self, delta: Delta) {
        let was_holding = self.guarding.is_holding();
        if self.guarding.receive(delta.event.text.as_bytes()).is_err() {
            // Text is UTF-8, so this cannot be.
            return self.fail(ServiceError::TextFault);
        }
        match self.guarding.mode() {
            GuardMode::HoldBack => self.withheld.push(delta),
            GuardMode::Optimistic | GuardMode::Observe => self.outbox.push_back(Event::Delta(delta.event)),
        }
        if !was_holding {
            self.restart_heartbeat();
        }
    }

    /// Takes what a look has found.
    fn on_look(&mut self, looked: Looked) {
        let found = match self.guarding.take(looked) {
            Ok(found) => found,
            Err(error) => return self.fail_look(error),
        };
        self.outbox.push_back(Event::Look(found.look));
        let released = match &found.end {
            Some(end) if end.reason == Reason::Complete => self.withheld.take_all(),
            _ => self.withheld.take_to(self.guarding.released()),
        };
        self.outbox.extend(released.into_iter().map(Event::Delta));
        if let Some(end) = found.end {
            self.end(end);
        }
    }

    /// Ends the answer because it cannot be looked at for a reason that is not the guard's fault. Nothing is released by it.
    fn fail_look(&mut self, error: ServiceError) {
        // What is wrong with a text that a client has sent is here wrong with one that the target has written: the guard cannot
        // judge it.
        let end = End::by(&error).unwrap_or(End {
            reason: Reason::GuardFailed,
            verdict: None,
            error: Some(error),
        });
        self.end(end);
    }

    /// Ends the answer with an error of the target. Nothing is released by it. A target that fails ends it without an end for the
    /// guard.
    fn fail(&mut self, error: ServiceError) {
        match End::by(&error).filter(|end| end.reason != Reason::GuardFailed) {
            Some(end) => self.end(end),
            None => {
                self.retract();
                self.guarding.count_end("target_failed");
                self.over = Some(Over::Badly(error));
            }
        }
    }

    /// Ends the answer for its guard. The target computes no step of it that begins later.
    fn end(&mut self, end: End) {
        if end.reason != Reason::Complete {
            self.retract();
        }
        if matches!(self.target, Target::Writing) {
            self.generation.cut();
            self.target = Target::Cut;
        }
        self.over = Some(Over::Ended(Box::new(end)));
    }

    fn retract(&mut self) {
        let retraction = self.guarding.retraction();
        self.outbox.extend(retraction.map(Event::Retracted));
    }

    /// Makes the last event, after the blocks of the target are free.
    async fn finish(&mut self, end: End) {
        let is_whole = end.reason == Reason::Complete;
        let (mut event, computed_after) = match std::mem::replace(&mut self.target, Target::Cut) {
            Target::Complete(finished) if is_whole => (finished.event, None),
            Target::Complete(finished) => {
                let event = proto::GenerateFinished {
                    finish_reason: proto::FinishReason::Guard.into(),
                    stop_sequence: String::new(),
                    ..finished.event
                };
                (event, Some(0))
            }
            Target::Writing | Target::Cut => {
                let CutEnd {
                    event,
                    computed_after,
                } = self.generation.cut_end().await;
                (event, computed_after)
            }
        };
        if matches!(end.reason, Reason::Policy | Reason::GuardFailed) {
            event.decoded_after_detection = computed_after.map(super::provenance::count);
        }
        let text = self.guarding.text().text();
        // In every mode what is released was sent.
        let sent = text.get(..self.guarding.released()).unwrap_or(text);
        event.text_digest = digest::of_bytes(sent);
        event.guard = Some(self.guarding.end(&end));
        self.outbox.push_back(Event::Finished(event));
        self.over = Some(match end.error {
            Some(error) => Over::Badly(error),
            None => Over::Well,
        });
    }
}
