//! Divides work that makes weights ready among threads of the host.

use std::{
    io,
    thread::{self, ScopedJoinHandle},
};

/// Most threads that prepare weights: more would only wait for the file.
const MOST_THREADS: usize = 16;

/// How many threads prepare weights.
pub(super) fn threads() -> usize {
    thread::available_parallelism().map_or(1, |threads| threads.get().min(MOST_THREADS))
}

/// Waits for all of them, also after one that failed, and returns the first error.
pub(super) fn join_all(workers: Vec<ScopedJoinHandle<'_, io::Result<()>>>) -> io::Result<()> {
    let panicked = |_| Err(io::Error::other("a thread that prepares weights panicked"));
    let joined = workers
        .into_iter()
        .map(|worker| worker.join().unwrap_or_else(panicked));
    let outcomes: Vec<io::Result<()>> = joined.collect();
    outcomes.into_iter().collect()
}
