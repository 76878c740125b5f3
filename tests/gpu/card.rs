//! An emulated card.

use std::sync::{
    Arc,
    atomic::{AtomicIsize, AtomicUsize, Ordering},
};

use babelward::backend::DeviceMemory;
use babelward::backend::cuda::driver::{
    Architecture, Card, CardDescription, Consequence, DriverError, Queue,
};

use crate::queue::{EmulatedQueue, Timing};

/// A card whose kernels the host runs.
pub struct EmulatedCard {
    description: CardDescription,
    timing: Timing,
    /// What is in use.
    pub state: Arc<CardState>,
}

/// What is in use of a card.
pub struct CardState {
    total: usize,
    used: AtomicUsize,
    allocations: AtomicIsize,
    host_allocations: AtomicIsize,
    replays: AtomicUsize,
}

impl EmulatedCard {
    /// A card with so many bytes of memory.
    pub fn new(timing: Timing, bytes: usize) -> Self {
        Self {
            description: CardDescription {
                name: "emulated".to_owned(),
                architecture: Architecture { major: 9, minor: 0 },
                // Few, so that attention is divided into segments only where its blocks are few.
                multiprocessors: 2,
                shared_memory: 99 << 10,
            },
            timing,
            state: Arc::new(CardState {
                total: bytes,
                used: AtomicUsize::new(0),
                allocations: AtomicIsize::new(0),
                host_allocations: AtomicIsize::new(0),
                replays: AtomicUsize::new(0),
            }),
        }
    }

    /// A card that always divides attention into segments.
    pub fn with_multiprocessors(mut self, multiprocessors: u32) -> Self {
        self.description.multiprocessors = multiprocessors;
        self
    }

    /// A card of another architecture.
    pub fn with_architecture(mut self, architecture: Architecture) -> Self {
        self.description.architecture = architecture;
        self
    }
}

impl CardState {
    /// Counts an allocation, if there is memory for it.
    pub fn take(&self, bytes: usize) -> Result<(), DriverError> {
        let used = self.used.fetch_add(bytes, Ordering::SeqCst) + bytes;
        if used > self.total {
            self.used.fetch_sub(bytes, Ordering::SeqCst);
            return Err(DriverError {
                call: "cuMemAlloc",
                reason: "out of memory".to_owned(),
                consequence: Consequence::OutOfMemory,
            });
        }
        self.allocations.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    pub fn give_back(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        self.allocations.fetch_sub(1, Ordering::SeqCst);
    }

    pub fn count_host(&self, change: isize) {
        self.host_allocations.fetch_add(change, Ordering::SeqCst);
    }

    pub fn count_replay(&self) {
        self.replays.fetch_add(1, Ordering::SeqCst);
    }

    /// Bytes in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// Allocations of the card and of the host that live.
    pub fn allocations(&self) -> (isize, isize) {
        let count = |counter: &AtomicIsize| counter.load(Ordering::SeqCst);
        (count(&self.allocations), count(&self.host_allocations))
    }

    /// How often a recording was carried out.
    pub fn replays(&self) -> usize {
        self.replays.load(Ordering::SeqCst)
    }
}

impl Card for EmulatedCard {
    fn description(&self) -> &CardDescription {
        &self.description
    }

    fn memory(&self) -> Result<DeviceMemory, DriverError> {
        Ok(DeviceMemory {
            total: self.state.total as u64,
            free: (self.state.total - self.state.used()) as u64,
        })
    }

    fn open_queue(&self) -> Result<Arc<dyn Queue>, DriverError> {
        Ok(Arc::new(EmulatedQueue::new(Arc::clone(&self.state), self.timing)))
    }
}
