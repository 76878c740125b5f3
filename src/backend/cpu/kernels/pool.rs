//! A fixed pool of compute threads for short parallel regions.
//!
//! A step of a model runs a few hundred regions of some tens of microseconds each, so idle workers spin for about as
//! long before they sleep. The caller is worker 0.
//!
//! A region is `count` tasks, numbered from 0. Each worker begins with a work range of neighbouring tasks, the same
//! range in every region with that many tasks, and takes tasks from the other workers' ranges when its own is done.
//! So the rows that a worker has written in one region are in its own second-level cache when it reads them in the
//! next: with work ranges a layer of 512 rows took 3,288 µs in `bf16` instead of 4,087. No result depends on which
//! worker takes a task, and a worker that the system does not schedule in time is not waited for.
//!
//! Threads are not pinned to cores: on idle cores pinning made no difference that could be told from noise.

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

/// Rounds of spinning before a worker sleeps, some tens of microseconds.
const SPINS: usize = if cfg!(miri) { 5 } else { 20_000 };

/// The pool. It runs one region at a time, and only its owner starts them.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// `epoch << EPOCH_SHIFT | OPEN | active`: the number of the region, whether workers may still enter it, and how many
    /// are inside. They are one word, so that no worker enters a region that its caller is about to leave.
    state: AtomicU64,
    /// The region's job, a pointer to a [`Job`] on the caller's stack.
    job: AtomicPtr<Job<'static>>,
    /// The work range of each worker.
    ranges: Vec<WorkRange>,
    /// Whether a task of the region has panicked on a worker other than the caller.
    panicked: AtomicBool,
    /// Whether workers shall end.
    stop: AtomicBool,
    /// Workers that sleep or are about to. A worker raises it, under the lock, before it looks at `state` for the last
    /// time; a region sets `state` before it reads this. So either the worker sees the region or the region sees the
    /// sleeper.
    sleepers: AtomicUsize,
    /// Held by a worker from that last look until it sleeps.
    falling_asleep: Mutex<()>,
    wake: Condvar,
}

/// Set in [`Shared::state`] while workers may enter the region.
const OPEN: u64 = 1 << 16;
/// The bits of [`Shared::state`] that count the workers inside.
const ACTIVE: u64 = OPEN - 1;
/// First bit of the region's number in [`Shared::state`].
const EPOCH_SHIFT: u32 = 17;

/// The region's number in a state.
fn epoch(state: u64) -> u64 {
    state >> EPOCH_SHIFT
}

/// What a region runs.
struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    order: Order,
}

/// The order in which a region's tasks are begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Each worker goes through its work range from the first task on.
    Ascending,
    /// Each worker goes through its work range from the last task on: where later tasks take longer, all workers then
    /// end at about the same time.
    Descending,
    /// All workers take tasks from one common range, from the first to the last: where tasks wait for earlier ones.
    OneQueue,
}

/// The tasks that a worker begins with, in a line of the cache of its own.
#[derive(Default)]
#[repr(align(64))]
struct WorkRange {
    /// The first task.
    start: AtomicUsize,
    /// Number of tasks.
    count: AtomicUsize,
    /// Number of tasks that have been begun. Workers that find none left count too, so it may exceed `count`.
    begun: AtomicUsize,
}

impl WorkRange {
    fn set(&self, tasks: Range<usize>) {
        self.start.store(tasks.start, Ordering::Relaxed);
        self.count.store(tasks.len(), Ordering::Relaxed);
        self.begun.store(0, Ordering::Relaxed);
    }

    /// Runs tasks of this range until all have been begun.
    fn work(&self, job: &Job<'_>) {
        let (start, count) = (
            self.start.load(Ordering::Relaxed),
            self.count.load(Ordering::Relaxed),
        );
        // The load comes first because it is cheap and adding is not: most ranges are done when other workers come.
        while self.begun.load(Ordering::Relaxed) < count {
            let index = self.begun.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return;
            }
            (job.run)(match job.order {
                Order::Ascending | Order::OneQueue => start + index,
                Order::Descending => start + count - 1 - index,
            });
        }
    }
}

impl ThreadPool {
    /// A pool of `threads` workers in all, the caller included; at least one.
    pub fn new(threads: usize) -> std::io::Result<Self> {
        let threads = threads.clamp(1, ACTIVE as usize);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            ranges: std::iter::repeat_with(WorkRange::default).take(threads).collect(),
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

    /// Runs `run(0)`, …, `run(count - 1)` on all workers and returns when all are done.
    ///
    /// # Panics
    /// When `run` panicked on any worker.
    pub fn run(&mut self, count: usize, run: &(dyn Fn(usize) + Sync)) {
        self.run_in(Order::Ascending, count, run);
    }

    /// [`Self::run`] in an order.
    pub(super) fn run_in(&mut self, order: Order, count: usize, run: &(dyn Fn(usize) + Sync)) {
        if self.workers.is_empty() || count <= 1 {
            return (0..count).for_each(run);
        }
        let job = Job { run, order };
        let threads = self.threads();
        for (worker, range) in self.shared.ranges.iter().enumerate() {
            range.set(match order {
                Order::Ascending | Order::Descending => {
                    worker * count / threads..(worker + 1) * count / threads
                }
                Order::OneQueue if worker == 0 => 0..count,
                Order::OneQueue => 0..0,
            });
        }
        let shared = &*self.shared;
        shared
            .job
            .store(std::ptr::from_ref(&job).cast_mut().cast(), Ordering::Relaxed);
        let next = (epoch(shared.state.load(Ordering::Relaxed)) + 1) << EPOCH_SHIFT;
        shared.state.store(next | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            shared.wake_all();
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| shared.work(0, &job)));
        // `job` lives on this stack frame: close the region, then wait for the workers inside.
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

    /// Runs `run` on neighbouring parts of `0..len`, each `step` long but for the last.
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

    /// Wakes all workers that sleep. Taking the lock first waits for those that have looked at `state` for the last
    /// time and do not sleep yet.
    fn wake_all(&self) {
        drop(self.lock());
        self.wake.notify_all();
    }

    /// What a worker other than the caller does until the pool is dropped.
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
            // SAFETY: `ThreadPool::run_in` stored the pointer to a job on its stack before it opened the region (the
            // store to `state` that `enter` has acquired), and it does not return while `state` counts this worker as
            // inside.
            let job = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| self.work(worker, job))).is_err() {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Runs the tasks of a worker's own range, and then what is left of the others'.
    fn work(&self, worker: usize, job: &Job<'_>) {
        let (before, own) = self.ranges.split_at(worker);
        own.iter().chain(before).for_each(|range| range.work(job));
    }

    /// Counts this worker as inside of the region. `false` when the region has closed.
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

    /// Waits for another region than the one that was `seen` last, and returns its number.
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
        self.shared.state.fetch_add(1 << EPOCH_SHIFT, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

/// Waits until other tasks of the same region have raised `counter` to `count`. Those tasks must have been begun
/// already, so a task may only wait for tasks of smaller index in a region whose order is [`Order::OneQueue`]; and
/// they must count even when they panic.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::cpu::kernels::test_support::COARSER;

    #[test]
    fn every_task_runs_once_in_each_of_many_regions() {
        let mut pool = ThreadPool::new(3).unwrap();
        for order in [Order::Ascending, Order::Descending, Order::OneQueue] {
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
