//! Deadlines that cannot be met are refused at once, by what the engine has learned, and by nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use babelward::{engine::Clock, proto};
use tonic::{Code, Request};
use tonic_types::StatusExt as _;

use crate::{
    rig::{Rig, Setup, classify, eventually, reason},
    scripted::Gate,
};

/// What a forward pass takes on the engine's clock while the model is slow.
const PASS: Duration = Duration::from_secs(5);

/// A server whose engine's clock moves by [`PASS`] in each forward pass, as long as `slow` says so.
async fn slow_rig() -> (Rig, Arc<AtomicBool>) {
    let (gate, slow) = (Gate::default(), Arc::new(AtomicBool::new(true)));
    let clock = {
        let (gate, slow) = (gate.clone(), Arc::clone(&slow));
        Clock::new(move || {
            let passes = u32::try_from(gate.passes()).unwrap();
            Instant::now() + PASS * if slow.load(Ordering::Acquire) { passes } else { 0 }
        })
    };
    let setup = Setup {
        gate,
        clock,
        ..Setup::default()
    };
    (Rig::with(setup).await, slow)
}

fn asked(content: &str, timeout: Duration) -> Request<proto::ClassifyRequest> {
    let mut request = Request::new(classify(&[content]));
    request.set_timeout(timeout);
    request
}

/// Lets the engine see more than enough steps.
async fn learn(rig: &Rig) {
    let mut safety = rig.safety().await;
    for number in 0..24 {
        let hour = Duration::from_secs(3600);
        safety
            .classify(asked(&format!("how do I bake bread number {number}?"), hour))
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_learned_nothing_refuses_nothing() {
    let rig = Rig::start().await;
    rig.gate.close();
    let answer = rig
        .safety()
        .await
        .classify(asked("how do I bake bread?", Duration::from_secs(2)))
        .await;
    let (reason, _) = reason(&answer.unwrap_err(), Code::DeadlineExceeded);
    assert_eq!(reason, "DEADLINE");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_shorter_than_the_work_itself_is_refused_without_a_retry() {
    let (rig, slow) = slow_rig().await;
    learn(&rig).await;
    slow.store(false, Ordering::Release);
    let passes = rig.gate.passes();
    let answer = rig
        .safety()
        .await
        .classify(asked("how do I bake cake?", Duration::from_secs(2)))
        .await;
    let status = answer.unwrap_err();
    let (reason, metadata) = reason(&status, Code::DeadlineExceeded);
    assert_eq!(reason, "DEADLINE_UNATTAINABLE");
    let number = |key: &str| metadata[key].parse::<u64>().unwrap();
    assert!(
        number("predictedMs") > 2000 && number("remainingMs") <= 2000,
        "{metadata:?}"
    );
    assert_eq!(number("waitMs"), 0);
    assert!(status.get_error_details().retry_info().is_none());
    assert_eq!(rig.gate.passes(), passes, "nothing was computed");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_in_the_queue_is_refused_with_a_time_to_retry() {
    let (rig, slow) = slow_rig().await;
    learn(&rig).await;
    slow.store(false, Ordering::Release);
    rig.gate.close();
    // One keeps the engine busy: a step that begins later would take in many of those that are to wait.
    let busy = asked("how do I bake cake?", Duration::from_secs(3600));
    let mut safety = rig.safety().await;
    let busy = tokio::spawn(async move { safety.classify(busy).await });
    eventually("the engine is busy", || rig.gate.is_blocked()).await;
    let waiting: Vec<_> = (0..40)
        .map(|number| {
            let request = asked(
                &format!("how do I bake cake number {number}?"),
                Duration::from_secs(3600),
            );
            let channel = rig.safety();
            async move { channel.await.classify(request).await }
        })
        .collect();
    let waiting = futures::future::join_all(waiting);
    let refused = async {
        eventually("most of them wait", || rig.stats().queued > 30).await;
        let mut safety = rig.safety().await;
        let answer = safety
            .classify(asked("how do I bake pie?", Duration::from_secs(20)))
            .await;
        rig.gate.open();
        answer
    };
    let (answers, refused) = tokio::join!(waiting, refused);
    assert!(busy.await.unwrap().is_ok() && answers.iter().all(Result::is_ok));
    let status = refused.unwrap_err();
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
