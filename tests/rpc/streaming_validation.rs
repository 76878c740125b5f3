//! Labelled answers that a guard looks at as if they were being written: planted places of harm are found where they are.

use babelward::{
    bench::streaming::{StreamingGuard, Truth, figures, measure, read_labelled},
    client::{Client, ClientOptions},
    proto::{GuardCadence, GuardOptions},
};

use crate::rig::Rig;

const SAFE: &str =
    "First mix the flour with water. Then let it rest for an hour, and bake it until it is brown.";

#[tokio::test(flavor = "multi_thread")]
async fn delays_are_counted_from_the_planted_place_of_the_harm() {
    let rig = Rig::start().await;
    let url = format!("http://{}", rig.address);
    let client = Client::connect(&url, ClientOptions::default()).await.unwrap();
    let line = |answer: &str, harm: Option<usize>| {
        let label = if harm.is_some() { "unsafe" } else { "safe" };
        let mut line = serde_json::json!({"prompt": "How?", "answer": answer, "label": label});
        if let Some(harm) = harm {
            line["harm_begins"] = harm.into();
        }
        format!("{line}\n")
    };
    let bad = format!("Größe. {SAFE} [unsafe] {SAFE}");
    let harm = bad.chars().position(|character| character == '[').unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    // The last two are labelled wrongly, so that the guard seems to err.
    let lines = [
        line(SAFE, None),
        line(&bad, Some(harm)),
        line("[unsafe]", Some(0)),
        line(&bad, None),
        line(SAFE, Some(3)),
    ];
    std::fs::write(file.path(), lines.concat()).unwrap();
    let answers = read_labelled(file.path()).unwrap();
    let guard = StreamingGuard {
        options: GuardOptions {
            cadence: Some(GuardCadence {
                tokens: 8,
                sentence_end: Some(false),
            }),
            ..GuardOptions::default()
        },
        ..StreamingGuard::default()
    };
    let measured = measure(&client, &guard, &answers, 3).await.unwrap();
    assert_eq!(
        (measured[0].block, measured[0].whole_is_unsafe),
        (None, Some(false))
    );
    let found = measured[1].block.unwrap();
    // Two looks, of which each is at most a word and 8 tokens behind the one before.
    let delay = found.delay_tokens.unwrap();
    assert!(!found.is_final && (8..=26).contains(&delay), "{delay}");
    assert!(measured[1].harm_tokens.unwrap() > delay);
    assert_eq!(measured[1].whole_is_unsafe, Some(true));
    assert!(
        matches!(measured[1].truth, Truth::Unsafe { harm_begins } if bad[harm_begins..].starts_with("[unsafe]"))
    );
    let short = measured[2].block.unwrap();
    assert!(short.is_final && short.delay_tokens == measured[2].harm_tokens);
    assert!(measured[3].block.is_some() && measured[3].harm_tokens.is_none());
    assert_eq!(measured[4].block, None);

    let found = figures(&measured);
    assert_eq!(
        (
            found.safe.found.streaming.count,
            found.safe.found.streaming.answers
        ),
        (1, 2)
    );
    assert_eq!(
        (
            found.harmful.found.streaming.count,
            found.harmful.found.whole.count
        ),
        (2, 2)
    );
    assert_eq!(
        (found.harmful.blocked_at_end, found.harmful.blocked_before_harm),
        (1, 0)
    );
    assert_eq!(found.harmful.tokens_to_end.unwrap().answers, 3);
    rig.idle().await;
    rig.stop().await;
}
