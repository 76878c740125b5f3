//! 1,000 requests of which 300 are cancelled and 100 malformed: the server lives, the pool is empty, and the
//! metrics add up. In a process of its own, because metrics belong to the process.

use std::collections::BTreeMap;

use babelward::proto;
use metrics_exporter_prometheus::PrometheusBuilder;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tonic::Code;

use crate::{
    alone::alone,
    rig::{Rig, classify, eventually, generate_tokens, score},
};

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Answered,
    Cancelled,
    Malformed,
}

#[test]
fn a_thousand_requests_of_all_kinds() {
    alone("chaos::a_thousand_requests_of_all_kinds", || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        runtime.unwrap().block_on(send_a_thousand());
    });
}

async fn send_a_thousand() {
    let metrics = PrometheusBuilder::new().install_recorder().unwrap();
    let rig = Rig::start().await;
    let mut fates = vec![Fate::Cancelled; 300];
    fates.extend([Fate::Malformed; 100]);
    fates.extend([Fate::Answered; 600]);
    let mut random = StdRng::seed_from_u64(3);
    fates.shuffle(&mut random);

    let (safety, generation, scoring) = (rig.safety().await, rig.generation().await, rig.scoring().await);
    let mut calls = Vec::new();
    for (index, fate) in fates.into_iter().enumerate() {
        let (mut safety, mut generation, mut scoring) = (safety.clone(), generation.clone(), scoring.clone());
        let events_before_cancel = random.random_range(0..6);
        let call = async move {
            match index % 3 {
                0 => {
                    let mut request = classify(&[&format!("[unsafe] {index}")]);
                    if fate == Fate::Malformed {
                        request.conversation = None;
                    }
                    safety.classify(request).await.map(drop)
                }
                1 => {
                    let tokens = if fate == Fate::Cancelled {
                        3000
                    } else {
                        1 + index as u32 % 30
                    };
                    let mut request = generate_tokens(&format!("babble {index}"), tokens);
                    if fate == Fate::Malformed {
                        request.sampling = Some(proto::SamplingParams {
                            temperature: Some(f64::INFINITY),
                            ..Default::default()
                        });
                    }
                    let mut stream = generation.generate(request).await?.into_inner();
                    let mut events = 0;
                    while stream.message().await?.is_some() {
                        events += 1;
                        if fate == Fate::Cancelled && events > events_before_cancel {
                            return Ok(());
                        }
                    }
                    Ok(())
                }
                _ => {
                    let mut request = score(&format!("babble {index}"));
                    if fate == Fate::Malformed {
                        request.samples = 99;
                    }
                    scoring.score(request).await.map(drop)
                }
            }
        };
        let call = tokio::spawn(call);
        if fate == Fate::Cancelled && index % 3 != 1 {
            // Let it get somewhere, then drop it; some have been answered by then.
            for _ in 0..random.random_range(0..50) {
                tokio::task::yield_now().await;
            }
            call.abort();
        }
        calls.push((fate, call));
    }
    let mut aborted = 0;
    for (fate, call) in calls {
        match (fate, call.await) {
            (Fate::Answered, result) => result.unwrap().unwrap(),
            (Fate::Malformed, result) => {
                assert_eq!(result.unwrap().unwrap_err().code(), Code::InvalidArgument);
            }
            (Fate::Cancelled, Ok(result)) => result.unwrap(),
            (Fate::Cancelled, Err(error)) => aborted += usize::from(error.is_cancelled()),
        }
    }
    assert!(aborted > 50, "only {aborted} calls were dropped under way");

    // The server lives, and nothing is left of it all.
    rig.idle().await;
    rig.safety().await.classify(classify(&["fine"])).await.unwrap();
    eventually("every call is counted", || {
        by_code(&metrics.render()).values().sum::<u64>() >= 601 + 100
    })
    .await;
    rig.stop().await;

    let counts = by_code(&metrics.render());
    let of = |code: &str| counts.get(code).copied().unwrap_or(0);
    assert_eq!(of("INVALID_ARGUMENT"), 100, "{counts:?}");
    assert!(of("OK") >= 601, "{counts:?}");
    // A call that is dropped before it leaves the client never reaches the server.
    let total = of("OK") + of("INVALID_ARGUMENT") + of("CANCELLED");
    assert_eq!(total, counts.values().sum::<u64>(), "{counts:?}");
    assert!(
        total <= 1001 && total + aborted as u64 >= 1001,
        "{counts:?}, {aborted} aborted"
    );
    let cancelled: u64 = sum(&metrics.render(), "babelward_cancelled_total").values().sum();
    assert_eq!(cancelled, of("CANCELLED"));
}

/// Requests by their code.
fn by_code(rendered: &str) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (labels, value) in sum(rendered, "babelward_requests_total") {
        let (_, code) = labels.split_once("code=\"").unwrap();
        let (code, _) = code.split_once('"').unwrap();
        *counts.entry(code.to_owned()).or_default() += value;
    }
    counts
}

/// A counter's values by their labels.
fn sum(rendered: &str, name: &str) -> BTreeMap<String, u64> {
    rendered
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('{'))
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(labels, value)| (labels.to_owned(), value.parse().unwrap()))
        .collect()
}
