//! Heartbeats of growing texts, on the simulation's clock: they come at the time that was asked for, or at the server's.

use std::{future::Future, time::Duration};

use babelward::{
    client::ClientOptions,
    proto::{
        AnswerGuard, GenerateRequest, GuardCadence, GuardOptions, GuardStart, GuardStreamRequest,
        generate_response, generation_service_client::GenerationServiceClient, guard_stream_request,
        guard_stream_response, safety_service_client::SafetyServiceClient,
    },
};
use tokio::time::Instant;

use super::{
    network::{Network, Weather},
    scenario::channel,
    server::{Allowed, Life},
};
use crate::rig::{conversation, generate_tokens, requests};

/// What a network without faults may add to a time.
const LATENCY: Duration = Duration::from_millis(10);

const SERVER: &str = "one";

/// Runs a test on a clock that only moves while everybody waits.
fn simulated(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .max_blocking_threads(1)
        .build()
        .unwrap()
        .block_on(test);
}

async fn server(network: &Network) -> Life {
    let allowed = Allowed {
        queue_items: 16,
        calls: 24,
        requests_per_minute: None,
    };
    Life::begin(network, SERVER, &allowed, 7).await
}

/// No look is due before 512 tokens have come.
fn options(heartbeat: Option<Duration>) -> GuardOptions {
    GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 512,
            sentence_end: Some(false),
        }),
        heartbeat: heartbeat.map(|time| time.try_into().unwrap()),
        ..GuardOptions::default()
    }
}

fn check(times: &[Instant], expected: Duration) {
    assert_eq!(times.len(), 4);
    for pair in times.windows(2) {
        let pause = pair[1] - pair[0];
        assert!(pause.abs_diff(expected) <= LATENCY, "{pause:?} {expected:?}");
    }
}

#[test]
fn heartbeats_of_a_stream_come_at_the_time_that_was_asked_for() {
    let server_time = Duration::from_secs(5);
    let least = Duration::from_millis(100);
    let minute = Duration::from_secs(60);
    for (asked, expected) in [(None, server_time), (Some(least), least), (Some(minute), minute)] {
        simulated(async move {
            let network = Network::new(7, Weather::CALM);
            let life = server(&network).await;
            let mut client = SafetyServiceClient::new(channel(&network, SERVER, &ClientOptions::default()));
            let (send, receive) = requests();
            let start = GuardStart {
                conversation: Some(conversation(&["How do I bake bread?"])),
                options: Some(options(asked)),
                ..GuardStart::default()
            };
            for event in [
                guard_stream_request::Event::Start(start),
                guard_stream_request::Event::Chunk(b"some words".to_vec()),
            ] {
                send.send(GuardStreamRequest { event: Some(event) }).unwrap();
            }
            let mut stream = client.guard_stream(receive).await.unwrap().into_inner();
            let mut times = Vec::new();
            while times.len() < 4 {
                match stream.message().await.unwrap().unwrap().event.unwrap() {
                    guard_stream_response::Event::Heartbeat(beat) => {
                        assert_eq!((beat.received_bytes, beat.released_bytes), (10, 0));
                        times.push(Instant::now());
                    }
                    event => panic!("{event:?}"),
                }
            }
            check(&times, expected);
            drop(send);
            life.kill(&network, SERVER);
        });
    }
}

#[test]
fn heartbeats_of_an_answer_come_at_the_time_that_was_asked_for() {
    simulated(async {
        let network = Network::new(7, Weather::CALM);
        let life = server(&network).await;
        let mut client = GenerationServiceClient::new(channel(&network, SERVER, &ClientOptions::default()));
        let asked = Duration::from_millis(150);
        let request = GenerateRequest {
            guard: Some(AnswerGuard {
                options: Some(options(Some(asked))),
                ..AnswerGuard::default()
            }),
            ..generate_tokens("babble", 1500)
        };
        let mut stream = client.generate(request).await.unwrap().into_inner();
        let mut times = Vec::new();
        while times.len() < 4 {
            match stream.message().await.unwrap().unwrap().event.unwrap() {
                generate_response::Event::Heartbeat(beat) => {
                    assert!(beat.received_bytes > beat.released_bytes);
                    times.push(Instant::now());
                }
                generate_response::Event::Started(_) => {}
                event => panic!("{event:?}"),
            }
        }
        check(&times, asked);
        life.kill(&network, SERVER);
    });
}
