//! GuardStream: a growing text is released as far as looks at it have passed, whatever its chunks, and every stream has one end.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    proto::{
        self, GuardCadence, GuardEnd, GuardEnded, GuardFailureMode, GuardLook, GuardMode, GuardOptions,
        GuardStart, GuardStreamRequest, GuardStreamResponse, guard_ended::Reason, guard_look::Outcome,
        guard_stream_request::Event as Sent, guard_stream_response::Event,
    },
    rpc::{Limits, Security, ServerOptions, TimeLimits},
};
use tonic::{Code, Request, Status, Streaming};

use crate::{
    credentials::{KeyFile, checked, with_key},
    raw::Raw,
    rig::{Rig, Setup, classify, conversation, eventually, item_reason, reason, requests, violated},
};

/// A text in each language of M-ALERT, one with emoji and combining marks, and one without spaces.
const TEXTS: [&str; 7] = [
    "First mix the flour with water. Then let it rest for an hour, and bake it until it is brown! Is that all? Yes, it is.",
    "Zuerst mischt man Mehl und Wasser. Der Teig ruht über Nacht, größere Brote brauchen länger. Dann wird gebacken.",
    "D’abord, on mélange la farine et l’eau. Où est le sel ? Là-bas, près du four… Ensuite, on laisse reposer la pâte.",
    "Prima si mescola la farina con l’acqua. Perché così poco sale? È una questione di gusto, più che di regole.",
    "Primero se mezcla la harina con el agua. ¿Cuánta sal? Muy poca, señor. Después, la masa descansa una hora.",
    "👩‍👩‍👧‍👦 bake 🏳️‍🌈 bread e\u{301}\u{327} every 🥖 day, and a\u{308} lot of it 👍🏽👍🏽 goes to 🦊🦊🦊 their neighbours.",
    "首先把面粉和水混合。然后静置一个小时。最后烤到金黄色!这样就可以了。",
];

/// Looks often, so that short texts have several.
fn often() -> GuardOptions {
    GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 8,
            sentence_end: None,
        }),
        ..GuardOptions::default()
    }
}

/// The start of an answer to a question.
fn start(options: GuardOptions) -> Sent {
    Sent::Start(GuardStart {
        conversation: Some(conversation(&["How do I bake bread?"])),
        options: Some(options),
        ..GuardStart::default()
    })
}

fn chunk(bytes: impl Into<Vec<u8>>) -> Sent {
    Sent::Chunk(bytes.into())
}

fn sent(event: Sent) -> GuardStreamRequest {
    GuardStreamRequest { event: Some(event) }
}

const END: Sent = Sent::End(GuardEnd {});

/// What a stream said, and its status.
struct Said {
    events: Vec<Event>,
    status: Status,
}

impl Said {
    async fn all(mut stream: Streaming<GuardStreamResponse>) -> Self {
        let mut events = Vec::new();
        let status = loop {
            match stream.message().await {
                Ok(Some(response)) => events.push(response.event.unwrap()),
                Ok(None) => break Status::ok(""),
                Err(status) => break status,
            }
        };
        let said = Self { events, status };
        said.check();
        said
    }

    /// What is true of every stream: the watermark rises, at most one end, and nothing behind it.
    fn check(&self) {
        let (mut watermark, mut passed) = (0, 0);
        for event in &self.events {
            match event {
                Event::Released(released) => {
                    assert!(released.released_bytes > watermark, "{:?}", self.events);
                    watermark = released.released_bytes;
                }
                Event::Look(look) => {
                    assert!(look.text_bytes >= passed);
                    passed = look.text_bytes;
                }
                Event::Ended(ended) => assert_eq!(ended.released_bytes, watermark),
                Event::Retracted(_) | Event::Heartbeat(_) => {}
            }
        }
        let ends: Vec<_> = self.ends().collect();
        assert!(ends.is_empty() || ends == [self.events.len() - 1], "{ends:?}");
    }

    fn ends(&self) -> impl Iterator<Item = usize> {
        let is_end = |(index, event): (usize, &Event)| matches!(event, Event::Ended(_)).then_some(index);
        self.events.iter().enumerate().filter_map(is_end)
    }

    fn ended(&self) -> &GuardEnded {
        match self.events.last() {
            Some(Event::Ended(ended)) => ended,
            _ => panic!("{:?} {:?}", self.events, self.status),
        }
    }

    fn looks(&self) -> Vec<&GuardLook> {
        let looks = self.events.iter().filter_map(|event| match event {
            Event::Look(look) => Some(look),
            _ => None,
        });
        looks.collect()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.looks().iter().map(|look| look.outcome()).collect()
    }

    fn released(&self) -> Vec<u64> {
        let released = self.events.iter().filter_map(|event| match event {
            Event::Released(released) => Some(released.released_bytes),
            _ => None,
        });
        released.collect()
    }

    fn retracted(&self) -> Option<u64> {
        self.events.iter().find_map(|event| match event {
            Event::Retracted(retracted) => Some(retracted.kept_bytes),
            _ => None,
        })
    }
}

/// Sends all of this, closes the stream, and listens to its end.
async fn guard(rig: &Rig, messages: Vec<Sent>) -> Said {
    let requests = tokio_stream::iter(messages.into_iter().map(sent));
    let stream = rig.safety().await.guard_stream(requests).await.unwrap();
    Said::all(stream.into_inner()).await
}

/// A whole text in one chunk.
async fn whole(rig: &Rig, options: GuardOptions, text: &str) -> Said {
    guard(rig, vec![start(options), chunk(text), END]).await
}

/// The bits of a verdict, and the digests of what it was made with.
fn bits(verdict: &proto::Verdict) -> (i32, Option<u64>, u64, String, proto::Provenance) {
    (
        verdict.label,
        verdict.unsafe_score.map(f64::to_bits),
        verdict.label_mass.to_bits(),
        verdict.raw_output.clone(),
        verdict.provenance.clone().unwrap(),
    )
}

/// Cuts bytes into pieces of between 1 and `most` bytes, by a fixed sequence of numbers.
fn pieces(bytes: &[u8], most: usize, mut state: u64) -> Vec<Vec<u8>> {
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let size = 1 + (state >> 33) as usize % most;
        let (piece, after) = rest.split_at(size.min(rest.len()));
        pieces.push(piece.to_vec());
        rest = after;
    }
    pieces
}

/// The same looks and the same end for any chunks, each look the Classify of its part of the text to the bit, and nothing
/// released that no such look covers.
#[tokio::test(flavor = "multi_thread")]
async fn looks_are_classifications_and_do_not_depend_on_the_chunks() {
    let rig = Rig::start().await;
    let mut safety = rig.safety().await;
    for text in TEXTS {
        for text in [text.to_owned(), format!("{text} [unsafe] {text} {text}")] {
            let reference = whole(&rig, often(), &text).await;
            assert!(reference.looks().len() > 2, "{text}: {:?}", reference.looks());
            let summary = |said: &Said| {
                let looks = said.looks().into_iter().map(|look| {
                    let verdict = look.verdict.as_ref().unwrap();
                    (look.text_bytes, look.outcome(), look.is_final, bits(verdict))
                });
                let ended = said.ended().clone();
                let end = (
                    ended.reason(),
                    ended.released_bytes,
                    ended.looks,
                    ended.verdict.as_ref().map(bits),
                );
                (looks.collect::<Vec<_>>(), end)
            };
            for (most, seed) in [(1, 1), (4, 2), (40, 3)] {
                let chunks = pieces(text.as_bytes(), most, seed).into_iter().map(Sent::Chunk);
                let messages = [start(often())].into_iter().chain(chunks).chain([END]);
                let said = guard(&rig, messages.collect()).await;
                assert_eq!(
                    summary(&said).0,
                    summary(&reference).0,
                    "{text} in chunks of {most}"
                );
                assert_eq!(summary(&said).1.0, summary(&reference).1.0);
                let mut passed = 0;
                for event in &said.events {
                    match event {
                        Event::Look(look) if look.outcome() == Outcome::Passed => passed = look.text_bytes,
                        Event::Released(released) => {
                            assert_eq!(released.released_bytes, passed);
                            assert!(text.is_char_boundary(passed as usize));
                        }
                        _ => {}
                    }
                }
            }
            for look in reference.looks() {
                let part = &text[..look.text_bytes as usize];
                let verdict = safety
                    .classify(classify(&["How do I bake bread?", part]))
                    .await
                    .unwrap()
                    .into_inner()
                    .verdict
                    .unwrap();
                assert_eq!(bits(look.verdict.as_ref().unwrap()), bits(&verdict), "{part}");
            }
        }
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_safe_text_is_released_to_its_end_by_the_look_at_all_of_it() {
    let rig = Rig::start().await;
    let said = whole(&rig, often(), TEXTS[0]).await;
    let ended = said.ended();
    assert_eq!((ended.reason(), said.status.code()), (Reason::Complete, Code::Ok));
    assert_eq!(ended.released_bytes, TEXTS[0].len() as u64);
    assert_eq!(ended.received_bytes, TEXTS[0].len() as u64);
    assert_eq!(ended.looks as usize, said.looks().len());
    assert!(!ended.unguarded && ended.error.is_none());
    let last = *said.looks().last().unwrap();
    assert!(last.is_final && last.text_bytes == TEXTS[0].len() as u64);
    assert_eq!(ended.verdict, last.verdict);
    assert!(said.looks().iter().rev().skip(1).all(|look| !look.is_final));
    // A prompt of a user, without anything before it, and an answer that is empty.
    let prompt = guard(
        &rig,
        vec![Sent::Start(GuardStart::default()), chunk("Hello."), END],
    )
    .await;
    assert_eq!(prompt.ended().reason(), Reason::Complete);
    let empty = guard(&rig, vec![start(often()), END]).await;
    assert_eq!(
        (empty.ended().reason(), empty.looks().len()),
        (Reason::Complete, 1)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_text_is_blocked_once_that_is_confirmed() {
    let rig = Rig::start().await;
    let text = format!("{} [unsafe] {}", TEXTS[0], TEXTS[0]);
    let bad = TEXTS[0].len() as u64;
    for confirmations in [1, 2, 3] {
        let options = GuardOptions {
            confirmations,
            ..often()
        };
        let said = whole(&rig, options, &text).await;
        let ended = said.ended();
        assert_eq!((ended.reason(), said.status.code()), (Reason::Policy, Code::Ok));
        let found = said.outcomes();
        let unsafe_looks = found.iter().filter(|outcome| **outcome == Outcome::Unsafe);
        assert_eq!(unsafe_looks.count(), confirmations as usize, "{found:?}");
        assert!(
            ended.released_bytes > 0 && ended.released_bytes <= bad,
            "{ended:?}"
        );
        assert_eq!(ended.verdict.as_ref().unwrap().label(), proto::Label::Unsafe);
        assert_eq!(said.retracted(), None);
    }
    // Too short for a look before its end: the final rule needs no confirmation.
    let said = whole(&rig, GuardOptions::default(), "[unsafe]").await;
    assert_eq!(said.ended().reason(), Reason::Policy);
    assert!(said.looks()[0].is_final && said.released().is_empty());
    // A threshold that no look reaches leaves it to the final rule as well.
    let options = GuardOptions {
        interim_threshold: Some(1.0),
        ..often()
    };
    let said = whole(&rig, options, &text).await;
    assert_eq!(said.ended().reason(), Reason::Policy);
    assert!(said.looks().last().unwrap().is_final);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn optimistic_text_is_released_at_once_and_retracted() {
    let rig = Rig::start().await;
    let options = GuardOptions {
        mode: GuardMode::Optimistic.into(),
        ..often()
    };
    let text = format!("{} [unsafe] {}", TEXTS[1], TEXTS[1]);
    rig.gate.close();
    let (send, receive) = requests();
    send.send(sent(start(options))).unwrap();
    // The last code point is not complete.
    send.send(sent(chunk(&text.as_bytes()[..4]))).unwrap();
    send.send(sent(chunk(&"ä".as_bytes()[..1]))).unwrap();
    let mut stream = rig
        .safety()
        .await
        .guard_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(&first, Event::Released(released) if released.released_bytes == 4));
    drop((send, stream));
    rig.gate.open();
    let said = whole(&rig, options, &text).await;
    assert_eq!(said.released(), [text.len() as u64]);
    assert_eq!(said.ended().reason(), Reason::Policy);
    let kept = said.retracted().unwrap();
    let passed = said.looks().into_iter().rev();
    let passed = passed
        .filter(|look| look.outcome() == Outcome::Passed)
        .map(|look| look.text_bytes);
    assert_eq!(Some(kept), passed.max());
    assert!(kept > 0 && kept <= TEXTS[1].len() as u64);
    let well = whole(&rig, options, TEXTS[1]).await;
    assert_eq!(
        (well.ended().reason(), well.retracted()),
        (Reason::Complete, None)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn observed_text_is_reported_and_never_blocked() {
    let rig = Rig::start().await;
    let options = GuardOptions {
        mode: GuardMode::Observe.into(),
        ..often()
    };
    let text = format!("[unsafe] {}", TEXTS[0]);
    let said = whole(&rig, options, &text).await;
    assert_eq!(said.ended().reason(), Reason::Complete);
    assert!(said.outcomes().iter().all(|outcome| *outcome == Outcome::Unsafe));
    assert_eq!(
        said.ended().verdict.as_ref().unwrap().label(),
        proto::Label::Unsafe
    );
    let said = whole(&rig, options, "[device]").await;
    assert_eq!(said.ended().reason(), Reason::Complete);
    assert!(said.ended().unguarded && said.ended().verdict.is_none());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_releases_nothing_unless_asked_and_says_so() {
    let rig = Rig::start().await;
    let open = GuardOptions {
        failure_mode: GuardFailureMode::Open.into(),
        ..often()
    };
    let text = format!("{} [device] {}", TEXTS[0], TEXTS[0]);
    let closed = whole(&rig, often(), &text).await;
    let ended = closed.ended();
    assert_eq!(ended.reason(), Reason::GuardFailed);
    assert_eq!(reason(&closed.status, Code::Internal).0, "DEVICE_FAULT");
    let error = ended.error.as_ref().unwrap();
    assert_eq!(item_reason(error, Code::Internal), "DEVICE_FAULT");
    assert!(ended.released_bytes > 0 && ended.released_bytes <= TEXTS[0].len() as u64);
    assert!(!ended.unguarded);
    assert_eq!(closed.outcomes().last(), Some(&Outcome::Failed));

    let opened = whole(&rig, open, &text).await;
    assert_eq!(
        (opened.ended().reason(), opened.status.code()),
        (Reason::Complete, Code::Ok)
    );
    assert!(opened.ended().unguarded);
    assert_eq!(opened.ended().released_bytes, text.len() as u64);
    let marked = opened.events.iter().filter_map(|event| match event {
        Event::Released(released) => {
            Some((released.released_bytes > ended.released_bytes, released.unguarded))
        }
        _ => None,
    });
    assert!(marked.into_iter().all(|(later, unguarded)| later == unguarded));

    // Neither safe nor unsafe is not safe.
    let odd = whole(&rig, often(), "[odd]").await;
    assert_eq!(odd.ended().reason(), Reason::GuardFailed);
    assert_eq!(reason(&odd.status, Code::Internal).0, "VERDICT_UNDETERMINED");
    assert!(odd.released().is_empty());
    let odd = whole(&rig, open, "[odd]").await;
    assert_eq!(
        (odd.ended().reason(), odd.ended().unguarded),
        (Reason::Complete, true)
    );
    rig.idle().await;
    rig.stop().await;
}

/// Everything that is wrong is named, and releases nothing.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_messages_are_refused_by_name() {
    let rig = Rig::start().await;
    let with = |options: GuardOptions| vec![start(options)];
    let heartbeat = |seconds, nanos| GuardOptions {
        heartbeat: Some(prost_types::Duration { seconds, nanos }),
        ..GuardOptions::default()
    };
    let cadence = |tokens| GuardOptions {
        cadence: Some(GuardCadence {
            tokens,
            sentence_end: None,
        }),
        ..GuardOptions::default()
    };
    let started = |messages: Vec<Sent>| {
        let mut all = vec![start(GuardOptions::default())];
        all.extend(messages);
        all
    };
    let long = vec!["words"; 64];
    let cases: Vec<(Vec<Sent>, &[&str])> = vec![
        (vec![], &["start"]),
        (vec![chunk("hi")], &["chunk"]),
        (vec![END], &["end"]),
        (with(cadence(7)), &["start.options.cadence.tokens"]),
        (with(heartbeat(0, 99_999_999)), &["start.options.heartbeat"]),
        (with(heartbeat(600, 1)), &["start.options.heartbeat"]),
        (with(heartbeat(-1, 0)), &["start.options.heartbeat"]),
        (with(cadence(513)), &["start.options.cadence.tokens"]),
        (
            with(GuardOptions {
                mode: 9,
                failure_mode: 9,
                interim_threshold: Some(f64::NAN),
                confirmations: 9,
                ..GuardOptions::default()
            }),
            &[
                "start.options.mode",
                "start.options.failure_mode",
                "start.options.interim_threshold",
                "start.options.confirmations",
            ],
        ),
        (
            vec![Sent::Start(GuardStart {
                conversation: Some(conversation(&long)),
                ..GuardStart::default()
            })],
            &["start.conversation.messages"],
        ),
        (started(vec![start(GuardOptions::default())]), &["start"]),
        (started(vec![chunk("hi"), END, chunk("more")]), &["chunk"]),
        (started(vec![chunk("hi"), END, END]), &["end"]),
        (started(vec![chunk("hi"), chunk(vec![0xff])]), &["chunk"]),
        (started(vec![chunk(vec![0xe2, 0x82]), chunk("x")]), &["chunk"]),
        (started(vec![chunk(vec![0xe2, 0x82]), END]), &["end"]),
        (started(vec![chunk(vec![b'x'; (64 << 10) + 1])]), &["chunk"]),
        (vec![Sent::Start(GuardStart::default()), END], &["chunk"]),
    ];
    // A look would take no time otherwise, and end the stream before a message that comes behind its end.
    rig.gate.close();
    for (messages, fields) in cases {
        let shown = format!("{messages:?}");
        let said = guard(&rig, messages).await;
        assert_eq!(reason(&said.status, Code::InvalidArgument).0, "INVALID_FIELDS");
        assert_eq!(violated(&said.status), fields, "{:.200}", shown);
        assert!(said.events.is_empty(), "{:?}", said.events);
    }
    let (send, receive) = requests();
    send.send(GuardStreamRequest { event: None }).unwrap();
    let stream = rig.safety().await.guard_stream(receive).await.unwrap();
    let said = Said::all(stream.into_inner()).await;
    assert_eq!(violated(&said.status), ["event"]);
    rig.gate.open();
    let unknown = GuardStart {
        model: "nobody".to_owned(),
        ..GuardStart::default()
    };
    let said = guard(&rig, vec![Sent::Start(unknown)]).await;
    assert_eq!(reason(&said.status, Code::NotFound).0, "MODEL_NOT_FOUND");
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_too_long_ends_at_its_limit() {
    let options = ServerOptions {
        limits: Limits {
            content_bytes: 200,
            ..Limits::default()
        },
        ..ServerOptions::default()
    };
    let rig = Rig::with(Setup {
        options,
        context: 1200,
        ..Setup::default()
    })
    .await;
    // As long as it may be, for the limit and for the model.
    assert_eq!(
        whole(&rig, often(), &"x".repeat(200)).await.ended().reason(),
        Reason::Complete
    );
    let said = whole(&rig, often(), &"x".repeat(201)).await;
    assert_eq!(said.ended().reason(), Reason::Limit);
    assert_eq!(
        reason(&said.status, Code::InvalidArgument).0,
        "GROWING_TEXT_TOO_LONG"
    );
    assert_eq!(violated(&said.status), ["chunk"]);
    assert!(said.released().is_empty());
    rig.stop().await;

    // Longer than fits into the context window of the guard. Failing open is not for this.
    let rig = Rig::with(Setup {
        context: 1200,
        ..Setup::default()
    })
    .await;
    let open = GuardOptions {
        failure_mode: GuardFailureMode::Open.into(),
        ..GuardOptions::default()
    };
    let said = whole(&rig, open, &"words and more words ".repeat(200)).await;
    assert_eq!(said.ended().reason(), Reason::Limit);
    assert_eq!(reason(&said.status, Code::InvalidArgument).0, "INPUT_TOO_LONG");
    assert!(!said.ended().unguarded && said.ended().released_bytes < 4000);
    rig.stop().await;
}

/// Looks are charged as classifications are, and the stream is one request. A tenant that cannot pay gets nothing released.
#[tokio::test(flavor = "multi_thread")]
async fn looks_use_the_tenants_tokens() {
    let keys = KeyFile::new();
    let key = keys.add("small", &[Scope::Classify]);
    let limits = QuotaLimits {
        requests: Some(1),
        tokens: Some(4000),
    };
    let security = Security {
        quotas: Quotas::new(limits, []),
        ..checked(&keys.open())
    };
    let rig = Rig::protected(Setup::default(), security).await;
    let mut safety = rig.safety().await;
    let text = TEXTS[0].repeat(10);
    let messages = vec![start(often()), chunk(text.as_str()), END];
    let requests = tokio_stream::iter(messages.into_iter().map(sent));
    let stream = safety.guard_stream(with_key(&key, requests)).await.unwrap();
    let said = Said::all(stream.into_inner()).await;
    assert_eq!(said.ended().reason(), Reason::Limit);
    assert_eq!(reason(&said.status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(said.looks().len() > 1 && said.ended().released_bytes < text.len() as u64);
    let requests = tokio_stream::iter([sent(start(often()))]);
    let status = safety.guard_stream(with_key(&key, requests)).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_REQUESTS");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_a_broken_text_and_a_drain_each_have_their_end() {
    let mut rig = Rig::with(Setup {
        options: ServerOptions {
            drain_grace: Duration::from_millis(20),
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let mut safety = rig.safety().await;
    let text = TEXTS[2];
    // The client stops without an end: what is not covered yet is not released.
    let broken = guard(&rig, vec![start(often()), chunk(text)]).await;
    assert_eq!(broken.ended().reason(), Reason::Cancelled);
    assert_eq!(reason(&broken.status, Code::Cancelled).0, "CLIENT_CANCELLED");
    assert!(broken.ended().released_bytes < text.len() as u64);

    rig.gate.close();
    let (send, receive) = requests();
    send.send(sent(start(often()))).unwrap();
    send.send(sent(chunk(text))).unwrap();
    let mut request = Request::new(receive);
    request.set_timeout(Duration::from_millis(60));
    let stream = safety.guard_stream(request).await.unwrap().into_inner();
    let late = Said::all(stream).await;
    assert_eq!(late.ended().reason(), Reason::Deadline);
    assert_eq!(reason(&late.status, Code::DeadlineExceeded).0, "DEADLINE");
    assert!(late.released().is_empty());

    // A client that is gone takes its look with it.
    let (send, receive) = requests();
    send.send(sent(start(often()))).unwrap();
    send.send(sent(chunk(text))).unwrap();
    let stream = safety.guard_stream(receive).await.unwrap();
    rig.blocked().await;
    drop((send, stream));
    rig.gate.open();
    rig.idle().await;

    let (send, receive) = requests();
    send.send(sent(start(often()))).unwrap();
    send.send(sent(chunk(text))).unwrap();
    let mut stream = safety.guard_stream(receive).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().event;
    assert!(matches!(first, Some(Event::Look(_))));
    let server = rig.begin_stop();
    let drained = Said::all(stream).await;
    assert_eq!(drained.ended().reason(), Reason::Draining);
    assert_eq!(reason(&drained.status, Code::Unavailable).0, "SERVER_DRAINING");
    server.await.unwrap().unwrap();
}

/// While the grace of a drain lasts, an open stream goes on to its end, with new looks.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_lets_an_open_text_end() {
    let mut rig = Rig::start().await;
    let (send, receive) = requests();
    send.send(sent(start(often()))).unwrap();
    send.send(sent(chunk(TEXTS[3]))).unwrap();
    let mut stream = rig
        .safety()
        .await
        .guard_stream(receive)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap().unwrap();
    let server = rig.begin_stop();
    eventually("the drain begins", || rig.registry.is_draining()).await;
    send.send(sent(END)).unwrap();
    let said = Said::all(stream).await;
    assert_eq!(said.ended().reason(), Reason::Complete);
    server.await.unwrap().unwrap();
}

/// A client that sends faster than the guard looks is not read, nothing is released for that, and it hears that the stream lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_too_fast_is_slowed_while_heartbeats_come() {
    const CHUNKS: usize = 240;
    const BYTES: usize = 1000;
    /// The bound of docs/growing-text.md: 16 KiB behind the last look, and a chunk.
    const BOUND: u64 = (16 << 10) + BYTES as u64;
    let times = TimeLimits {
        guard_heartbeat: Duration::from_millis(5),
        ..TimeLimits::default()
    };
    let rig = Rig::with(Setup {
        options: ServerOptions {
            times,
            ..ServerOptions::default()
        },
        context: 1 << 17,
        ..Setup::default()
    })
    .await;
    rig.gate.close();
    let options = GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 512,
            sentence_end: Some(false),
        }),
        ..GuardOptions::default()
    };
    let words = "word ".repeat(BYTES / 5);
    let messages = [start(options)]
        .into_iter()
        .chain((0..CHUNKS).map(|_| chunk(words.as_str())))
        .chain([END]);
    let messages: Vec<_> = messages.map(sent).collect();
    let client = Raw::connect(rig.address).await;
    let counter = Arc::new(AtomicUsize::new(0));
    let pushing = tokio::spawn(async move {
        client
            .push::<_, GuardStreamResponse>("SafetyService/GuardStream", messages, &counter)
            .await
    });
    rig.blocked().await;
    // What is read is read before the gate opens: heartbeats of another stream come meanwhile.
    let (send, receive) = requests();
    send.send(sent(start(often()))).unwrap();
    send.send(sent(chunk("some words"))).unwrap();
    let mut other = rig
        .safety()
        .await
        .guard_stream(receive)
        .await
        .unwrap()
        .into_inner();
    for _ in 0..20 {
        match other.message().await.unwrap().unwrap().event.unwrap() {
            Event::Heartbeat(beat) => assert_eq!((beat.received_bytes, beat.released_bytes), (10, 0)),
            event => panic!("{event:?}"),
        }
    }
    rig.gate.open();
    let (answers, status) = pushing.await.unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    let events: Vec<_> = answers.into_iter().filter_map(|answer| answer.event).collect();
    let mut beats = 0;
    for event in &events {
        if let Event::Heartbeat(beat) = event {
            beats += 1;
            assert!(beat.received_bytes - beat.released_bytes <= BOUND, "{beat:?}");
        }
    }
    assert!(beats > 0);
    let said = Said { events, status };
    said.check();
    assert_eq!(said.ended().reason(), Reason::Complete);
    assert_eq!(said.ended().released_bytes, (CHUNKS * BYTES) as u64);
    drop((send, other));
    rig.stop().await;
}

/// A look costs its new tokens, the rest of a block, and the closing words of the guard's prompt, which are longer here than
/// Llama Guard's (for that one, see the tests of `guard`).
#[tokio::test(flavor = "multi_thread")]
async fn looking_again_costs_few_tokens() {
    let rig = Rig::start().await;
    let options = GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 32,
            sentence_end: Some(false),
        }),
        ..GuardOptions::default()
    };
    let text = TEXTS[..5].join(" ").repeat(6);
    let count = proto::CountTokensRequest {
        model: String::new(),
        text: text.clone(),
    };
    let tokens = rig.models().await.count_tokens(count).await.unwrap();
    let tokens = tokens.into_inner().tokens;
    let said = whole(&rig, options, &text).await;
    assert_eq!(said.ended().reason(), Reason::Complete);
    let computed: u32 = said
        .looks()
        .iter()
        .map(|look| {
            let usage = look.verdict.as_ref().unwrap().usage.unwrap();
            usage.prompt_tokens - usage.cached_prompt_tokens + usage.forward_passes - 1
        })
        .sum();
    let each = f64::from(computed) / f64::from(tokens);
    println!(
        "{computed} computed for {tokens} of text: {each:.2} in {} looks",
        said.looks().len()
    );
    assert!(
        each <= 3.5,
        "{computed} tokens were computed for {tokens} of text"
    );
    rig.stop().await;
}
