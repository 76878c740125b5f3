//! Messages that are longer than the guard's context window, judged in windows.

use babelward::proto::{
    ClassifyRequest, Label,
    Role::{Assistant, User},
    Windows,
    message_use::Reason,
};
use tonic::Code;

use crate::{
    conversations::{LEFT_OUT, ask, bare, context, judged, refused, said, uses, verdict},
    rig::{Rig, Setup, classify, reason},
};

/// A guard with room for some 300 tokens of text.
async fn narrow() -> Rig {
    Rig::with(Setup {
        context: 1200,
        ..Setup::default()
    })
    .await
}

const SENTENCE: &str = "Mix the flour with water, and let it rest for an hour. ";

/// Of an answer that is cut off nobody could say which categories are missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_leaves_room_for_the_guards_whole_answer() {
    /// Most tokens that the guard writes.
    const ANSWER: u32 = 64;
    let rig = narrow().await;
    let mut longest = 0;
    for words in 200.. {
        let text = format!("[unsafe] {}", "word ".repeat(words));
        match ask(&rig, classify(&[&text])).await {
            Ok(response) => {
                let verdict = response.verdict.unwrap();
                assert_eq!(verdict.label(), Label::Unsafe, "{words}: {verdict:?}");
                assert!(!verdict.categories.is_empty(), "{words}: {verdict:?}");
                longest = verdict.usage.unwrap().prompt_tokens;
            }
            Err(status) => {
                let (name, metadata) = reason(&status, Code::InvalidArgument);
                assert_eq!(name, "INPUT_TOO_LONG");
                assert_eq!(metadata["limitTokens"], (1200 - ANSWER).to_string());
                break;
            }
        }
    }
    // A word more has a few tokens more.
    assert!((1190 - ANSWER..=1200 - ANSWER).contains(&longest), "{longest}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_long_is_an_error_unless_windows_are_asked_for() {
    let rig = narrow().await;
    let long = format!("{}[unsafe] {}", SENTENCE.repeat(60), SENTENCE.repeat(30));
    let (name, _) = refused(&rig, classify(&[&long])).await;
    assert_eq!(name, "INPUT_TOO_LONG");
    let windowed = |windows| ClassifyRequest {
        windows: Some(windows),
        ..classify(&[&long])
    };
    let response = ask(&rig, windowed(Windows::default())).await.unwrap();
    let verdict = response.verdict.unwrap();
    assert_eq!(verdict.label(), Label::Unsafe, "{verdict:?}");
    let mut covered = 0;
    for window in &verdict.windows {
        assert!(window.start_byte <= covered && window.end_byte > covered);
        covered = window.end_byte;
        let text = &long[window.start_byte as usize..window.end_byte as usize];
        // Each is the Classify of its own text.
        let alone = crate::conversations::verdict(&rig, classify(&[text])).await;
        assert_eq!(
            (alone.label, alone.unsafe_score),
            (window.label, window.unsafe_score)
        );
        let expected = match text.contains("[unsafe]") {
            true => Label::Unsafe,
            false => Label::Safe,
        };
        assert_eq!(alone.label(), expected);
    }
    assert_eq!(covered, long.len() as u64);
    assert!(verdict.windows.len() > 2);
    assert!(response.total_usage.unwrap().prompt_tokens > verdict.usage.unwrap().prompt_tokens);
    // What fits is judged whole.
    let short = ClassifyRequest {
        windows: Some(Windows::default()),
        ..classify(&["short"])
    };
    let whole = crate::conversations::verdict(&rig, short).await;
    assert_eq!(
        bare(&whole),
        bare(&crate::conversations::verdict(&rig, classify(&["short"])).await)
    );
    assert!(whole.windows.is_empty());
    rig.idle().await;
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_takes_too_many_windows_is_refused_with_their_number() {
    let rig = narrow().await;
    let request = ClassifyRequest {
        windows: Some(Windows {
            most: 2,
            ..Windows::default()
        }),
        ..classify(&[&SENTENCE.repeat(90)])
    };
    let status = ask(&rig, request).await.unwrap_err();
    let (name, metadata) = reason(&status, Code::InvalidArgument);
    assert_eq!(name, "TOO_MANY_WINDOWS");
    assert_eq!(metadata["limitWindows"], "2");
    assert!(metadata["neededWindows"].parse::<usize>().unwrap() > 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_context_of_windows_is_cut_where_it_leaves_no_room() {
    let rig = narrow().await;
    let long = SENTENCE.repeat(60);
    let request = ClassifyRequest {
        windows: Some(Windows::default()),
        ..said(&[
            (User, "[unsafe]"),
            (Assistant, &long),
            (User, &long),
            (Assistant, "Yes."),
        ])
    };
    let verdict = verdict(&rig, request).await;
    assert_eq!(verdict.label(), Label::Safe);
    assert_eq!(uses(&verdict), [LEFT_OUT, LEFT_OUT, context(0), judged(1)]);
    let [first, _, request, _] = verdict.message_uses.as_slice() else {
        panic!("{:?}", verdict.message_uses);
    };
    assert_eq!(first.reason(), Reason::NoRoom);
    assert!(request.cut_bytes > 0 && request.cut_bytes < long.len() as u64);
    assert_eq!(verdict.windows.len(), 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_answer_to_a_request_that_is_too_long_is_judged() {
    let rig = narrow().await;
    let long = SENTENCE.repeat(60);
    let request = ClassifyRequest {
        windows: Some(Windows::default()),
        ..said(&[(User, long.as_str()), (Assistant, "")])
    };
    let verdict = verdict(&rig, request).await;
    assert_eq!(verdict.label(), Label::Safe);
    let windows = verdict.windows.iter();
    let windows: Vec<_> = windows
        .map(|window| (window.start_byte, window.end_byte))
        .collect();
    assert_eq!(windows, [(0, 0)]);
    rig.idle().await;
    rig.stop().await;
}
