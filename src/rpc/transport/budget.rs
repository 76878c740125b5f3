//! The bytes of all requests together: what is being received, and what is being worked on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// A request of at most this many bytes may use the whole budget; larger ones leave it a quarter. So large requests that
/// never end do not shut out the ordinary ones.
const SMALL: usize = 64 << 10;

/// A budget in bytes.
#[derive(Debug)]
pub(crate) struct RequestBytes {
    limit: usize,
    used: AtomicUsize,
}

impl RequestBytes {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
        })
    }

    /// Bytes that are held now.
    #[cfg(test)]
    fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    fn take(&self, bytes: usize, limit: usize) -> bool {
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            });
        taken.is_ok()
    }
}

/// Some of a budget's bytes; they are given back when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    budget: Arc<RequestBytes>,
    bytes: usize,
}

impl HeldBytes {
    /// None yet.
    pub(crate) fn none(budget: &Arc<RequestBytes>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes more; false when the budget has no room for them.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let limit = self.budget.limit;
        let limit = if self.bytes.saturating_add(more) > SMALL {
            limit - limit / 4
        } else {
            limit
        };
        let grown = self.budget.take(more, limit);
        if grown {
            self.bytes += more;
        }
        grown
    }

    /// Some of these, to be given back by themselves.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: Arc::clone(&self.budget),
            bytes,
        }
    }

    /// Gives all back.
    pub(crate) fn clear(&mut self) {
        drop(self.split(self.bytes));
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_piece_by_piece() {
        let budget = RequestBytes::new(1000);
        let mut held = HeldBytes::none(&budget);
        assert!(held.grow(600) && held.grow(400));
        assert!(!held.grow(1), "the budget is used up");
        let message = held.split(700);
        drop(held);
        assert_eq!(budget.used(), 700);
        drop(message);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn large_requests_leave_a_quarter_to_small_ones() {
        let budget = RequestBytes::new(8 * SMALL);
        let mut large = HeldBytes::none(&budget);
        assert!(large.grow(6 * SMALL));
        assert!(!large.grow(1));
        let mut small = HeldBytes::none(&budget);
        assert!(small.grow(SMALL));
        assert!(!small.grow(1), "it is no longer small");
        assert!(HeldBytes::none(&budget).grow(SMALL));
        large.clear();
        assert!(small.grow(1));
    }
}
