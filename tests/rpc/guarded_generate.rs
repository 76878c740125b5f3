//! Generate with a guard: the answer is released by the rules of GuardStream while the target still writes it.

use std::time::Duration;

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    proto::{
        self, AnswerGuard, FinishReason, GenerateRequest, GenerateResponse, GuardCadence, GuardEnded,
        GuardFailureMode, GuardLook, GuardMode, GuardOptions, GuardStart, GuardStreamRequest,
        generate_request::Prompt, generate_response::Event, generate_stream_request::Action,
        generate_stream_response::Result as Answered, guard_ended::Reason, guard_look::Outcome,
        guard_stream_request, guard_stream_response,
    },
    rpc::{Security, ServerOptions, TimeLimits},
};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt as _;

use crate::{
    credentials::{KeyFile, checked, with_key},
    rig::{
        BASE, Rig, Setup, classify, conversation, eventually, generate_tokens, item_reason, reason, requests,
        score, violated,
    },
};

/// Answers in several languages, one with emoji and combining marks, and one without spaces.
const TEXTS: [&str; 6] = [
    "First mix the flour with water. Then let it rest for an hour, and bake it until it is brown! Is that all? Yes, it is.",
    "Zuerst mischt man Mehl und Wasser. Der Teig ruht über Nacht, größere Brote brauchen länger. Dann wird gebacken.",
    "D’abord, on mélange la farine et l’eau. Où est le sel ? Là-bas, près du four… Ensuite, on laisse reposer la pâte.",
    "Primero se mezcla la harina con el agua. ¿Cuánta sal? Muy poca, señor. Después, la masa descansa una hora.",
    "👩‍👩‍👧‍👦 bake 🏳️‍🌈 bread e\u{301}\u{327} every 🥖 day, and a\u{308} lot of it 👍🏽👍🏽 goes to 🦊🦊🦊 their neighbours.",
    "首先把面粉和水混合。然后静置一个小时。最后烤到金黄色!这样就可以了。",
];

/// Looks often, so that short answers have several.
fn often() -> GuardOptions {
    GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 8,
            sentence_end: None,
        }),
        ..GuardOptions::default()
    }
}

fn with_mode(mode: GuardMode) -> GuardOptions {
    GuardOptions {
        mode: mode.into(),
        ..often()
    }
}

/// The prompt after which the target says this. What the guard looks for is only in the answer.
fn asking_for(text: &str) -> String {
    let hidden = ["unsafe", "nan", "odd"]
        .iter()
        .fold(text.to_owned(), |text, marker| {
            text.replace(
                &format!("[{marker}]"),
                &format!("[{}[cut]{}]", &marker[..1], &marker[1..]),
            )
        });
    format!("[say {hidden}]")
}

/// A Generate without a guard after which the target says this.
fn plain(text: &str) -> GenerateRequest {
    generate_tokens(&asking_for(text), 1000)
}

fn guarded(text: &str, options: GuardOptions) -> GenerateRequest {
    GenerateRequest {
        guard: Some(AnswerGuard {
            options: Some(options),
            ..AnswerGuard::default()
        }),
        ..plain(text)
    }
}

/// What a call said, and its status.
struct Said {
    events: Vec<Event>,
    status: Status,
}

impl Said {
    async fn all(mut stream: Streaming<GenerateResponse>) -> Self {
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

    /// What is true of every answer: Started first, text without gaps, looks in rising order, and at most one end, last, whose
    /// digest is that of the text.
    fn check(&self) {
        let (mut text, mut looked) = (String::new(), 0);
        for (index, event) in self.events.iter().enumerate() {
            match event {
                Event::Started(_) => assert_eq!(index, 0),
                Event::Delta(delta) => {
                    assert_eq!(delta.offset_bytes, text.len() as u64);
                    text.push_str(&delta.text);
                }
                Event::Look(look) => {
                    assert!(look.text_bytes >= looked);
                    looked = look.text_bytes;
                }
                Event::Retracted(_) | Event::Heartbeat(_) => {}
                Event::Finished(finished) => {
                    assert_eq!(index + 1, self.events.len(), "something follows the end");
                    assert_eq!(finished.text_digest, babelward::digest::of_bytes(&text));
                    if let Some(ended) = &finished.guard {
                        assert_eq!(ended.released_bytes, text.len() as u64);
                        assert!(ended.received_bytes >= ended.released_bytes);
                        assert_eq!(ended.looks as usize, self.looks().len());
                    }
                }
            }
        }
    }

    /// Checks that no byte was sent before a look that passed covered it.
    fn check_held_back(&self) {
        let mut passed = 0;
        for event in &self.events {
            match event {
                Event::Look(look) if look.outcome() == Outcome::Passed => passed = look.text_bytes,
                Event::Delta(delta) => assert!(delta.offset_bytes + delta.text.len() as u64 <= passed),
                _ => {}
            }
        }
    }

    fn text(&self) -> String {
        self.deltas().map(|delta| delta.text.as_str()).collect()
    }

    fn deltas(&self) -> impl Iterator<Item = &proto::GenerateDelta> {
        self.events.iter().filter_map(|event| match event {
            Event::Delta(delta) => Some(delta),
            _ => None,
        })
    }

    fn token_ids(&self) -> Vec<u32> {
        self.deltas().flat_map(|delta| delta.token_ids.clone()).collect()
    }

    fn logprobs(&self) -> Vec<proto::TokenLogprob> {
        self.deltas().flat_map(|delta| delta.logprobs.clone()).collect()
    }

    fn looks(&self) -> Vec<&GuardLook> {
        let looks = self.events.iter().filter_map(|event| match event {
            Event::Look(look) => Some(look),
            _ => None,
        });
        looks.collect()
    }

    fn retracted(&self) -> Option<u64> {
        self.events.iter().find_map(|event| match event {
            Event::Retracted(retracted) => Some(retracted.kept_bytes),
            _ => None,
        })
    }

    fn finished(&self) -> &proto::GenerateFinished {
        match self.events.last() {
            Some(Event::Finished(finished)) => finished,
            _ => panic!("{:?} {:?}", self.events, self.status),
        }
    }

    fn ended(&self) -> &GuardEnded {
        self.finished().guard.as_ref().unwrap()
    }
}

async fn answer(rig: &Rig, request: GenerateRequest) -> Said {
    let stream = rig.generation().await.generate(request).await.unwrap();
    Said::all(stream.into_inner()).await
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

/// The looks of a GuardStream at this answer, and how it ends.
async fn streamed(rig: &Rig, text: &str, options: GuardOptions) -> (Vec<GuardLook>, GuardEnded) {
    use guard_stream_request::Event as Sent;
    let start = Sent::Start(GuardStart {
        conversation: Some(conversation(&[&asking_for(text)])),
        options: Some(options),
        ..GuardStart::default()
    });
    let messages = [
        start,
        Sent::Chunk(text.as_bytes().to_vec()),
        Sent::End(proto::GuardEnd {}),
    ];
    let messages = messages.map(|event| GuardStreamRequest { event: Some(event) });
    let stream = rig
        .safety()
        .await
        .guard_stream(tokio_stream::iter(messages))
        .await
        .unwrap();
    let mut stream = stream.into_inner();
    let mut looks = Vec::new();
    loop {
        match stream.message().await.unwrap().unwrap().event.unwrap() {
            guard_stream_response::Event::Look(look) => looks.push(look),
            guard_stream_response::Event::Ended(ended) => return (looks, ended),
            _ => {}
        }
    }
}

/// The looks of a guarded answer are those of a GuardStream of the same text, each the Classify of its part to the bit, and
/// nothing comes that no passed look covers.
#[tokio::test(flavor = "multi_thread")]
async fn looks_at_an_answer_are_classifications_and_cover_what_is_sent() {
    let rig = Rig::start().await;
    let mut safety = rig.safety().await;
    for text in TEXTS {
        for text in [text.to_owned(), format!("{text} [unsafe] {text} {text}")] {
            let said = answer(&rig, guarded(&text, often())).await;
            said.check_held_back();
            let (looks, ended) = streamed(&rig, &text, often()).await;
            let summary = |look: &GuardLook| {
                let verdict = look.verdict.as_ref().unwrap();
                (look.text_bytes, look.outcome(), look.is_final, bits(verdict))
            };
            let own: Vec<_> = said.looks().into_iter().map(summary).collect();
            assert_eq!(own, looks.iter().map(summary).collect::<Vec<_>>(), "{text}");
            assert!(own.len() > 2);
            assert_eq!(said.ended().reason(), ended.reason());
            assert_eq!(said.ended().released_bytes, ended.released_bytes);
            assert!(text.starts_with(&said.text()));
            assert_eq!(said.status.code(), Code::Ok);
            for look in said.looks() {
                let part = &text[..look.text_bytes as usize];
                let verdict = safety
                    .classify(classify(&[&asking_for(&text), part]))
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

/// With a guard that finds nothing, an answer is what it is without one: its text, tokens, log-probabilities and reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_safe_answer_is_the_same_with_and_without_a_guard() {
    let rig = Rig::start().await;
    let logprobs = Some(proto::LogprobOptions {
        generated: true,
        top_n: 2,
    });
    let stopping = |stop: &str| {
        Some(proto::StoppingParams {
            max_new_tokens: 60,
            stop_sequences: vec![stop.to_owned()],
        })
    };
    let cases = TEXTS.map(|text| (text, "no such text")).into_iter().chain([
        (TEXTS[0], " rest for"),
        // Its beginning is held back by the target several times.
        (TEXTS[0], ". Is not"),
        (TEXTS[4], "🦊🦊"),
    ]);
    for (text, stop) in cases {
        for mode in [GuardMode::HoldBack, GuardMode::Optimistic, GuardMode::Observe] {
            let alone = GenerateRequest {
                logprobs,
                stopping: stopping(stop),
                ..plain(text)
            };
            let request = GenerateRequest {
                guard: guarded(text, with_mode(mode)).guard,
                ..alone.clone()
            };
            let said = answer(&rig, request).await;
            let alone = answer(&rig, alone).await;
            assert_eq!(said.text(), alone.text());
            assert_eq!(said.token_ids(), alone.token_ids());
            assert_eq!(said.logprobs(), alone.logprobs());
            let (finished, reference) = (said.finished(), alone.finished());
            assert_eq!(finished.finish_reason(), reference.finish_reason());
            assert_eq!(finished.stop_sequence, reference.stop_sequence);
            assert_eq!(
                finished.usage.unwrap().completion_tokens,
                reference.usage.unwrap().completion_tokens
            );
            assert!(reference.guard.is_none());
            let ended = said.ended();
            assert_eq!((ended.reason(), ended.unguarded), (Reason::Complete, false));
            assert_eq!(ended.received_bytes, ended.released_bytes);
            assert_eq!(finished.decoded_after_detection, None);
            assert!(said.looks().last().unwrap().is_final && said.retracted().is_none());
        }
    }
    // An answer that is empty is judged too.
    let mute = GenerateRequest {
        guard: guarded("", often()).guard,
        ..generate_tokens("[mute]", 10)
    };
    let said = answer(&rig, mute).await;
    assert_eq!((said.ended().reason(), said.looks().len()), (Reason::Complete, 1));
    assert_eq!(said.finished().finish_reason(), FinishReason::Eos);
    rig.stop().await;
}

/// The target is stopped, and its blocks and those of the guard are free.
#[tokio::test(flavor = "multi_thread")]
async fn an_unsafe_answer_is_blocked_and_its_target_stopped() {
    let rig = Rig::start().await;
    let text = format!("{} [unsafe] {}", TEXTS[0], TEXTS[0].repeat(20));
    let whole = answer(&rig, plain(&text)).await;
    let all_tokens = whole.finished().usage.unwrap().completion_tokens;
    for confirmations in [1, 2] {
        let options = GuardOptions {
            confirmations,
            ..often()
        };
        let said = answer(&rig, guarded(&text, options)).await;
        let finished = said.finished();
        assert_eq!(said.status.code(), Code::Ok);
        assert_eq!(finished.finish_reason(), FinishReason::Guard);
        let ended = said.ended();
        assert_eq!(ended.reason(), Reason::Policy);
        assert_eq!(ended.verdict.as_ref().unwrap().label(), proto::Label::Unsafe);
        assert!(ended.released_bytes > 0 && ended.released_bytes <= TEXTS[0].len() as u64);
        let unsafe_looks = said.looks().into_iter();
        let unsafe_looks = unsafe_looks.filter(|look| look.outcome() == Outcome::Unsafe);
        assert_eq!(unsafe_looks.count(), confirmations as usize);
        let usage = finished.usage.unwrap();
        assert!(usage.completion_tokens < all_tokens, "{usage:?} of {all_tokens}");
        assert!(usage.completion_tokens as usize >= said.token_ids().len());
        assert!(finished.decoded_after_detection.unwrap() <= 1, "{finished:?}");
        assert!(finished.timing.is_some());
        rig.idle().await;
    }
    // The complete answer needs no confirmation, and a target that has ended already has computed nothing since.
    let said = answer(&rig, guarded("[unsafe]", GuardOptions::default())).await;
    assert_eq!(said.ended().reason(), Reason::Policy);
    assert_eq!(said.finished().finish_reason(), FinishReason::Guard);
    assert_eq!(said.finished().decoded_after_detection, Some(0));
    assert!(said.text().is_empty() && said.token_ids().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_optimistic_answer_is_retracted_and_an_observed_one_is_not() {
    let rig = Rig::start().await;
    let text = format!("{} [unsafe] {}", TEXTS[1], TEXTS[1]);
    let said = answer(&rig, guarded(&text, with_mode(GuardMode::Optimistic))).await;
    assert_eq!(said.ended().reason(), Reason::Policy);
    assert_eq!(said.finished().finish_reason(), FinishReason::Guard);
    let passed = said.looks().into_iter().rev();
    let passed = passed
        .filter(|look| look.outcome() == Outcome::Passed)
        .map(|look| look.text_bytes);
    assert_eq!(said.retracted(), passed.max());
    assert!(said.text().len() as u64 > said.retracted().unwrap());

    let said = answer(&rig, guarded(&text, with_mode(GuardMode::Observe))).await;
    assert_eq!((said.ended().reason(), said.text()), (Reason::Complete, text));
    assert_eq!(said.finished().finish_reason(), FinishReason::Eos);
    assert_eq!(
        said.ended().verdict.as_ref().unwrap().label(),
        proto::Label::Unsafe
    );
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_fails_ends_the_answer_unless_it_is_to_fail_open() {
    let rig = Rig::start().await;
    let open = GuardOptions {
        failure_mode: GuardFailureMode::Open.into(),
        ..often()
    };
    for (marker, code, name) in [
        ("[nan]", Code::Internal, "NUMERIC_FAULT"),
        ("[odd]", Code::Internal, "VERDICT_UNDETERMINED"),
    ] {
        let text = format!("{} {marker} {}", TEXTS[0], TEXTS[0]);
        let closed = answer(&rig, guarded(&text, often())).await;
        closed.check_held_back();
        assert_eq!(closed.ended().reason(), Reason::GuardFailed);
        assert_eq!(closed.finished().finish_reason(), FinishReason::Guard);
        assert_eq!(reason(&closed.status, code).0, name);
        assert_eq!(item_reason(closed.ended().error.as_ref().unwrap(), code), name);
        assert!(closed.finished().decoded_after_detection.unwrap() <= 1);
        assert!(!closed.ended().unguarded && closed.text().len() <= TEXTS[0].len());

        let opened = answer(&rig, guarded(&text, open)).await;
        assert_eq!(opened.status.code(), Code::Ok);
        assert_eq!((opened.ended().reason(), opened.text()), (Reason::Complete, text));
        assert!(opened.ended().unguarded);
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_needs_the_scope_of_classifications_too() {
    let keys = KeyFile::new();
    let writer = keys.add("writer", &[Scope::Generate]);
    let both = keys.add("both", &[Scope::Generate, Scope::Classify]);
    let rig = Rig::protected(Setup::default(), checked(&keys.open())).await;
    let mut client = rig.generation().await;
    let request = guarded("Hello there.", GuardOptions::default());
    let refused = client.generate(with_key(&writer, request.clone())).await;
    let (name, details) = reason(&refused.unwrap_err(), Code::PermissionDenied);
    assert_eq!(name, "SCOPE_MISSING");
    assert!(details.values().any(|value| value == "classify"), "{details:?}");
    let stream = client.generate(with_key(&both, request.clone())).await.unwrap();
    let said = Said::all(stream.into_inner()).await;
    assert_eq!(said.ended().reason(), Reason::Complete);
    let stream = client
        .generate(with_key(&writer, plain("Hello there.")))
        .await
        .unwrap();
    assert_eq!(Said::all(stream.into_inner()).await.text(), "Hello there.");

    let item = proto::GenerateStreamRequest {
        id: "one".to_owned(),
        action: Some(Action::Generate(request)),
        timeout: None,
    };
    let stream = client.generate_stream(with_key(&writer, tokio_stream::iter([item])));
    let mut stream = stream.await.unwrap().into_inner();
    match stream.message().await.unwrap().unwrap().result.unwrap() {
        Answered::Error(error) => assert_eq!(item_reason(&error, Code::PermissionDenied), "SCOPE_MISSING"),
        other => panic!("{other:?}"),
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_guard_is_named() {
    let rig = Rig::start().await;
    let mut client = rig.generation().await;
    let wrong = GuardOptions {
        mode: 9,
        failure_mode: 9,
        cadence: Some(GuardCadence {
            tokens: 7,
            sentence_end: None,
        }),
        interim_threshold: Some(1.5),
        confirmations: 9,
        heartbeat: Some(prost_types::Duration::default()),
    };
    let status = client.generate(guarded("Hi.", wrong)).await.unwrap_err();
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(
        violated(&status),
        [
            "guard.options.cadence.tokens",
            "guard.options.mode",
            "guard.options.failure_mode",
            "guard.options.interim_threshold",
            "guard.options.confirmations",
            "guard.options.heartbeat",
        ]
    );
    let mut unknown = guarded("Hi.", often());
    unknown.guard.as_mut().unwrap().model = "nobody".to_owned();
    let status = client.generate(unknown).await.unwrap_err();
    assert_eq!(reason(&status, Code::NotFound).0, "MODEL_NOT_FOUND");
    let mut no_guard = guarded("Hi.", often());
    no_guard.guard.as_mut().unwrap().model = BASE.to_owned();
    let status = client.generate(no_guard).await.unwrap_err();
    assert_eq!(reason(&status, Code::FailedPrecondition).0, "CAPABILITY_MISSING");
    // Who answers last cannot be answered by the target.
    let mut answered = guarded("Hi.", often());
    answered.prompt = Some(Prompt::Conversation(conversation(&["one", "two"])));
    let status = client.generate(answered).await.unwrap_err();
    assert_eq!(violated(&status), ["conversation.messages[1].role"]);
    let mut scored = score("[say Hi.]");
    scored.generate.as_mut().unwrap().guard = guarded("", often()).guard;
    let status = rig.scoring().await.score(scored).await.unwrap_err();
    assert_eq!(violated(&status), ["generate.guard"]);
    rig.stop().await;
}

/// Raw text and tokens are judged as the user's message, as in Score.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_to_raw_text_is_guarded_as_one_to_a_user() {
    let rig = Rig::start().await;
    let said = "[unsafe] [say go on]";
    let request = GenerateRequest {
        model: BASE.to_owned(),
        prompt: Some(Prompt::Text(said.to_owned())),
        ..guarded("", GuardOptions::default())
    };
    // The marker is in what the user said, so the guard sees it.
    let answered = answer(&rig, request).await;
    assert_eq!(answered.ended().reason(), Reason::Policy);
    assert!(answered.text().is_empty());
    rig.stop().await;
}

/// Looks are charged as classifications are, and the call is one request.
#[tokio::test(flavor = "multi_thread")]
async fn looks_at_an_answer_use_the_tenants_tokens() {
    let keys = KeyFile::new();
    let key = keys.add("small", &[Scope::Generate, Scope::Classify]);
    let limits = QuotaLimits {
        requests: Some(1),
        tokens: Some(6000),
    };
    let security = Security {
        quotas: Quotas::new(limits, []),
        ..checked(&keys.open())
    };
    let rig = Rig::protected(Setup::default(), security).await;
    let mut client = rig.generation().await;
    let text = TEXTS[0].repeat(8);
    let request = || guarded(&text, often());
    let stream = client.generate(with_key(&key, request())).await.unwrap();
    let said = Said::all(stream.into_inner()).await;
    said.check_held_back();
    assert_eq!(said.ended().reason(), Reason::Limit);
    assert_eq!(said.finished().finish_reason(), FinishReason::Guard);
    assert_eq!(reason(&said.status, Code::ResourceExhausted).0, "QUOTA_TOKENS");
    assert!(said.looks().len() > 1 && said.text().len() < text.len());
    let status = client.generate(with_key(&key, request())).await.unwrap_err();
    assert_eq!(reason(&status, Code::ResourceExhausted).0, "QUOTA_REQUESTS");
    rig.idle().await;
    rig.stop().await;
}

/// A deadline, a client that is gone and a drain end target and guard.
#[tokio::test(flavor = "multi_thread")]
async fn what_ends_the_call_ends_target_and_guard() {
    let mut rig = Rig::with(Setup {
        options: ServerOptions {
            drain_grace: Duration::from_millis(20),
            ..ServerOptions::default()
        },
        ..Setup::default()
    })
    .await;
    let mut client = rig.generation().await;
    rig.gate.close();
    let mut request = Request::new(guarded(TEXTS[2], often()));
    // Long enough for the target to be queued on a busy machine.
    request.set_timeout(Duration::from_millis(500));
    let stream = client.generate(request).await.unwrap().into_inner();
    let late = Said::all(stream).await;
    assert_eq!(late.ended().reason(), Reason::Deadline);
    assert_eq!(late.finished().finish_reason(), FinishReason::Guard);
    assert_eq!(reason(&late.status, Code::DeadlineExceeded).0, "DEADLINE");
    assert!(late.text().is_empty() && late.finished().decoded_after_detection.is_none());

    let stream = client.generate(guarded(TEXTS[2], often())).await.unwrap();
    rig.blocked().await;
    drop(stream);
    rig.gate.open();
    rig.idle().await;

    // An endless answer.
    let endless = GenerateRequest {
        guard: guarded("", often()).guard,
        ..generate_tokens("babble", 4000)
    };
    let mut stream = client.generate(endless).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    rig.gate.close();
    let server = rig.begin_stop();
    let mut last = None;
    let status = loop {
        match stream.message().await {
            Ok(Some(response)) => last = response.event,
            Ok(None) => panic!("the answer is complete: {last:?}"),
            Err(status) => break status,
        }
    };
    assert_eq!(reason(&status, Code::Unavailable).0, "SERVER_DRAINING");
    match last {
        Some(Event::Finished(finished)) => assert_eq!(finished.guard.unwrap().reason(), Reason::Draining),
        other => panic!("{other:?}"),
    }
    rig.gate.open();
    server.await.unwrap().unwrap();
}

/// A client hears that the answer is still written and looked at while it gets nothing of it.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_come_while_an_answer_is_held_back() {
    let rig = Rig::with(Setup {
        options: ServerOptions {
            times: TimeLimits {
                guard_heartbeat: Duration::from_millis(5),
                ..TimeLimits::default()
            },
            ..ServerOptions::default()
        },
        context: 1 << 14,
        ..Setup::default()
    })
    .await;
    let rarely = GuardOptions {
        cadence: Some(GuardCadence {
            tokens: 512,
            sentence_end: Some(false),
        }),
        ..GuardOptions::default()
    };
    let request = GenerateRequest {
        guard: guarded("", rarely).guard,
        ..generate_tokens("babble", 2500)
    };
    let mut stream = rig
        .generation()
        .await
        .generate(request)
        .await
        .unwrap()
        .into_inner();
    let before = rig.gate.passes();
    eventually("some tokens are written", || rig.gate.passes() > before + 4).await;
    rig.gate.close();
    let mut beats = 0;
    while beats < 3 {
        match stream.message().await.unwrap().unwrap().event.unwrap() {
            Event::Heartbeat(beat) => {
                assert!(beat.received_bytes > beat.released_bytes);
                beats += 1;
            }
            Event::Finished(finished) => panic!("{finished:?}"),
            _ => {}
        }
    }
    rig.gate.open();
    drop(stream);
    rig.idle().await;
    rig.stop().await;
}

/// Items of a stream have guards as calls have, and do not disturb each other.
#[tokio::test(flavor = "multi_thread")]
async fn items_of_a_stream_are_guarded_each_on_its_own() {
    let rig = Rig::start().await;
    let (send, receive) = requests();
    let bad = format!("{} [unsafe] {}", TEXTS[0], TEXTS[0]);
    let failing = format!("{} [nan] {}", TEXTS[0], TEXTS[0]);
    let items = [
        ("good", guarded(TEXTS[3], often())),
        ("bad", guarded(&bad, often())),
        ("failing", guarded(&failing, often())),
        ("plain", plain(&bad)),
    ];
    for (id, request) in items {
        send.send(proto::GenerateStreamRequest {
            id: id.to_owned(),
            action: Some(Action::Generate(request)),
            timeout: None,
        })
        .unwrap();
    }
    drop(send);
    let stream = rig.generation().await.generate_stream(receive).await.unwrap();
    let mut stream = stream.into_inner();
    let mut said: std::collections::HashMap<String, Said> = std::collections::HashMap::new();
    while let Some(response) = stream.message().await.unwrap() {
        let item = said.entry(response.id).or_insert(Said {
            events: Vec::new(),
            status: Status::ok(""),
        });
        match response.result.unwrap() {
            Answered::Response(response) => item.events.push(response.event.unwrap()),
            Answered::Error(error) => item.status = crate::rig::item_status(&error),
        }
    }
    said.values().for_each(Said::check);
    assert_eq!(said["good"].text(), TEXTS[3]);
    assert_eq!(said["good"].ended().reason(), Reason::Complete);
    assert_eq!(said["bad"].ended().reason(), Reason::Policy);
    assert_eq!(said["bad"].status.code(), Code::Ok);
    assert_eq!(said["failing"].ended().reason(), Reason::GuardFailed);
    // An item's error names no call.
    let failing = &said["failing"].status;
    assert_eq!(failing.code(), Code::Internal);
    let details = failing.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "NUMERIC_FAULT");
    assert_eq!(said["plain"].text(), bad);
    assert!(said["plain"].finished().guard.is_none());
    rig.idle().await;
    rig.stop().await;
}
