//! Turns texts into tokens: on as many threads as there are cores, within a memory budget, away from the threads that serve
//! connections, and only for as long as a caller waits.
//!
//! Short texts have a lane of their own, so that they do not wait behind long ones. A long text waits until there is memory
//! for it, and the amount of text that may wait is bounded as well.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::{deadline::Deadline, error::ServiceError};
use crate::{engine::Stage, text::Watch};

/// Texts of at most this many bytes take the short lane.
const SHORT_BYTES: usize = 8 << 10;

/// Most short texts that may wait.
const SHORT_WAITING: usize = 8192;

/// Bytes of one piece of memory, in which the budget is counted.
const GRAIN: usize = 1 << 10;

/// When to try again if too much text waits: about as long as a text of a few MiB takes.
const RETRY: Duration = Duration::from_secs(1);

/// The size of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TextSize {
    /// Bytes of the text.
    pub(crate) bytes: usize,
    /// Bytes of memory that are needed while it is worked on.
    pub(crate) working: usize,
}

/// Texts that wait for the same threads and memory.
struct Lane {
    /// One permit for each thread.
    workers: Arc<Semaphore>,
    /// One permit for each piece of memory; `None` for short texts, whose number bounds their memory.
    memory: Option<Arc<Semaphore>>,
    /// Amount that waits: texts in the short lane, bytes of text in the long one.
    waiting: Arc<AtomicUsize>,
    most_waiting: usize,
}

/// Runs all work on text.
pub(crate) struct TextWork {
    short: Lane,
    long: Lane,
    /// Bytes of memory for long texts.
    working_bytes: usize,
}

impl TextWork {
    /// Text work with `workers` threads for each lane. Of `memory` bytes, three quarters are for texts that are worked on, and
    /// the rest for texts that wait.
    pub(crate) fn new(workers: usize, memory: usize) -> Self {
        let waiting_bytes = memory / 4;
        let working_bytes = memory - waiting_bytes;
        let pieces = (working_bytes / GRAIN).min(Semaphore::MAX_PERMITS);
        let lane = |memory, most_waiting| Lane {
            workers: Arc::new(Semaphore::new(workers.max(1))),
            memory,
            waiting: Arc::new(AtomicUsize::new(0)),
            most_waiting,
        };
        Self {
            short: lane(None, SHORT_WAITING),
            long: lane(Some(Arc::new(Semaphore::new(pieces))), waiting_bytes),
            working_bytes: pieces * GRAIN,
        }
    }

    /// Waits for a turn, and runs work on a text of this size. The work checks the watch that it is given, and ends when the
    /// caller is gone or its deadline has passed. Its memory and thread are released only then.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        size: TextSize,
        deadline: Deadline,
        stopping: &CancellationToken,
        work: impl FnOnce(&Watch) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        let turn = async {
            tokio::select! {
                biased;
                permits = self.turn(size) => permits,
                () = stopping.cancelled() => Err(ServiceError::draining()),
                () = deadline.passed() => Err(ServiceError::Deadline { stage: Stage::Queue }),
            }
        };
        let permits = turn.await?;
        let watch = CancelOnDrop(Arc::new(Watch::until(deadline.instant())));
        let seen = Arc::clone(&watch.0);
        let span = tracing::Span::current();
        let working = tokio::task::spawn_blocking(move || {
            let _held = InWork::begin(permits);
            span.in_scope(|| work(&seen))
        });
        tokio::select! {
            biased;
            done = working => done.unwrap_or(Err(ServiceError::TextFault)),
            () = stopping.cancelled() => Err(ServiceError::draining()),
            () = deadline.passed() => Err(ServiceError::Deadline { stage: Stage::Queue }),
        }
    }

    /// Waits for memory and a thread.
    async fn turn(&self, size: TextSize) -> Result<Vec<OwnedSemaphorePermit>, ServiceError> {
        let (lane, amount) = match size.bytes <= SHORT_BYTES {
            true => (&self.short, 1),
            false => (&self.long, size.bytes),
        };
        let mut permits = Vec::with_capacity(2);
        let waiting = Waiting::begin(lane, amount)?;
        if let Some(memory) = &lane.memory {
            if size.working > self.working_bytes {
                let each = size.working.div_ceil(size.bytes.max(1));
                return Err(ServiceError::MessageTooLarge {
                    limit_bytes: self.working_bytes / each,
                });
            }
            let pieces = u32::try_from(size.working.div_ceil(GRAIN)).unwrap_or(u32::MAX);
            permits.push(acquire(Arc::clone(memory).acquire_many_owned(pieces)).await?);
        }
        permits.push(acquire(Arc::clone(&lane.workers).acquire_owned()).await?);
        drop(waiting);
        Ok(permits)
    }
}

async fn acquire(
    permit: impl Future<Output = Result<OwnedSemaphorePermit, tokio::sync::AcquireError>>,
) -> Result<OwnedSemaphorePermit, ServiceError> {
    // An error would mean that a semaphore is closed, which never happens.
    permit.await.map_err(|_| ServiceError::draining())
}

/// A text that waits. It is counted until it is dropped.
struct Waiting {
    waiting: Arc<AtomicUsize>,
    amount: usize,
}

impl Waiting {
    fn begin(lane: &Lane, amount: usize) -> Result<Self, ServiceError> {
        let before = lane.waiting.fetch_add(amount, Ordering::AcqRel);
        metrics::gauge!("babelward_texts_waiting").increment(1.0);
        let this = Self {
            waiting: Arc::clone(&lane.waiting),
            amount,
        };
        // A text that waits alone always may.
        if before > 0 && before.saturating_add(amount) > lane.most_waiting {
            return Err(ServiceError::QueueFull { retry_after: RETRY });
        }
        Ok(this)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.waiting.fetch_sub(self.amount, Ordering::AcqRel);
        metrics::gauge!("babelward_texts_waiting").decrement(1.0);
    }
}

/// A text that is worked on. Its permits are released when it is dropped, even if the work panics.
struct InWork(#[allow(dead_code, reason = "held until it is dropped")] Vec<OwnedSemaphorePermit>);

impl InWork {
    fn begin(permits: Vec<OwnedSemaphorePermit>) -> Self {
        metrics::gauge!("babelward_texts_in_work").increment(1.0);
        Self(permits)
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        metrics::gauge!("babelward_texts_in_work").decrement(1.0);
    }
}

struct CancelOnDrop(Arc<Watch>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const SHORT: TextSize = TextSize {
        bytes: 100,
        working: 1000,
    };

    fn long(kib: usize) -> TextSize {
        TextSize {
            bytes: 64 << 10,
            working: kib << 10,
        }
    }

    /// Work that reports when it has begun, and ends when no caller waits for it.
    fn until_cancelled(
        begun: tokio::sync::mpsc::UnboundedSender<()>,
    ) -> impl FnOnce(&Watch) -> Result<(), ServiceError> {
        move |watch| {
            begun.send(()).unwrap();
            while !watch.is_over() {
                std::thread::yield_now();
            }
            Ok(())
        }
    }

    async fn run<T: Send + 'static>(
        texts: &TextWork,
        size: TextSize,
        work: impl FnOnce(&Watch) -> Result<T, ServiceError> + Send + 'static,
    ) -> Result<T, ServiceError> {
        texts
            .run(size, Deadline::default(), &CancellationToken::new(), work)
            .await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn long_texts_wait_for_memory_and_short_ones_do_not() {
        let texts = Arc::new(TextWork::new(4, 1 << 20));
        let (begun, mut begins) = tokio::sync::mpsc::unbounded_channel();
        let hog = |kib| {
            let (texts, begun) = (Arc::clone(&texts), begun.clone());
            tokio::spawn(async move { run(&texts, long(kib), until_cancelled(begun)).await })
        };
        let first = hog(700);
        begins.recv().await.unwrap();
        // There are threads for it, but no memory.
        let second = hog(100);
        while texts.long.waiting.load(Ordering::Acquire) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(run(&texts, SHORT, |_| Ok(7)).await, Ok(7));
        assert!(begins.try_recv().is_err());
        // The caller of the first is gone: its work ends, and only then is its memory released.
        first.abort();
        begins.recv().await.unwrap();
        second.abort();
        assert_eq!(run(&texts, long(768), |_| Ok(8)).await, Ok(8));
        assert_eq!(texts.long.waiting.load(Ordering::Acquire), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_texts_are_worked_on_at_once_than_there_are_threads() {
        let texts = Arc::new(TextWork::new(2, 1 << 30));
        let (at_work, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..40).map(|index| {
            let (texts, at_work, most) = (Arc::clone(&texts), Arc::clone(&at_work), Arc::clone(&most));
            let size = if index % 2 == 0 { SHORT } else { long(1) };
            tokio::spawn(async move {
                run(&texts, size, move |_| {
                    most.fetch_max(1 + at_work.fetch_add(1, Ordering::AcqRel), Ordering::AcqRel);
                    std::thread::yield_now();
                    at_work.fetch_sub(1, Ordering::AcqRel);
                    Ok(())
                })
                .await
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap().unwrap();
        }
        assert!(most.load(Ordering::Acquire) <= 4);
    }

    #[tokio::test]
    async fn texts_beyond_the_bound_of_waiting_ones_are_refused() {
        let texts = TextWork::new(1, 1 << 20);
        let (end, ended) = mpsc::channel::<()>();
        let hog = run(&texts, long(768), move |_| {
            let _ = ended.recv();
            Ok(())
        });
        let mut hog = Box::pin(hog);
        assert!(futures::poll!(&mut hog).is_pending());
        // A quarter of a MiB may wait.
        let mut waiting: Vec<_> = (0..4)
            .map(|_| Box::pin(run(&texts, long(1), |_| Ok(()))))
            .collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let refused = run(&texts, long(1), |_| Ok(())).await;
        assert_eq!(refused, Err(ServiceError::QueueFull { retry_after: RETRY }));
        // A text that no longer waits makes room.
        waiting.pop();
        let mut next = Box::pin(run(&texts, long(1), |_| Ok(())));
        assert!(futures::poll!(&mut next).is_pending());
        end.send(()).unwrap();
        assert_eq!(hog.await, Ok(()));
        assert_eq!(next.await, Ok(()));
        // A text that could never be worked on does not wait.
        assert_eq!(
            run(&texts, long(769), |_| Ok(())).await,
            Err(ServiceError::MessageTooLarge {
                limit_bytes: (768 << 10) / 13
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_deadline_and_when_the_server_stops() {
        let texts = TextWork::new(1, 1 << 20);
        let held = Arc::clone(&texts.long.workers).acquire_owned().await.unwrap();
        let late = Deadline::after(std::time::Instant::now(), Duration::from_millis(50));
        let stopping = CancellationToken::new();
        let waited = texts.run(long(1), late, &stopping, |_| Ok(())).await;
        assert_eq!(waited, Err(ServiceError::Deadline { stage: Stage::Queue }));
        let mut waiting = Box::pin(texts.run(long(1), Deadline::default(), &stopping, |_| Ok(())));
        assert!(futures::poll!(&mut waiting).is_pending());
        stopping.cancel();
        assert_eq!(waiting.await, Err(ServiceError::draining()));
        drop(held);
        assert_eq!(run(&texts, long(1), |_| Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn work_that_panics_releases_its_permits() {
        let texts = TextWork::new(1, 1 << 20);
        let failed = run(&texts, long(768), |_| -> Result<(), _> { panic!("of the test") }).await;
        assert_eq!(failed, Err(ServiceError::TextFault));
        assert_eq!(run(&texts, long(768), |_| Ok(())).await, Ok(()));
    }
}
