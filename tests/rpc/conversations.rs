//! Conversations as they come: which messages are judged, and what becomes of the others.

use babelward::{
    guard::GuardKind,
    proto::{
        self, ClassifyRequest, ContentKind, JudgeScope, Label, MessageUse, Role, UnjudgeableParts, Windows,
        batch_classify_result::Result as ItemResult,
        content_part::Part,
        generate_request::Prompt,
        message_use::{Reason, Use},
    },
};
use tonic::{Code, Status};

use crate::rig::{Rig, Setup, classify, message, reason, requests, score, violated};

use Role::{Assistant, System, Tool, User};

fn asking(messages: Vec<proto::Message>) -> ClassifyRequest {
    ClassifyRequest {
        conversation: Some(proto::Conversation { messages }),
        ..ClassifyRequest::default()
    }
}

pub fn said(messages: &[(Role, &str)]) -> ClassifyRequest {
    asking(messages.iter().map(|(role, text)| message(*role, text)).collect())
}

fn judging(scope: JudgeScope, messages: &[(Role, &str)]) -> ClassifyRequest {
    ClassifyRequest {
        judge: scope.into(),
        ..said(messages)
    }
}

fn part(part: Part) -> proto::ContentPart {
    proto::ContentPart { part: Some(part) }
}

fn words(text: &str) -> proto::ContentPart {
    part(Part::Text(text.to_owned()))
}

fn image() -> proto::ContentPart {
    part(Part::Other(ContentKind::Image.into()))
}

fn of_parts(role: Role, parts: Vec<proto::ContentPart>) -> proto::Message {
    proto::Message {
        parts,
        ..message(role, "")
    }
}

pub async fn ask(rig: &Rig, request: ClassifyRequest) -> Result<proto::ClassifyResponse, Status> {
    Ok(rig.safety().await.classify(request).await?.into_inner())
}

pub async fn verdict(rig: &Rig, request: ClassifyRequest) -> proto::Verdict {
    ask(rig, request).await.unwrap().verdict.unwrap()
}

pub async fn refused(rig: &Rig, request: ClassifyRequest) -> (String, Vec<String>) {
    let status = ask(rig, request).await.unwrap_err();
    (reason(&status, Code::InvalidArgument).0, violated(&status))
}

pub fn judged(turn: u32) -> (Use, Option<u32>) {
    (Use::Judged, Some(turn))
}

pub fn context(turn: u32) -> (Use, Option<u32>) {
    (Use::Context, Some(turn))
}

pub const LEFT_OUT: (Use, Option<u32>) = (Use::LeftOut, None);

/// What became of each message, in their order.
pub fn uses(verdict: &proto::Verdict) -> Vec<(Use, Option<u32>)> {
    let numbered = verdict.message_uses.iter().zip(0..);
    assert!(numbered.clone().all(|(one, index)| one.message == index));
    numbered.map(|(one, _)| (one.r#use(), one.turn)).collect()
}

/// What does not depend on the cache, the batch and the time.
pub fn bare(verdict: &proto::Verdict) -> proto::Verdict {
    proto::Verdict {
        usage: None,
        timing: None,
        category_usage: None,
        ..verdict.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_order_of_roles_is_judged_and_told() {
    let rig = Rig::start().await;
    let verdict = verdict(
        &rig,
        said(&[
            (System, "Be kind. [unsafe]"),
            (Assistant, "Hello!"),
            (User, "Look"),
            (User, "it up."),
            (Assistant, ""),
            (Tool, "Nothing found."),
            (Tool, "Nothing here."),
        ]),
    )
    .await;
    // The system's words are not judged, and no verdict comes from them.
    assert_eq!(verdict.label(), Label::Safe);
    assert_eq!(
        uses(&verdict),
        [
            LEFT_OUT,
            context(1),
            context(2),
            context(2),
            context(3),
            judged(4),
            judged(4)
        ]
    );
    assert_eq!(verdict.message_uses[0].reason(), Reason::System);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_alternates_has_the_prompt_that_it_had() {
    let rig = Rig::start().await;
    let plain = verdict(&rig, classify(&["a", "b", "c"])).await;
    assert_eq!(uses(&plain), [context(0), context(1), judged(2)]);
    // The same words as parts, and in two messages, are the same prompt.
    let parts = asking(vec![
        of_parts(User, vec![words("a")]),
        message(Assistant, "b"),
        message(User, "c"),
    ]);
    assert_eq!(bare(&verdict(&rig, parts).await), bare(&plain));
    let joined = verdict(&rig, classify(&["a\n\nb", "c"])).await;
    let merged = verdict(&rig, said(&[(User, "a"), (User, "b"), (Assistant, "c")])).await;
    assert_eq!(uses(&merged), [context(0), context(0), judged(1)]);
    let without_uses = |verdict: &proto::Verdict| proto::Verdict {
        message_uses: Vec::new(),
        ..bare(verdict)
    };
    assert_eq!(without_uses(&joined), without_uses(&merged));
    assert_eq!(
        joined.usage.unwrap().prompt_tokens,
        merged.usage.unwrap().prompt_tokens
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_and_results_of_tools_are_judged() {
    let rig = Rig::start().await;
    let call = |arguments: &str| proto::Message {
        tool_calls: vec![proto::ToolCall {
            name: "search".to_owned(),
            arguments: arguments.to_owned(),
        }],
        ..message(Assistant, "")
    };
    let result = |text: &str| proto::Message {
        tool_name: "search".to_owned(),
        ..message(Tool, text)
    };
    let asked = || message(User, "Look it up.");
    let label = async |messages| verdict(&rig, asking(messages)).await.label();
    assert_eq!(label(vec![asked(), call("{}")]).await, Label::Safe);
    assert_eq!(
        label(vec![asked(), call("{\"q\": \"[unsafe]\"}")]).await,
        Label::Unsafe
    );
    assert_eq!(
        label(vec![asked(), call("{}"), result("fine")]).await,
        Label::Safe
    );
    assert_eq!(
        label(vec![asked(), call("{}"), result("[unsafe]")]).await,
        Label::Unsafe
    );
    assert_eq!(label(vec![asked(), call("{}"), result("")]).await, Label::Safe);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_guard_can_judge_is_refused_or_told() {
    let rig = Rig::start().await;
    let with_image = || asking(vec![of_parts(User, vec![words("What is this?"), image()])]);
    let (name, fields) = refused(&rig, with_image()).await;
    assert_eq!(name, "INVALID_FIELDS");
    assert_eq!(fields, ["conversation.messages[0].parts[1].other"]);
    let omitting = |request| ClassifyRequest {
        unjudgeable: UnjudgeableParts::Omit.into(),
        ..request
    };
    let answer = verdict(&rig, omitting(with_image())).await;
    assert_eq!(uses(&answer), [judged(0)]);
    assert_eq!(
        answer.message_uses[0].omitted_parts,
        [i32::from(ContentKind::Image)]
    );
    let named = verdict(&rig, classify(&["What is this?\n[image]"])).await;
    assert_eq!(
        named.usage.unwrap().prompt_tokens,
        answer.usage.unwrap().prompt_tokens
    );
    // In the context it may be all that a message has; where it is judged it may not.
    let shown = |rest: &[proto::Message]| {
        let shown = of_parts(User, vec![image()]);
        omitting(asking([&[shown], rest].concat()))
    };
    let answered = verdict(&rig, shown(&[message(Assistant, "A cat.")])).await;
    assert_eq!(uses(&answered), [context(0), judged(1)]);
    let (name, fields) = refused(&rig, shown(&[])).await;
    assert_eq!(
        (name.as_str(), fields),
        (
            "INVALID_FIELDS",
            vec!["conversation.messages[0].parts".to_owned()]
        )
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_contradict_themselves_are_refused() {
    let rig = Rig::start().await;
    let call = proto::ToolCall::default();
    let both = proto::Message {
        parts: vec![words("a"), proto::ContentPart::default(), part(Part::Other(77))],
        ..message(User, "b")
    };
    let called = proto::Message {
        tool_calls: vec![call],
        tool_name: "x".to_owned(),
        ..message(User, "c")
    };
    let many = of_parts(User, vec![words("x"); 65]);
    let (name, fields) = refused(
        &rig,
        asking(vec![both, called, many, message(Role::Unspecified, "d")]),
    )
    .await;
    assert_eq!(name, "INVALID_FIELDS");
    let mut fields = fields;
    fields.sort();
    let mut expected = [
        "messages[0].content",
        "messages[0].parts[1].part",
        "messages[0].parts[2].other",
        "messages[1].tool_calls",
        "messages[1].tool_calls[0].name",
        "messages[1].tool_name",
        "messages[2].parts",
        "messages[3].role",
    ]
    .map(|field| format!("conversation.{field}"));
    expected.sort();
    assert_eq!(fields, expected);
    let wrong = ClassifyRequest {
        judge: 9,
        unjudgeable: 9,
        windows: Some(Windows {
            tokens: 31,
            overlap_tokens: None,
            most: 65,
        }),
        ..classify(&["a"])
    };
    let (_, mut fields) = refused(&rig, wrong).await;
    fields.sort();
    assert_eq!(fields, ["judge", "unjudgeable", "windows.most", "windows.tokens"]);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_anything_to_judge_a_conversation_is_refused() {
    let rig = Rig::start().await;
    let shape = |field: &str| ("CONVERSATION_SHAPE".to_owned(), vec![field.to_owned()]);
    assert_eq!(
        refused(&rig, said(&[(System, "a"), (System, "b")])).await,
        shape("conversation.messages[0].role")
    );
    for messages in [
        &[(User, "a")][..],
        &[(User, "a"), (Assistant, "b"), (Tool, "c")],
        &[(Assistant, "a")],
    ] {
        assert_eq!(
            refused(&rig, judging(JudgeScope::Exchange, messages)).await,
            shape("judge"),
            "{messages:?}"
        );
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_with_room_for_one_exchange_says_what_it_left_out() {
    let rig = Rig::with(Setup {
        guard: GuardKind::PolyGuard,
        ..Setup::default()
    })
    .await;
    let verdict = verdict(&rig, classify(&["[unsafe]", "b", "c", "d"])).await;
    assert_eq!(verdict.label(), Label::Safe);
    assert_eq!(uses(&verdict), [LEFT_OUT, LEFT_OUT, context(0), judged(1)]);
    let earlier = |one: &MessageUse| one.reason() == Reason::EarlierExchange;
    assert!(verdict.message_uses[..2].iter().all(earlier));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_has_a_verdict_for_each_side_and_the_worse_one_counts() {
    let rig = Rig::start().await;
    let exchange = async |asked: &str, answer: &str| {
        let messages = [(User, "x"), (Assistant, "y"), (User, asked), (Assistant, answer)];
        let response = ask(&rig, judging(JudgeScope::Exchange, &messages)).await.unwrap();
        let verdicts: Vec<_> = response.message_verdicts.into_iter().collect();
        let told: Vec<_> = verdicts.iter().map(|one| one.message).collect();
        assert_eq!(told, [2, 3]);
        let verdicts: Vec<_> = verdicts.into_iter().map(|one| one.verdict.unwrap()).collect();
        let decisive = response.verdict.unwrap();
        assert!(verdicts.contains(&decisive));
        let total = response.total_usage.unwrap();
        let sum =
            |of: fn(&proto::Usage) -> u32| verdicts.iter().map(|one| of(&one.usage.unwrap())).sum::<u32>();
        assert_eq!(total.prompt_tokens, sum(|usage| usage.prompt_tokens));
        assert_eq!(total.forward_passes, sum(|usage| usage.forward_passes));
        let labels: Vec<_> = verdicts.iter().map(proto::Verdict::label).collect();
        (labels, decisive)
    };
    let (labels, decisive) = exchange("a", "[unsafe]").await;
    assert_eq!(labels, [Label::Safe, Label::Unsafe]);
    assert_eq!(decisive.label(), Label::Unsafe);
    assert_eq!(uses(&decisive).last(), Some(&judged(3)));
    // The guard sees the request with its answer, so a bad request makes both bad here. The first of equals counts.
    let (labels, decisive) = exchange("[unsafe]", "b").await;
    assert_eq!(labels, [Label::Unsafe, Label::Unsafe]);
    assert_eq!(uses(&decisive).last(), Some(&judged(2)));
    let (labels, decisive) = exchange("a", "[odd]").await;
    assert_eq!(labels, [Label::Safe, Label::Undetermined]);
    assert_eq!(decisive.label(), Label::Undetermined);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_message_is_judged_as_alone_and_finds_the_others_in_the_cache() {
    let rig = Rig::start().await;
    let long = "how the dough is kneaded, folded and left to rest ".repeat(30);
    let text = |end: &str| format!("{long}{end}");
    let texts = [
        text("a"),
        text("b"),
        text("c"),
        text("d"),
        text("[unsafe]"),
        text("f"),
    ];
    let roles = [User, Assistant, User, User, Tool, Assistant];
    let mut messages: Vec<_> = roles.into_iter().zip(texts.iter().map(String::as_str)).collect();
    messages.insert(3, (System, "s"));
    let response = ask(&rig, judging(JudgeScope::EachMessage, &messages))
        .await
        .unwrap();
    let told: Vec<_> = response.message_verdicts.iter().map(|one| one.message).collect();
    assert_eq!(told, [0, 1, 2, 4, 5, 6]);
    let verdicts: Vec<_> = response
        .message_verdicts
        .iter()
        .map(|one| one.verdict.clone().unwrap())
        .collect();
    let labels: Vec<_> = verdicts.iter().map(proto::Verdict::label).collect();
    assert_eq!(labels[..4], [Label::Safe; 4]);
    assert_eq!(labels[4..], [Label::Unsafe; 2]);
    let decisive = response.verdict.unwrap();
    assert_eq!(decisive, verdicts[4]);
    for (message, verdict) in told.iter().zip(&verdicts) {
        let alone = self::verdict(&rig, said(&messages[..=*message as usize])).await;
        assert_eq!(bare(&alone), bare(verdict), "{message}");
    }
    // Only the longest of each side, which are those of the last two messages, compute more than their own closing words.
    for verdict in &verdicts[..4] {
        let usage = verdict.usage.unwrap();
        let computed = usage.prompt_tokens - usage.cached_prompt_tokens;
        assert!(computed < 150, "{usage:?}");
    }
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_messages_as_a_conversation_may_have_are_judged() {
    let rig = Rig::start().await;
    let messages: Vec<_> = (0..64).map(|_| (User, "and?")).collect();
    let response = ask(&rig, judging(JudgeScope::EachMessage, &messages))
        .await
        .unwrap();
    assert_eq!(response.message_verdicts.len(), 64);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_and_streams_judge_as_classify_does() {
    let rig = Rig::start().await;
    let request = || judging(JudgeScope::EachMessage, &[(User, "a"), (Assistant, "[unsafe]")]);
    let alone = ask(&rig, request()).await.unwrap();
    let batch = proto::BatchClassifyRequest {
        items: vec![proto::BatchClassifyItem {
            id: String::new(),
            request: Some(request()),
        }],
    };
    let results = rig
        .safety()
        .await
        .batch_classify(batch)
        .await
        .unwrap()
        .into_inner()
        .results;
    let Some(ItemResult::Response(batched)) = &results[0].result else {
        panic!("{results:?}");
    };
    let (send, receive) = requests();
    send.send(proto::ClassifyStreamRequest {
        id: "one".to_owned(),
        action: Some(proto::classify_stream_request::Action::Classify(request())),
        timeout: None,
    })
    .unwrap();
    drop(send);
    let mut stream = rig
        .safety()
        .await
        .classify_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let Some(proto::classify_stream_response::Result::Response(streamed)) =
        stream.message().await.unwrap().unwrap().result
    else {
        panic!("an item that fails");
    };
    let bare_all = |response: &proto::ClassifyResponse| {
        let verdicts = response.message_verdicts.iter();
        verdicts
            .map(|one| bare(one.verdict.as_ref().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(bare_all(&alone).len(), 2);
    assert_eq!(bare_all(&alone), bare_all(batched));
    assert_eq!(bare_all(&alone), bare_all(&streamed));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scores_and_growing_texts_take_such_conversations_too() {
    let rig = Rig::start().await;
    let mut request = score("");
    request.generate.as_mut().unwrap().prompt = Some(Prompt::Conversation(proto::Conversation {
        messages: vec![
            message(System, "Be kind. [unsafe]"),
            message(User, "[say Hello.]"),
        ],
    }));
    let response = rig.scoring().await.score(request).await.unwrap().into_inner();
    let verdict = response.samples[0].verdict.as_ref().unwrap();
    assert_eq!(verdict.label(), Label::Safe);
    assert_eq!(uses(verdict), [LEFT_OUT, context(0), judged(1)]);

    let event = |event| proto::GuardStreamRequest { event: Some(event) };
    use proto::{guard_stream_request::Event as Sent, guard_stream_response::Event};
    let start = proto::GuardStart {
        conversation: said(&[(System, "s"), (User, "a"), (User, "b")]).conversation,
        ..proto::GuardStart::default()
    };
    let sent = [
        Sent::Start(start),
        Sent::Chunk(b"Hello.".to_vec()),
        Sent::End(proto::GuardEnd {}),
    ];
    let (send, receive) = requests();
    for one in sent {
        send.send(event(one)).unwrap();
    }
    let mut stream = rig
        .safety()
        .await
        .guard_stream(receive)
        .await
        .unwrap()
        .into_inner();
    let mut ended = None;
    while let Some(response) = stream.message().await.unwrap() {
        if let Some(Event::Ended(end)) = response.event {
            ended = end.verdict;
        }
    }
    let classified = self::verdict(
        &rig,
        said(&[(System, "s"), (User, "a"), (User, "b"), (Assistant, "Hello.")]),
    )
    .await;
    assert_eq!(bare(&ended.unwrap()), bare(&classified));
    assert_eq!(uses(&classified), [LEFT_OUT, context(0), context(0), judged(1)]);
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generate_refuses_what_only_guards_take() {
    let rig = Rig::start().await;
    let generate = async |messages| {
        let mut request = score("").generate.unwrap();
        request.prompt = Some(Prompt::Conversation(proto::Conversation { messages }));
        rig.generation()
            .await
            .generate(request)
            .await
            .map(drop)
            .unwrap_err()
    };
    let call = proto::Message {
        tool_calls: vec![proto::ToolCall::default()],
        ..message(Assistant, "b")
    };
    let status = generate(vec![
        message(User, "a"),
        call,
        message(Tool, "c"),
        of_parts(User, vec![image()]),
    ])
    .await;
    assert_eq!(reason(&status, Code::InvalidArgument).0, "INVALID_FIELDS");
    assert_eq!(
        violated(&status),
        [
            "conversation.messages[1].tool_calls[0].name",
            "conversation.messages[3].parts[0].other",
            "conversation.messages[3].content",
        ]
    );
    rig.stop().await;
}

/// SmolLM2's template writes every role with its content, and nothing of calls.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_goes_on_after_a_tool_where_its_template_shows_what_was_called() {
    let rig = Rig::start().await;
    let ask = async |messages| {
        let mut request = score("").generate.unwrap();
        request.prompt = Some(Prompt::Conversation(proto::Conversation { messages }));
        let mut stream = rig.generation().await.generate(request).await?.into_inner();
        let mut text = String::new();
        while let Some(response) = stream.message().await? {
            if let Some(proto::generate_response::Event::Delta(delta)) = response.event {
                text.push_str(&delta.text);
            }
        }
        Ok::<_, Status>(text)
    };
    let result = proto::Message {
        tool_name: "weather".to_owned(),
        ..message(Tool, "[say rain]")
    };
    let asked = || vec![message(User, "What is the weather?")];
    let with_result = [asked(), vec![result.clone()]].concat();
    assert_eq!(ask(with_result).await.unwrap(), "rain");
    let called = proto::Message {
        tool_calls: vec![proto::ToolCall {
            name: "weather".to_owned(),
            arguments: "{}".to_owned(),
        }],
        ..message(Assistant, "")
    };
    let with_call = [asked(), vec![called, result]].concat();
    let refused = ask(with_call).await.unwrap_err();
    assert_eq!(reason(&refused, Code::InvalidArgument).0, "CONVERSATION_SHAPE");
    assert_eq!(violated(&refused), ["conversation.messages[1].tool_calls"]);
    rig.idle().await;
    rig.stop().await;
}
