//! Deadlines that cannot be met are refused at once, by what is certain of the request and of its caller's queue, and
//! by nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use babelward::{engine::Clock, proto};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::{
    raw::Raw,
    rig::{Rig, Setup, classify, eventually, generate_tokens, reason},
    scripted::Gate,
};

/// What a slow forward pass takes on the engine's clock, whatever is in it.
const PASS: Duration = Duration::from_secs(5);
/// What each of its new tokens adds. Were it nothing, a longer queue would not take longer.
const TOKEN: Duration = Duration::from_millis(60);

/// What runs the engine's clock ahead: slow passes, up to some moment. The clock never goes back: a step that began before
/// and is learned from after that would have taken no time.
#[derive(Clone)]
struct Slow {
    gate: Gate,
    /// Most milliseconds that the clock is ahead.
    most: Arc<AtomicU64>,
}

impl Slow {
    /// How far the engine's clock is ahead of the time.
    fn ahead(&self) -> Duration {
        let passes = PASS * u32::try_from(self.gate.passes()).unwrap();
        let tokens = TOKEN * u32::try_from(self.gate.tokens()).unwrap();
        let most = Duration::from_millis(self.most.load(Ordering::Acquire));
        (passes + tokens).min(most)
    }

    /// Passes take what they take from here on.
    fn no_more(&self) {
        let ahead = u64::try_from(self.ahead().as_millis()).unwrap();
        self.most.store(ahead, Ordering::Release);
    }

    /// A request with so much time on the engine's clock. The server takes a hundredth of a timeout for its answer's way.
    fn within<T>(&self, timeout: Duration, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.ahead() * 100 / 99 + timeout);
        request
    }

    fn asked(&self, content: &str, timeout: Duration) -> Request<proto::ClassifyRequest> {
        self.within(timeout, classify(&[content]))
    }
}

/// A server whose engine's clock moves by [`PASS`] and by a [`TOKEN`] for each new token in each slow forward pass.
async fn slow_rig() -> (Rig, Slow) {
    let gate = Gate::default();
    let slow = Slow {
        gate: gate.clone(),
        most: Arc::new(AtomicU64::new(u64::MAX)),
    };
    let clock = slow.clone();
    let setup = Setup {
        gate,
        clock: Clock::new(move || Instant::now() + clock.ahead()),
        ..Setup::default()
    };
    (Rig::with(setup).await, slow)
}

/// Lets the engine see more than enough steps.
async fn learn(rig: &Rig, slow: &Slow) {
    let mut safety = rig.safety().await;
    for number in 0..24 {
        let hour = Duration::from_secs(3600);
        safety
            .classify(slow.asked(&format!("how do I bake bread number {number}?"), hour))
            .await
            .unwrap();
    }
}

fn from(
    tenant: &'static str,
    mut request: Request<proto::ClassifyRequest>,
) -> Request<proto::ClassifyRequest> {
    let metadata = request.metadata_mut();
    metadata.insert("x-babelward-tenant", tenant.parse().unwrap());
    request
}

/// What others have sent, and how long that took, shuts nobody out of a server that has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_server_tries_whatever_it_has_learned() {
    let (rig, slow) = slow_rig().await;
    learn(&rig, &slow).await;
    let mut safety = rig.safety().await;
    let hour = Duration::from_secs(3600);
    for number in 0..6 {
        let long = format!(
            "[odd] {number} {}",
            "all of this is to be read first ".repeat(240)
        );
        let answer = safety
            .classify(from("evil", slow.asked(&long, hour)))
            .await
            .unwrap();
        let usage = answer.into_inner().verdict.unwrap().usage.unwrap();
        assert!(usage.prompt_tokens > 1700, "{usage:?}");
    }
    slow.no_more();
    for _ in 0..5 {
        let answer = safety
            .classify(from("good", slow.asked("hello", Duration::from_secs(1))))
            .await;
        assert!(answer.is_ok(), "{answer:?}");
        rig.idle().await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_learned_nothing_refuses_nothing() {
    let rig = Rig::start().await;
    rig.gate.close();
    let client = Raw::connect(rig.address).await;
    let status = client
        .call(
            "SafetyService/Classify",
            "2S",
            classify(&["how do I bake bread?"]),
        )
        .await;
    let (reason, _) = reason(&status, Code::DeadlineExceeded);
    assert_eq!(reason, "DEADLINE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_shorter_than_the_work_itself_is_refused_without_a_retry() {
    let (rig, slow) = slow_rig().await;
    learn(&rig, &slow).await;
    rig.gate.close();
    let mut generation = rig.generation().await;
    let request = slow.within(Duration::from_secs(3600), generate_tokens("babble", 3000));
    let busy = tokio::spawn(async move { generation.generate(request).await });
    rig.blocked().await;
    let mut safety = rig.safety().await;
    let request = slow.asked("how do I bake cake?", Duration::from_secs(7));
    let late = tokio::spawn(async move { safety.classify(request).await });
    eventually("it is in the queue", || rig.stats().queued == 1).await;
    // The pass that is under way takes more than five of the seven seconds, and so would the next.
    rig.gate.open();
    let status = late.await.unwrap().unwrap_err();
    let (reason, metadata) = reason(&status, Code::DeadlineExceeded);
    assert_eq!(reason, "DEADLINE_UNATTAINABLE");
    let number = |key: &str| metadata[key].parse::<u64>().unwrap();
    assert!(
        number("predictedMs") > 2000 && number("remainingMs") <= 2000,
        "{metadata:?}"
    );
    assert_eq!(number("waitMs"), 0);
    assert!(status.get_error_details().retry_info().is_none());
    busy.abort();
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_its_callers_own_queue_is_refused_with_a_time_to_retry() {
    let (rig, slow) = slow_rig().await;
    learn(&rig, &slow).await;
    rig.gate.close();
    // One keeps the engine busy: a step that begins later would take in many of those that are to wait.
    let hour = Duration::from_secs(3600);
    let busy = slow.asked("how do I bake cake?", hour);
    let mut safety = rig.safety().await;
    let busy = tokio::spawn(async move { safety.classify(busy).await });
    rig.blocked().await;
    let waiting: Vec<_> = (0..40)
        .map(|number| {
            let request = slow.asked(&format!("{number} is my number, and I bake bread"), hour);
            let channel = rig.safety();
            async move { channel.await.classify(request).await }
        })
        .collect();
    let waiting = futures::future::join_all(waiting);
    let judged = async {
        eventually("they wait", || rig.stats().queued == 40).await;
        let twenty = || slow.asked("how do I bake pie?", Duration::from_secs(20));
        let hurried = [twenty(), from("another", twenty())].map(|request| {
            let channel = rig.safety();
            async move { channel.await.classify(request).await }
        });
        let hurried = futures::future::join_all(hurried);
        let opened = async {
            eventually("both are in the queue", || rig.stats().queued == 42).await;
            rig.gate.open();
        };
        tokio::join!(hurried, opened).0
    };
    let (answers, mut hurried) = tokio::join!(waiting, judged);
    assert!(busy.await.unwrap().is_ok() && answers.iter().all(Result::is_ok));
    assert!(
        hurried.pop().unwrap().is_ok(),
        "another tenant's queue is not its own"
    );
    let status = hurried.pop().unwrap().unwrap_err();
    let (reason, metadata) = reason(&status, Code::DeadlineExceeded);
    assert_eq!(reason, "DEADLINE_UNATTAINABLE");
    assert!(
        metadata["waitMs"].parse::<u64>().unwrap() > 10_000,
        "{metadata:?}"
    );
    let details = status.get_error_details();
    assert!(details.retry_info().unwrap().retry_delay.unwrap() > Duration::from_secs(10));
    assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
    rig.stop().await;
}
