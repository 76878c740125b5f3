//! A fixed pool of compute threads for short parallel regions.
//!
//! A step runs a few hundred regions of some tens of microseconds, so idle workers spin briefly before they
//! sleep. The caller is worker 0. Each worker has a share of neighbouring pieces, the same one in every region of so
//! many pieces, so that rows that it has written are in its own cache when it reads them; one that is done takes from
//! the others' shares. No result depends on which worker took a piece.

use std::{
    hint::spin_loop,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering},
    },
    thread::JoinHandle,
};

/// Rounds of spinning before a worker sleeps: some tens of microseconds.
const SPINS: usize = if cfg!(miri) { 5 } else { 20_000 };

/// The pool. Regions are run one at a time, from one thread.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// `epoch << 17 | OPEN | active`: the number of the region, whether workers may still enter it, and how
    /// many are inside. One word, so that nobody enters a region that its caller is about to leave.
    state: AtomicU64,
    /// The region's job, as a pointer to a [`Job`] on the caller's stack.
    job: AtomicPtr<Job<'static>>,
    /// Of each worker.
    shares: Vec<Share>,
    panicked: AtomicBool,
    stop: AtomicBool,
    /// Workers that sleep or are about to. It grows under the lock and before `state` is looked at for the last
    /// time, and a region looks at it after it has set `state`: one of the two sees the other.
    sleepers: AtomicUsize,
    falling_asleep: Mutex<()>,
    wake: Condvar,
}

const OPEN: u64 = 1 << 16;
const ACTIVE: u64 = OPEN - 1;

fn epoch(state: u64) -> u64 {
    state >> 17
}

struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    order: Order,
}

/// In which order pieces are begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Each worker begins with the first of its share.
    Forwards,
    /// Each worker begins with the last of its share: where later pieces take longer, so that all end together.
    Backwards,
    /// All workers take them from the first to the last, without shares: where pieces wait for earlier ones.
    Together,
}

/// A worker's pieces of a region, in a line of the cache of its own.
#[derive(Default)]
#[repr(align(64))]
struct Share {
    /// The first piece.
    start: AtomicUsize,
    /// How many there are.
    count: AtomicUsize,
    /// How many have been begun, or more.
    begun: AtomicUsize,
}

impl Share {
    fn set(&self, pieces: Range<usize>) {
        self.start.store(pieces.start, Ordering::Relaxed);
        self.count.store(pieces.len(), Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
    }

    fn work(&self, job: &Job<'_>) {
        let (start, count) = (
            self.start.load(Ordering::Relaxed),
            self.count.load(Ordering::Relaxed),
        );
        // Looked at first: counting is what costs, and most shares are done when others come.
        while self.begun.load(Ordering::Relaxed) < count {
            let index = self.begun.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            (job.run)(match job.order {
                Order::Forwards | Order::Together => start + index,
                Order::Backwards => start + count - 1 - index,
            });
        }
    }
}

impl ThreadPool {
    /// A pool of `threads` workers in all, the caller included; at least 1.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.clamp(1, ACTIVE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            shares: std::iter::repeat_with(Share::default).take(threads).collect(),
            panicked: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            falling_asleep: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut workers = Vec::new();
        for index in 1..threads {
            let shared = Arc::clone(&shared);
            let name = format!("compute-{index}");
            workers.push(
                std::thread::Builder::new()
                    .name(name)
                    .spawn(move || shared.serve(index))?,
            );
        }
        Ok(Self { shared, workers })
    }

    /// Number of workers, the caller included.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Runs `run(0)`, …, `run(count - 1)` and returns when all are done. A worker that the system does not schedule in
    /// time is not waited for: the others take its share.
    ///
    /// # Panics
    /// When `run` panicked on any worker.
    pub fn run(&mut self, count: usize, run: &(dyn Fn(usize) + Sync)) {
        self.run_in(Order::Forwards, count, run);
    }

    /// [`Self::run`] in an order.
    pub(super) fn run_in(&mut self, order: Order, count: usize, run: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || count <= 1 {
            return (0..count).for_each(run);
        }
        let job = Job { run, order };
        let threads = self.threads();
        for (worker, share) in self.shared.shares.iter().enumerate() {
            share.set(match order {
                Order::Forwards | Order::Backwards => {
                    worker * count / threads..(worker + 1) * count / threads
                }
                Order::Together if worker == 0 => 0..count,
                Order::Together => 0..0,
            });
        }
        let shared = &*self.shared;
        shared
            .job
            .store(std::ptr::from_ref(&job).cast_mut().cast(), Ordering::Relaxed);
        let next = (epoch(shared.state.load(Ordering::Relaxed)) + 1) << 17;
        shared.state.store(next | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            shared.wake_all();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.work(0, &job)));
        // `job` lives on this stack frame: close the region, then wait for those inside.
        shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        spin_while(|| shared.state.load(Ordering::Acquire) & ACTIVE > 0);
        let panicked = shared.panicked.swap(false, Ordering::Relaxed);
        if let Err(payload) = outcome {
            std::panic::resume_unwind(payload);
        }
        if panicked {
            std::panic::resume_unwind(Box::new("a compute thread panicked"));
        }
    }

    /// Runs `run` on neighbouring parts of `0..len`, each of `step` but for the last.
    pub(super) fn run_parts(&mut self, len: usize, step: usize, run: &(dyn Fn(Range<usize>) + Sync)) {
        self.run(len.div_ceil(step), &|part| {
            run(part * step..len.min((part + 1) * step));
        });
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.falling_asleep.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes those that sleep, once nobody is between a last look and its sleep.
    fn wake_all(&self) {
        drop(self.lock());
        self.wake.notify_all();
    }

    fn serve(&self, worker: usize) {
        let mut seen = 0;
        loop {
            seen = self.wait_for_region(seen);
            if self.stop.load(Ordering::Acquire) {
                return;
            }
            if !self.enter(seen) {
                continue;
            }
            let job = self.job.load(Ordering::Acquire);
            // SAFETY: this worker is counted in `state` as inside the open region, so `ThreadPool::run`,
            // which stored the pointer before it opened the region, does not return before the count falls.
            let job = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| self.work(worker, job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// A worker's own share, and what is left of the others'.
    fn work(&self, worker: usize, job: &Job<'_>) {
        let (before, own) = self.shares.split_at(worker);
        own.iter().chain(before).for_each(|share| share.work(job));
    }

    /// Counts this worker in, unless the region has closed.
    fn enter(&self, region: u64) -> bool {
        let mut state = self.state.load(Ordering::Acquire);
        while epoch(state) == region && state & OPEN != 0 {
            match self
                .state
                .compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return true,
                Err(now) => state = now,
            }
        }
        false
    }

    fn wait_for_region(&self, seen: u64) -> u64 {
        for _ in 0..SPINS {
            let now = epoch(self.state.load(Ordering::SeqCst));
            if now != seen {
                return now;
            }
            spin_loop();
        }
        let mut guard = self.lock();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        loop {
            let now = epoch(self.state.load(Ordering::SeqCst));
            if now != seen {
                self.sleepers.fetch_sub(1, Ordering::SeqCst);
                return now;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.state.fetch_add(1 << 17, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Waits until other pieces of the same region have counted to `count`. They must have been begun, so a piece may only
/// wait for pieces of smaller index in a region whose order is [`Order::Together`], and they must count even when they
/// panic.
pub(super) fn wait_for(counter: &AtomicUsize, count: usize) {
    spin_while(|| counter.load(Ordering::Acquire) < count);
}

fn spin_while(waiting: impl Fn() -> bool) {
    let mut spins = 0usize;
    while waiting() {
        spins += 1;
        if spins.is_multiple_of(SPINS) {
            std::thread::yield_now()
        } else {
            spin_loop()
        }
    }
}

/// A mutable slice whose disjoint parts are written by several workers.
pub(super) struct DisjointSlices<'a, T> {
    start: *mut T,
    len: usize,
    _slice: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: a `DisjointSlices` only hands out parts through the unsafe `part`, whose caller promises that no two live
// parts overlap; that is what makes sending `&mut` parts to other threads sound.
unsafe impl<T: Send> Sync for DisjointSlices<'_, T> {}

impl<'a, T> DisjointSlices<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            _slice: std::marker::PhantomData,
        }
    }

    /// Part `offset..offset + len`.
    ///
    /// # Safety
    /// No other part that overlaps this one may be alive.
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are the purpose; the contract above makes it sound"
    )]
    pub(super) unsafe fn part(&self, offset: usize, len: usize) -> &mut [T] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: in bounds by the assertion; exclusive by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// Pointer to the first of `count` elements `stride` apart, all of them inside.
    pub(super) fn strided(&self, offset: usize, count: usize, stride: usize) -> *mut T {
        let last = (count.saturating_sub(1) * stride).checked_add(offset);
        assert!(last.is_some_and(|last| last < self.len));
        self.pointer(offset)
    }

    /// Pointer to an element, for kernels that write strided tiles.
    pub(super) fn pointer(&self, offset: usize) -> *mut T {
        assert!(offset <= self.len);
        // SAFETY: in bounds (or one past the end) by the assertion.
        unsafe { self.start.add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::COARSER;

    #[test]
    fn every_index_runs_once_in_each_of_many_regions() {
        let mut pool = ThreadPool::new(3).unwrap();
        for order in [Order::Forwards, Order::Backwards, Order::Together] {
            for count in [0, 1, 2, 7, 1000 / COARSER] {
                let hits: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run_in(order, count, &|index| {
                        hits[index].fetch_add(1, Ordering::Relaxed);
                    });
                }
                assert!(hits.iter().all(|h| h.load(Ordering::Relaxed) == 50));
            }
        }
    }

    #[test]
    fn a_panic_in_a_region_reaches_the_caller_and_the_pool_lives_on() {
        let mut pool = ThreadPool::new(2).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(64, &|index| assert!(index != 40))));
        assert!(outcome.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, &|index| {
            sum.fetch_add(index, Ordering::Relaxed);
        });
        assert_eq!(sum.load(Ordering::Relaxed), 45);
    }
}
