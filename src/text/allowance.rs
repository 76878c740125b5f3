//! What an encoding may come to, and what ends it before it is done.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use super::TokenizerError;

/// Bytes of text between two looks at a [`Watch`].
const LOOK_BYTES: usize = 4 << 10;

/// A text is counted to its end up to this many times the tokens that are allowed, so that its writer learns by how
/// much it is too long; of a longer one it is only known that it is longer.
const COUNTED: usize = 2;

/// Tokens of a text that is too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenCount {
    /// All of them were counted.
    Exactly(usize),
    /// Counting ended before the text did.
    AtLeast(usize),
}

/// Tells work on a text, on whatever thread, that nobody waits for it any more.
#[derive(Debug, Default)]
pub struct Watch {
    cancelled: AtomicBool,
    deadline: Option<Instant>,
}

impl Watch {
    /// Over at the deadline, if there is one, or when it is cancelled.
    pub fn until(deadline: Option<Instant>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            deadline,
        }
    }

    /// The work is no longer wanted.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether the work should end now.
    pub fn is_over(&self) -> bool {
        self.cancelled.load(Ordering::Acquire) || self.deadline.is_some_and(|at| Instant::now() >= at)
    }
}

/// How many tokens a text may have, and who still waits for them.
#[derive(Debug, Clone, Copy)]
pub struct Allowance<'a> {
    /// Most tokens of the whole text.
    pub tokens: usize,
    /// Looked at every few KiB of text.
    pub watch: &'a Watch,
}

impl Allowance<'_> {
    /// # Errors
    /// When parts of a text have too many tokens, by what each has at least.
    pub fn least(&self, parts: impl Iterator<Item = usize>) -> Result<(), TokenizerError> {
        let least = parts.fold(0, usize::saturating_add);
        if least > self.tokens {
            return Err(TokenizerError::TooLong(TokenCount::AtLeast(least)));
        }
        Ok(())
    }
}

/// Takes the tokens of a text as they are found.
pub(super) struct Meter<'a> {
    allowance: Allowance<'a>,
    ids: Vec<u32>,
    count: usize,
    /// Bytes since the watch was looked at.
    unseen: usize,
}

impl<'a> Meter<'a> {
    pub(super) fn new(allowance: Allowance<'a>) -> Self {
        Self {
            allowance,
            ids: Vec::new(),
            count: 0,
            unseen: 0,
        }
    }

    /// The next token. Beyond what is allowed, tokens are only counted.
    pub(super) fn push(&mut self, id: u32) {
        self.count += 1;
        if self.count <= self.allowance.tokens {
            self.ids.push(id);
        }
    }

    /// Whether so many more tokens would be more than are counted.
    fn would_end(&self, more: usize) -> bool {
        self.count.saturating_add(more) > self.allowance.tokens.saturating_mul(COUNTED)
    }

    /// So many bytes of text come next, which have at least so many tokens.
    ///
    /// # Errors
    /// When that is far too many, or nobody waits any more.
    pub(super) fn begin(&mut self, bytes: usize, least: usize) -> Result<(), TokenizerError> {
        if self.would_end(least) {
            return Err(TokenizerError::TooLong(TokenCount::AtLeast(
                self.count.saturating_add(least),
            )));
        }
        self.unseen += bytes;
        if self.unseen >= LOOK_BYTES {
            self.unseen = 0;
            if self.allowance.watch.is_over() {
                return Err(TokenizerError::Stopped);
            }
        }
        Ok(())
    }

    /// All tokens, if they are not too many.
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
    fn a_watch_is_looked_at_every_few_kib() {
        let watch = Watch::default();
        let mut meter = Meter::new(Allowance {
            tokens: usize::MAX,
            watch: &watch,
        });
        watch.cancel();
        assert!(meter.begin(LOOK_BYTES - 1, 0).is_ok());
        assert!(matches!(meter.begin(1, 0), Err(TokenizerError::Stopped)));
        assert!(Watch::until(Some(Instant::now())).is_over());
        assert!(!Watch::until(None).is_over());
    }
}
