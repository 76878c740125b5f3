//! The budget of bytes for all requests together: those that are being received, and those that are being worked on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Requests of at most this many bytes may use the whole budget; larger ones leave a quarter of it free. So large requests
/// that never end do not keep ordinary ones out.
const SMALL_REQUEST: usize = 64 << 10;

/// A budget of bytes.
#[derive(Debug)]
pub(crate) struct RequestBudget {
    limit: usize,
    used: AtomicUsize,
}

impl RequestBudget {
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

/// Bytes of a budget, which are released when this is dropped.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    budget: Arc<RequestBudget>,
    bytes: usize,
}

impl HeldBytes {
    /// No bytes of this budget.
    pub(crate) fn none(budget: &Arc<RequestBudget>) -> Self {
        Self {
            budget: Arc::clone(budget),
            bytes: 0,
        }
    }

    /// Takes more bytes. Returns `false` when the budget has too few.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let limit = self.budget.limit;
        let limit = if self.bytes.saturating_add(more) > SMALL_REQUEST {
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

    /// Separates some of the bytes, which are then released by themselves.
    pub(crate) fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self {
            budget: Arc::clone(&self.budget),
            bytes,
        }
    }

    /// Releases all bytes.
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
    fn bytes_are_released_piece_by_piece() {
        let budget = RequestBudget::new(1000);
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
        let budget = RequestBudget::new(8 * SMALL_REQUEST);
        let mut large = HeldBytes::none(&budget);
        assert!(large.grow(6 * SMALL_REQUEST));
        assert!(!large.grow(1));
        let mut small = HeldBytes::none(&budget);
        assert!(small.grow(SMALL_REQUEST));
        assert!(!small.grow(1), "it is no longer small");
        assert!(HeldBytes::none(&budget).grow(SMALL_REQUEST));
        large.clear();
        assert!(small.grow(1));
    }
}
