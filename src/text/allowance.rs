//! Limits on encoding: the number of tokens, and whether the caller still waits.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::error::{TokenCount, TokenizerError};

/// Bytes of text between two checks of a [`Watch`].
const CHECK_BYTES: usize = 4 << 10;

/// Tokens are counted up to this many times the allowed number, so that the caller learns by how much a text is too long.
/// Of longer texts only a lower bound is known.
const COUNTED: usize = 2;

/// Tells work on a text, on any thread, to stop, because the caller waits no longer.
#[derive(Debug, Default)]
pub struct Watch {
    cancelled: AtomicBool,
    deadline: Option<Instant>,
}

impl Watch {
    /// A watch that is over at the deadline, if there is one, or when it is cancelled.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            deadline,
        }
    }

    /// Tells the work to stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether the work should stop now.
    pub fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.deadline.is_some_and(|at| Instant::now() >= at)
    }
}

/// How many tokens a text may have, and whether the caller still waits for them.
#[derive(Debug, Clone, Copy)]
pub struct Allowance<'a> {
    /// Most tokens of the whole text.
    pub tokens: usize,
    /// Checked every few KiB of text.
    pub watch: &'a Watch,
}

impl Allowance<'_> {
    /// Checks the least numbers of tokens of the parts of a text.
    ///
    /// # Errors
    /// [`TokenizerError::TooLong`] when the parts together have too many tokens.
    pub fn least(&self, parts: impl Iterator<Item = usize>) -> Result<(), TokenizerError> {
        let least = parts.fold(0, usize::saturating_add);
        if least > self.tokens {
            return Err(TokenizerError::TooLong(TokenCount::AtLeast(least)));
        }
        Ok(())
    }
}

/// Collects the tokens of a text as they are found, and stops encoding when there are too many.
pub(super) struct Meter<'a> {
    allowance: Allowance<'a>,
    ids: Vec<u32>,
    count: usize,
    /// Bytes of text since the watch was checked.
    unchecked: usize,
}

impl<'a> Meter<'a> {
    pub(super) fn new(allowance: Allowance<'a>) -> Self {
        Self {
            allowance,
            ids: Vec::new(),
            count: 0,
            unchecked: 0,
        }
    }

    /// Adds the next token. Beyond the allowed number, tokens are only counted.
    pub(super) fn push(&mut self, id: u32) {
        self.count += 1;
        if self.count <= self.allowance.tokens {
            self.ids.push(id);
        }
    }

    /// Whether this many more tokens would exceed what is counted.
    fn would_exceed(&self, more: usize) -> bool {
        self.count.saturating_add(more) > self.allowance.tokens.saturating_mul(COUNTED)
    }

    /// Announces the next bytes of text, which have at least `least` tokens.
    ///
    /// # Errors
    /// When there would be far too many tokens, or the caller waits no longer.
    pub(super) fn begin(&mut self, bytes: usize, least: usize) -> Result<(), TokenizerError> {
        if self.would_exceed(least) {
            return Err(TokenizerError::TooLong(TokenCount::AtLeast(
                self.count.saturating_add(least),
            )));
        }
        self.unchecked += bytes;
        if self.unchecked >= CHECK_BYTES {
            self.unchecked = 0;
            if self.allowance.watch.is_over() {
                return Err(TokenizerError::Stopped);
            }
        }
        Ok(())
    }

    /// The tokens, if there are not too many.
    pub(super) fn finish(self) -> Result<Vec<u32>, TokenizerError> {
        if self.count > self.allowance.tokens {
            return Err(TokenizerError::TooLong(TokenCount::Exactly(self.count)));
        }
        Ok(self.ids)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_counted_to_twice_what_is_allowed() {
        let watch = Watch::default();
        let allowance = |tokens| Allowance {
            tokens,
            watch: &watch,
        };
        let run = |allowed: usize, tokens: u32| {
            let mut meter = Meter::new(allowance(allowed));
            for id in 0..tokens {
                meter.begin(1, 1)?;
                meter.push(id);
            }
            meter.finish()
        };
        assert_eq!(run(3, 3).unwrap(), [0, 1, 2]);
        assert!(matches!(
            run(3, 4),
            Err(TokenizerError::TooLong(TokenCount::Exactly(4)))
        ));
        assert!(matches!(
            run(3, 6),
            Err(TokenizerError::TooLong(TokenCount::Exactly(6)))
        ));
        assert!(matches!(
            run(3, 99),
            Err(TokenizerError::TooLong(TokenCount::AtLeast(7)))
        ));
        let mut meter = Meter::new(allowance(3));
        assert!(matches!(
            meter.begin(100, 50),
            Err(TokenizerError::TooLong(TokenCount::AtLeast(50)))
        ));
        assert_eq!(run(usize::MAX, 5).unwrap().len(), 5);
    }

    #[test]
    fn a_watch_is_checked_every_few_kib() {
        let watch = Watch::default();
        let mut meter = Meter::new(Allowance {
            tokens: usize::MAX,
            watch: &watch,
        });
        watch.cancel();
        assert!(meter.begin(CHECK_BYTES - 1, 0).is_ok());
        assert!(matches!(meter.begin(1, 0), Err(TokenizerError::Stopped)));
        assert!(Watch::until(Some(Instant::now())).is_over());
        assert!(!Watch::until(None).is_over());
    }
}
