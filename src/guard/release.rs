//! How much of a growing text may be shown: a watermark that only rises, by the looks of a guard.
//!
//! A text is blocked by its policy in two ways. Looks at parts of it have a threshold of their own and need to be confirmed,
//! because guards are trained on whole texts and err more often on parts. The complete text is always judged, by the label that
//! the guard wrote, as an ordinary Classify is.

use std::ops::RangeInclusive;

use super::question::Label;

/// Looks in a row that rules may ask for before a part of a text is blocked.
pub const CONFIRMATIONS: RangeInclusive<u32> = 1..=8;

/// When text is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum GuardMode {
    /// When a look that covers it has passed.
    #[default]
    HoldBack,
    /// At once, and retracted if it turns out to be unsafe.
    Optimistic,
    /// At once, and never blocked.
    Observe,
}

/// What becomes of text that the guard fails to judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FailureMode {
    /// It is not released.
    #[default]
    Closed,
    /// It is released and marked as unguarded.
    Open,
}

/// By what rules a text is released.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReleaseRules {
    /// When text is released.
    pub mode: GuardMode,
    /// What becomes of text that the guard fails to judge.
    pub failure_mode: FailureMode,
    /// A look at a part of the text finds it unsafe if its score is at least this, from 0 to 1.
    pub interim_threshold: f64,
    /// Looks at parts that find the text unsafe, one after another, before it is blocked, in [`CONFIRMATIONS`].
    pub confirmations: u32,
}

impl Default for ReleaseRules {
    fn default() -> Self {
        Self {
            mode: GuardMode::default(),
            failure_mode: FailureMode::default(),
            interim_threshold: 0.5,
            confirmations: 2,
        }
    }
}

/// What a look judges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookStage {
    /// A part of the text, while it grows.
    Interim,
    /// The complete text.
    Final,
}

/// What a look has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookOutcome {
    /// Nothing unsafe.
    Passed,
    /// The text is unsafe.
    Unsafe,
    /// The guard gave a verdict that is neither.
    Undetermined,
    /// The guard gave none.
    Failed,
}

/// How it goes on after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// More looks follow.
    Continue,
    /// The text is complete and released.
    Complete,
    /// The text is blocked because it is unsafe.
    Policy,
    /// The text is blocked because the guard has failed.
    GuardFailed,
}

/// The watermark of one text.
#[derive(Debug)]
pub struct Release {
    rules: ReleaseRules,
    /// Bytes of whole code points that have come.
    received: usize,
    released: usize,
    covered: usize,
    judged: usize,
    unsafe_in_a_row: u32,
    unguarded: bool,
}

impl Release {
    /// The watermark of a text of which nothing has come.
    pub fn new(rules: ReleaseRules) -> Self {
        Self {
            rules,
            received: 0,
            released: 0,
            covered: 0,
            judged: 0,
            unsafe_in_a_row: 0,
            unguarded: false,
        }
    }

    /// Bytes of the text, from its beginning, that may be shown. It never falls, and is at the end of a code point.
    pub fn released(&self) -> usize {
        self.released
    }

    /// Bytes of the text, from its beginning, that a look which passed covers.
    pub fn covered(&self) -> usize {
        self.covered
    }

    /// Bytes of the text at the last look, whatever it found.
    pub fn judged(&self) -> usize {
        self.judged
    }

    /// Whether text was released that the guard failed to judge.
    pub fn is_unguarded(&self) -> bool {
        self.unguarded
    }

    /// The bytes to keep if the text ends without being complete: `None` if nothing has to be taken back.
    pub fn retracted_to(&self) -> Option<usize> {
        (self.rules.mode == GuardMode::Optimistic && self.released > self.covered).then_some(self.covered)
    }

    /// Notes that so many bytes of whole code points have come, at least as many as before.
    pub fn receive(&mut self, bytes: usize) {
        self.received = self.received.max(bytes);
        if self.rules.mode != GuardMode::HoldBack {
            self.released = self.received;
        }
    }

    /// What a verdict says at this stage.
    pub fn outcome(&self, stage: LookStage, label: Label, unsafe_score: Option<f64>) -> LookOutcome {
        match (stage, label, unsafe_score) {
            (_, Label::Undetermined, _) | (LookStage::Interim, _, None) => LookOutcome::Undetermined,
            (LookStage::Interim, _, Some(score)) if score >= self.rules.interim_threshold => {
                LookOutcome::Unsafe
            }
            (LookStage::Interim, _, Some(_)) | (LookStage::Final, Label::Safe, _) => LookOutcome::Passed,
            (LookStage::Final, Label::Unsafe | Label::Controversial, _) => LookOutcome::Unsafe,
        }
    }

    /// Takes what a look at the first `at` bytes has found. Looks come in rising order, and the final one last.
    pub fn look(&mut self, stage: LookStage, at: usize, outcome: LookOutcome) -> Course {
        let at = at.min(self.received);
        self.judged = self.judged.max(at);
        match outcome {
            LookOutcome::Passed => {
                self.unsafe_in_a_row = 0;
                self.covered = self.covered.max(at);
                self.released = self.released.max(at);
            }
            LookOutcome::Unsafe => self.unsafe_in_a_row += 1,
            LookOutcome::Undetermined | LookOutcome::Failed => {
                if self.opens() {
                    self.unguarded = true;
                    self.released = self.released.max(at);
                }
            }
        }
        match (outcome, stage) {
            _ if self.rules.mode == GuardMode::Observe => match stage {
                LookStage::Interim => Course::Continue,
                LookStage::Final => Course::Complete,
            },
            (LookOutcome::Passed, LookStage::Final) => Course::Complete,
            (LookOutcome::Passed, LookStage::Interim) => Course::Continue,
            (LookOutcome::Unsafe, LookStage::Final) => Course::Policy,
            (LookOutcome::Unsafe, LookStage::Interim) if self.unsafe_in_a_row >= self.rules.confirmations => {
                Course::Policy
            }
            (LookOutcome::Unsafe | LookOutcome::Undetermined, LookStage::Interim) => Course::Continue,
            (LookOutcome::Failed, LookStage::Interim) if self.rules.failure_mode == FailureMode::Open => {
                Course::Continue
            }
            (LookOutcome::Failed, LookStage::Interim) => Course::GuardFailed,
            (LookOutcome::Undetermined | LookOutcome::Failed, LookStage::Final) if self.opens() => {
                Course::Complete
            }
            (LookOutcome::Undetermined | LookOutcome::Failed, LookStage::Final) => Course::GuardFailed,
        }
    }

    /// Whether text that the guard fails to judge is released. Failing open never releases what the look before found unsafe.
    fn opens(&self) -> bool {
        match (self.rules.mode, self.rules.failure_mode) {
            (GuardMode::Observe, _) => true,
            (_, FailureMode::Open) => self.unsafe_in_a_row == 0,
            (_, FailureMode::Closed) => false,
        }
    }
}

#[cfg(test)]
#[path = "release_tests.rs"]
mod tests;
