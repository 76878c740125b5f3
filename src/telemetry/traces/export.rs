//! Takes spans from the queue to the collector, in batches.

use std::time::Duration;

use opentelemetry_sdk::trace::{SpanData, SpanExporter};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

/// Most spans that wait to be exported. One has a few hundred bytes, and at most about 4 KiB, so these are at most 16 MiB.
pub(super) const QUEUE: usize = 4096;

/// Most spans of one export.
const BATCH: usize = 512;

/// Longest that a span waits for others to be exported with.
const INTERVAL: Duration = Duration::from_secs(1);

/// Longest time for an export, with its retries. While it goes on, spans wait in the queue.
const EXPORT_TIME: Duration = Duration::from_secs(10);

/// How long the last spans may take when the server ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Counts spans by what has become of them.
pub(super) fn count(outcome: &'static str, spans: u64) {
    metrics::counter!("babelward_spans_total", "outcome" => outcome).increment(spans);
}

/// The task that exports spans.
pub struct TraceExport {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl TraceExport {
    /// Exports what comes out of the queue, on a task of its own.
    pub(super) fn spawn(queue: mpsc::Receiver<SpanData>, exporter: impl SpanExporter + 'static) -> Self {
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(queue, exporter, stop.clone()));
        Self { stop, task }
    }

    /// Exports what is still in the queue, within 3 s, and ends. Spans that come later are dropped.
    pub async fn shutdown(mut self) {
        self.stop.cancel();
        if timeout(FLUSH, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!("the collector did not take the last spans in time; they are dropped");
        }
    }
}

async fn run(mut queue: mpsc::Receiver<SpanData>, exporter: impl SpanExporter, stop: CancellationToken) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut is_failing = false;
    loop {
        let ends = collect(&mut queue, &mut batch, &stop).await == Collected::Last;
        if !batch.is_empty() {
            let spans = batch.len() as u64;
            let exported = timeout(EXPORT_TIME, exporter.export(std::mem::take(&mut batch))).await;
            let failure = match exported {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("the collector did not answer in time".to_owned()),
            };
            match &failure {
                None if is_failing => tracing::info!("spans are exported again"),
                Some(error) if !is_failing => {
                    tracing::warn!(
                        error,
                        "spans cannot be exported; calls go on, and spans are dropped"
                    );
                }
                _ => {}
            }
            is_failing = failure.is_some();
            count(if is_failing { "failed" } else { "exported" }, spans);
        }
        if ends {
            return;
        }
    }
}

/// Whether there are more spans to come.
#[derive(Debug, PartialEq, Eq)]
enum Collected {
    Batch,
    Last,
}

/// Takes spans from the queue until they fill a batch, or the first has waited long enough, or no more will come.
async fn collect(
    queue: &mut mpsc::Receiver<SpanData>,
    batch: &mut Vec<SpanData>,
    stop: &CancellationToken,
) -> Collected {
    let full = sleep(Duration::MAX);
    tokio::pin!(full);
    while batch.len() < BATCH {
        let is_first = batch.is_empty();
        let room = BATCH - batch.len();
        tokio::select! {
            biased;
            () = stop.cancelled(), if !queue.is_closed() => queue.close(),
            taken = queue.recv_many(batch, room) => match taken {
                0 => return Collected::Last,
                _ if is_first => full.as_mut().reset(tokio::time::Instant::now() + INTERVAL),
                _ => {}
            },
            () = &mut full, if !is_first => break,
        }
    }
    Collected::Batch
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::{
        InstrumentationScope,
        trace::{SpanContext, SpanId, SpanKind, Status},
    };
    use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
    use tokio::time::Instant;

    use super::*;

    fn span() -> SpanData {
        SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "queue".into(),
            start_time: std::time::SystemTime::UNIX_EPOCH,
            end_time: std::time::SystemTime::UNIX_EPOCH,
            attributes: Vec::new(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    /// What a collector does with a batch.
    #[derive(Debug, Clone, Copy)]
    enum Does {
        Take,
        Refuse,
        Hang,
    }

    /// Keeps the sizes of batches and the times at which they came.
    #[derive(Debug, Clone)]
    struct Collector {
        does: Arc<Mutex<Does>>,
        batches: mpsc::UnboundedSender<(usize, Instant)>,
    }

    impl SpanExporter for Collector {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.batches.send((batch.len(), Instant::now())).unwrap();
            let does = *self.does.lock().unwrap();
            match does {
                Does::Take => Ok(()),
                Does::Refuse => Err(OTelSdkError::InternalFailure("refused".to_owned())),
                Does::Hang => std::future::pending().await,
            }
        }
    }

    struct Rig {
        queue: mpsc::Sender<SpanData>,
        export: TraceExport,
        batches: mpsc::UnboundedReceiver<(usize, Instant)>,
        does: Arc<Mutex<Does>>,
    }

    fn rig(does: Does) -> Rig {
        let (queue, spans) = mpsc::channel(QUEUE);
        let (sender, batches) = mpsc::unbounded_channel();
        let does = Arc::new(Mutex::new(does));
        let collector = Collector {
            does: Arc::clone(&does),
            batches: sender,
        };
        Rig {
            queue,
            export: TraceExport::spawn(spans, collector),
            batches,
            does,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_span_waits_a_second_for_others_and_a_full_batch_does_not_wait() {
        let mut rig = rig(Does::Take);
        let began = Instant::now();
        rig.queue.send(span()).await.unwrap();
        tokio::time::sleep(INTERVAL / 2).await;
        rig.queue.send(span()).await.unwrap();
        assert_eq!(rig.batches.recv().await, Some((2, began + INTERVAL)));
        for _ in 0..BATCH + 1 {
            rig.queue.send(span()).await.unwrap();
        }
        let began = Instant::now();
        assert_eq!(rig.batches.recv().await, Some((BATCH, began)));
        assert_eq!(rig.batches.recv().await, Some((1, began + INTERVAL)));
    }

    #[test]
    fn every_span_is_counted_by_what_became_of_it() {
        let recorder = metrics_exporter_prometheus::PrometheusBuilder::new().build_recorder();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        metrics::with_local_recorder(&recorder, || {
            runtime.block_on(async {
                let mut rig = rig(Does::Hang);
                for does in [Does::Refuse, Does::Take, Does::Take] {
                    rig.queue.send(span()).await.unwrap();
                    rig.batches.recv().await.unwrap();
                    *rig.does.lock().unwrap() = does;
                }
                rig.export.shutdown().await;
            });
        });
        let counted = recorder.handle().render();
        for line in [
            "babelward_spans_total{outcome=\"exported\"} 1",
            "babelward_spans_total{outcome=\"failed\"} 2",
        ] {
            assert!(
                counted.lines().any(|found| found == line),
                "{line} is not in\n{counted}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shutting_down_exports_what_waits_and_takes_no_more() {
        let mut rig = rig(Does::Take);
        for _ in 0..2 * BATCH + 3 {
            rig.queue.send(span()).await.unwrap();
        }
        let began = Instant::now();
        rig.export.shutdown().await;
        assert_eq!(began.elapsed(), Duration::ZERO);
        let mut sizes = Vec::new();
        while let Ok((size, _)) = rig.batches.try_recv() {
            sizes.push(size);
        }
        assert_eq!(sizes, [BATCH, BATCH, 3]);
        assert!(rig.queue.try_send(span()).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_hangs_holds_the_end_up_for_a_limited_time() {
        let mut rig = rig(Does::Hang);
        rig.queue.send(span()).await.unwrap();
        rig.batches.recv().await.unwrap();
        let began = Instant::now();
        rig.export.shutdown().await;
        assert_eq!(began.elapsed(), FLUSH);
    }

    #[tokio::test(start_paused = true)]
    async fn a_collector_that_fails_or_hangs_gets_later_spans_nevertheless() {
        let mut rig = rig(Does::Refuse);
        for does in [Does::Hang, Does::Take] {
            rig.queue.send(span()).await.unwrap();
            rig.batches.recv().await.unwrap();
            *rig.does.lock().unwrap() = does;
        }
        let began = Instant::now();
        rig.queue.send(span()).await.unwrap();
        let (_, came) = rig.batches.recv().await.unwrap();
        assert!(came <= began + EXPORT_TIME + INTERVAL);
    }
}
