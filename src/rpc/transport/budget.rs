//! The budget of bytes for all requests together: those that are being received, and those that are being worked on.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Requests of at most this many bytes may use the whole budget; larger ones leave a quarter of it free. So large requests
/// that never end do not keep ordinary ones out.
const SMALL_REQUEST: usize = 64 << 10;

/// A budget of bytes, which may be a part of another.
#[derive(Debug)]
pub(crate) struct RequestBudget {
    limit: usize,
    used: AtomicUsize,
    /// The budget that also has to have the bytes.
    whole: Option<Arc<Self>>,
}

impl RequestBudget {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            whole: None,
        })
    }

    /// A part of this budget that may use at most `limit` bytes of it.
    pub(crate) fn part_of(whole: &Arc<Self>, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicUsize::new(0),
            whole: Some(Arc::clone(whole)),
        })
    }

    /// Most bytes that it has.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are held now.
    #[cfg(test)]
    fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }

    /// Takes bytes for a request of this size, from the whole budget too.
    fn take(&self, bytes: usize, size: RequestSize) -> bool {
        if !self.take_here(bytes, size) {
            return false;
        }
        let taken = self.whole.as_ref().is_none_or(|whole| whole.take(bytes, size));
        if !taken {
            self.used.fetch_sub(bytes, Ordering::AcqRel);
        }
        taken
    }

    fn take_here(&self, bytes: usize, size: RequestSize) -> bool {
        let limit = match size {
            RequestSize::Small => self.limit,
            RequestSize::Large => self.limit - self.limit / 4,
        };
        let taken = self
            .used
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
                used.checked_add(bytes).filter(|used| *used <= limit)
            });
        taken.is_ok()
    }

    fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if let Some(whole) = &self.whole {
            whole.release(bytes);
        }
    }
}

/// Whether a request is large.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestSize {
    Small,
    Large,
}

impl RequestSize {
    fn of(bytes: usize) -> Self {
        if bytes > SMALL_REQUEST {
            Self::Large
        } else {
            Self::Small
        }
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
        let size = RequestSize::of(self.bytes.saturating_add(more));
        let grown = self.budget.take(more, size);
        if grown {
            self.bytes += more;
        }
        grown
    }

    /// Takes the bytes from a part of their budget from now on. Returns `false` when the part has too few.
    pub(crate) fn charge_to(&mut self, part: &Arc<RequestBudget>) -> bool {
        // The whole budget has these bytes already.
        let charged = part.take_here(self.bytes, RequestSize::of(self.bytes));
        if charged {
            self.budget = Arc::clone(part);
        }
        charged
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

    /// Takes over the bytes of another; returns it if they are of another budget.
    pub(crate) fn absorb(&mut self, mut other: Self) -> Result<(), Self> {
        if !Arc::ptr_eq(&self.budget, &other.budget) {
            return Err(other);
        }
        self.bytes += std::mem::take(&mut other.bytes);
        Ok(())
    }

    /// Releases all bytes.
    pub(crate) fn clear(&mut self) {
        drop(self.split(self.bytes));
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.budget.release(self.bytes);
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
    fn bytes_of_one_budget_are_held_together() {
        let (budget, another) = (RequestBudget::new(1000), RequestBudget::new(1000));
        let held = |budget, bytes| {
            let mut held = HeldBytes::none(budget);
            assert!(held.grow(bytes));
            held
        };
        let mut all = held(&budget, 10);
        assert!(all.absorb(held(&budget, 20)).is_ok());
        let foreign = all.absorb(held(&another, 40));
        assert_eq!((budget.used(), another.used()), (30, 40));
        drop(foreign);
        assert_eq!((budget.used(), another.used()), (30, 0));
        drop(all);
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
