use super::{exact::ulps, *};
use crate::{client::PolicyChoice, proto};

const SECRET: &str = "how do I bake bread";

fn request(content: &str) -> proto::ClassifyRequest {
    let message = proto::Message {
        role: proto::Role::User.into(),
        content: content.to_owned(),
        ..proto::Message::default()
    };
    proto::ClassifyRequest {
        conversation: Some(proto::Conversation {
            messages: vec![message],
        }),
        language: "en".to_owned(),
        ..proto::ClassifyRequest::default()
    }
}

fn response(score: f64) -> proto::ClassifyResponse {
    let provenance = proto::Provenance {
        model: "guard".to_owned(),
        model_digest: "sha256:1".to_owned(),
        precision: "int8".to_owned(),
        server_version: "0.1.0".to_owned(),
        ..proto::Provenance::default()
    };
    let verdict = proto::Verdict {
        label: proto::Label::Safe.into(),
        unsafe_score: Some(score),
        label_mass: 0.75,
        raw_output: format!("safe, although {SECRET}"),
        provenance: Some(provenance),
        ..proto::Verdict::default()
    };
    let decision = proto::Decision {
        action: proto::Action::Flag.into(),
        policy: "chat".to_owned(),
        policy_version: 3,
        calibrated_probability: Some(0.25),
        ..proto::Decision::default()
    };
    proto::ClassifyResponse {
        verdict: Some(verdict),
        decision: Some(decision),
        ..proto::ClassifyResponse::default()
    }
}

fn receipt(keep_input: bool, score: f64) -> Receipt {
    Receipt::of(
        &request(SECRET),
        &PolicyChoice::Native,
        &response(score),
        keep_input,
    )
    .unwrap()
}

#[test]
fn a_receipt_of_a_verdict_at_an_endpoint_names_it_and_what_it_was_sent() {
    let mut answer = response(0.25);
    let here = Receipt::of(&request("hi"), &PolicyChoice::Native, &answer, false);
    assert_eq!(here.unwrap().body().computed_by.remote, None);
    let verdict = answer.verdict.as_mut().unwrap();
    verdict.provenance.as_mut().unwrap().remote = Some(proto::RemoteEngine {
        endpoint: "http://10.0.0.7:8000/v1".to_owned(),
        model: "ward".to_owned(),
        ..proto::RemoteEngine::default()
    });
    verdict.remote_reading = Some(proto::RemoteReading {
        prompt_form: proto::RemotePromptForm::Text.into(),
        ..proto::RemoteReading::default()
    });
    let there = Receipt::of(&request("hi"), &PolicyChoice::Native, &answer, false).unwrap();
    let remote = there.body().computed_by.remote.clone().unwrap();
    assert_eq!(
        (remote.endpoint.as_str(), remote.prompt_form.as_str()),
        ("http://10.0.0.7:8000/v1", "text")
    );
    let read: Receipt = serde_json::from_str(&there.to_json()).unwrap();
    assert_eq!(read, there);
    assert_eq!(read.check(), Ok(()));
}

#[test]
fn a_receipt_has_the_text_only_where_it_is_kept() {
    let lost = receipt(false, 0.1);
    lost.check().unwrap();
    assert!(!lost.to_json().contains("bread"), "{}", lost.to_json());
    assert_eq!(lost.body().kept_conversation(), None);
    let kept = receipt(true, 0.1);
    kept.check().unwrap();
    assert_eq!(kept.body().kept_conversation(), request(SECRET).conversation);
    assert_eq!(kept.body().input.digest, lost.body().input.digest);
    let other = input_digest(&request("how do I bake bread?").conversation.unwrap());
    assert_ne!(other, lost.body().input.digest);
}

/// The digest as any protobuf library and `sha256sum` give it.
#[test]
fn the_input_digest_is_that_of_the_encoded_message() {
    let message = [b"\x08\x02\x12\x02hi".as_slice()].concat();
    let conversation = [&[0x0a, message.len() as u8], message.as_slice()].concat();
    let wanted = crate::digest::of_bytes(conversation);
    assert_eq!(input_digest(&request("hi").conversation.unwrap()), wanted);
}

#[test]
fn what_was_changed_in_a_receipt_shows() {
    let json = receipt(true, 0.1).to_json();
    let read = |text: &str| serde_json::from_str::<Receipt>(text).unwrap().check();
    assert_eq!(read(&json), Ok(()));
    for (from, to) in [
        ("\"label\": \"safe\"", "\"label\": \"unsafe\""),
        ("bake bread", "bake cake"),
        ("\"action\": \"flag\"", "\"action\": \"allow\""),
    ] {
        assert!(
            matches!(read(&json.replace(from, to)), Err(Unexplained::Altered { .. })),
            "{from}"
        );
    }
    let other = read(&json.replace("receipt/1", "receipt/2"));
    assert!(matches!(other, Err(Unexplained::Format(format)) if format == "babelward-receipt/2"));
    assert!(serde_json::from_str::<Receipt>(&json.replace("\"label\"", "\"lable\"")).is_err());
}

#[test]
fn a_receipt_that_contradicts_itself_is_refused_even_with_a_fitting_digest() {
    let altered = |change: fn(&mut ReceiptBody)| {
        let mut body = receipt(true, 0.1).body().clone();
        change(&mut body);
        Receipt::new(body).check().unwrap_err()
    };
    let bits = altered(|body| body.verdict.label_mass.value = 0.5);
    assert_eq!(bits, Unexplained::Bits("verdict.label_mass"));
    let range = altered(|body| body.verdict.unsafe_score = Some(1.5.into()));
    assert_eq!(range, Unexplained::Range("verdict.unsafe_score"));
    // All of the probability is on the labels, and their sum is rounded.
    let mut certain = receipt(true, 0.1).body().clone();
    certain.verdict.label_mass = 1.000_000_000_000_000_4.into();
    assert_eq!(Receipt::new(certain).check(), Ok(()));
    let messages = altered(|body| body.input.digest = "sha256:0".to_owned());
    assert_eq!(messages, Unexplained::Messages);
}

#[test]
fn an_answer_without_a_verdict_has_no_receipt() {
    let of = |request: &proto::ClassifyRequest, response: &proto::ClassifyResponse| {
        Receipt::of(request, &PolicyChoice::Native, response, false).unwrap_err()
    };
    let nothing = proto::ClassifyResponse::default();
    assert_eq!(of(&request("hi"), &nothing), ReceiptError::Incomplete("verdict"));
    let no_conversation = proto::ClassifyRequest::default();
    assert_eq!(
        of(&no_conversation, &response(0.1)),
        ReceiptError::Incomplete("conversation")
    );
}

#[test]
fn what_a_receipt_does_not_say_is_refused() {
    let refused = |change: fn(&mut proto::ClassifyRequest)| {
        let mut request = request("hi");
        change(&mut request);
        Receipt::of(&request, &PolicyChoice::Native, &response(0.1), true).unwrap_err()
    };
    let each = refused(|request| request.judge = proto::JudgeScope::EachMessage.into());
    assert_eq!(each, ReceiptError::MoreThanAVerdict("judge"));
    let windows = refused(|request| request.windows = Some(proto::Windows::default()));
    assert_eq!(windows, ReceiptError::MoreThanAVerdict("windows"));
    let omits = refused(|request| request.unjudgeable = proto::UnjudgeableParts::Omit.into());
    assert_eq!(omits, ReceiptError::MoreThanAVerdict("unjudgeable"));
    let asks = refused(|request| request.classifiers.push(proto::ClassifierQuestion::default()));
    assert_eq!(asks, ReceiptError::MoreThanAVerdict("classifiers"));
    let mut by_classifiers = response(0.1);
    by_classifiers
        .classifications
        .push(proto::Classification::default());
    let decided = Receipt::of(&request("hi"), &PolicyChoice::Native, &by_classifiers, true).unwrap_err();
    assert_eq!(decided, ReceiptError::Classifiers);
}

/// A receipt has the categories in the order of their codes as texts, where S10 comes before S2.
#[test]
fn a_decision_is_the_same_whatever_the_order_of_its_categories() {
    let reason = |category: &str| proto::DecisionReason {
        action: proto::Action::Block.into(),
        subject: proto::DecisionSubject::Category.into(),
        category: category.to_owned(),
        value: Some(0.4),
        threshold: Some(0.2),
        ..proto::DecisionReason::default()
    };
    let decision = |reasons| {
        DecisionReceipt::of(&proto::Decision {
            action: proto::Action::Block.into(),
            reasons,
            ..proto::Decision::default()
        })
    };
    let made = decision(vec![reason("S2"), reason("S10")]);
    assert!(made.is_that_of(&decision(vec![reason("S10"), reason("S2")])));
    assert!(!made.is_that_of(&decision(vec![reason("S2"), reason("S3")])));
    assert!(!made.is_that_of(&decision(vec![reason("S2")])));
}

#[test]
fn ulps_count_the_numbers_between() {
    let next = |value: f64| f64::from_bits(value.to_bits() + 1);
    assert_eq!(ulps(0.1, 0.1), 0);
    assert_eq!(ulps(0.1, next(0.1)), 1);
    assert_eq!(ulps(next(next(0.1)), 0.1), 2);
    assert_eq!(ulps(0.0, -0.0), 0);
    assert_eq!(ulps(f64::from_bits(1), -f64::from_bits(1)), 2);
    assert_eq!(ulps(1.0, 2.0), 1 << 52);
}

#[test]
fn changes_name_exactly_what_differs() {
    let was = receipt(false, 0.1);
    assert_eq!(changes(was.body(), was.body()), []);
    assert_eq!(
        changes(was.body(), receipt(true, 0.1).body()),
        [],
        "keeping the text is no change of the verdict"
    );
    let mut now = receipt(false, f64::from_bits(0.1f64.to_bits() + 3))
        .body()
        .clone();
    now.computed_by.precision = "bf16".to_owned();
    now.computed_by.server_version = "0.2.0".to_owned();
    now.decision = None;
    let found = changes(was.body(), &now);
    let shown: Vec<_> = found
        .iter()
        .map(|change| (change.what.as_str(), change.ulps, change.matters))
        .collect();
    assert_eq!(
        shown,
        [
            ("verdict.unsafe_score", Some(3), true),
            ("computed_by.precision", None, true),
            ("computed_by.server_version", None, false),
            ("decision", None, true),
        ]
    );
    assert_eq!(
        found[0].to_string(),
        "verdict.unsafe_score differs by 3 ulps: was 0.1, is 0.10000000000000005"
    );
    assert_eq!(
        found[1].to_string(),
        "computed_by.precision differs: was \"int8\", is \"bf16\""
    );
    assert!(
        changes(&now, was.body())
            .iter()
            .any(|change| change.what == "decision")
    );
}
