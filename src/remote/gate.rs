//! Bounds the requests to an endpoint: so many are open at once, so many wait for that, and the rest are refused.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::RemoteError;

/// How many requests an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EndpointLoad {
    /// Requests that wait here for their turn.
    pub waiting: usize,
    /// Requests that are open there.
    pub open: usize,
}

/// Requests enter in the order in which they came.
pub(super) struct Gate {
    counts: Arc<Counts>,
    permits: Arc<Semaphore>,
    most_waiting: usize,
}

struct Counts {
    model: Arc<str>,
    waiting: AtomicUsize,
    open: AtomicUsize,
}

impl Counts {
    /// Sets the same gauges as an engine does for its models.
    fn show(&self) {
        let load = self.load();
        let gauges = [
            ("babelward_queue_depth", load.waiting),
            ("babelward_running", load.open),
        ];
        for (name, count) in gauges {
            metrics::gauge!(name, "model" => Arc::clone(&self.model)).set(count as f64);
        }
    }

    fn load(&self) -> EndpointLoad {
        EndpointLoad {
            waiting: self.waiting.load(Ordering::Acquire),
            open: self.open.load(Ordering::Acquire),
        }
    }
}

/// An open request. It is counted until it is dropped.
pub(super) struct Pass {
    counts: Arc<Counts>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.counts.open.fetch_sub(1, Ordering::AcqRel);
        self.counts.show();
    }
}

/// A request that waits. It is counted until it is dropped.
struct Waiting(Arc<Counts>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.show();
    }
}

impl Gate {
    /// A gate for the endpoint of `model`, through which `most_open` requests may go at a time.
    pub(super) fn new(model: &str, most_open: usize, most_waiting: usize) -> Self {
        let gate = Self {
            counts: Arc::new(Counts {
                model: Arc::from(model),
                waiting: AtomicUsize::new(0),
                open: AtomicUsize::new(0),
            }),
            permits: Arc::new(Semaphore::new(most_open.clamp(1, Semaphore::MAX_PERMITS))),
            most_waiting,
        };
        gate.counts.show();
        gate
    }

    pub(super) fn load(&self) -> EndpointLoad {
        self.counts.load()
    }

    /// Waits for a turn.
    pub(super) async fn enter(&self) -> Result<Pass, RemoteError> {
        let permit = match Arc::clone(&self.permits).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => self.wait().await?,
        };
        self.counts.open.fetch_add(1, Ordering::AcqRel);
        self.counts.show();
        Ok(Pass {
            counts: Arc::clone(&self.counts),
            _permit: permit,
        })
    }

    async fn wait(&self) -> Result<OwnedSemaphorePermit, RemoteError> {
        let before = self.counts.waiting.fetch_add(1, Ordering::AcqRel);
        let waiting = Waiting(Arc::clone(&self.counts));
        if before >= self.most_waiting {
            return Err(RemoteError::QueueFull);
        }
        waiting.0.show();
        // An error would mean that the semaphore is closed, which never happens.
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        permit.map_err(|_| RemoteError::QueueFull)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn requests_wait_in_order_and_the_rest_are_refused() {
        let gate = Gate::new("big", 1, 2);
        let first = gate.enter().await.unwrap();
        let mut second = Box::pin(gate.enter());
        let mut third = Box::pin(gate.enter());
        assert!(futures::poll!(&mut second).is_pending());
        assert!(futures::poll!(&mut third).is_pending());
        assert_eq!(gate.load(), EndpointLoad { waiting: 2, open: 1 });
        assert_eq!(gate.enter().await.err(), Some(RemoteError::QueueFull));
        drop(first);
        assert!(futures::poll!(&mut third).is_pending());
        let second = second.await.unwrap();
        assert_eq!(gate.load(), EndpointLoad { waiting: 1, open: 1 });
        // One that no longer waits makes room.
        drop(third);
        assert_eq!(gate.load(), EndpointLoad { waiting: 0, open: 1 });
        drop(second);
        assert_eq!(gate.load(), EndpointLoad::default());
    }
}
