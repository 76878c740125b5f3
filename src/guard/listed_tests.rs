use proptest::prelude::*;

use super::*;
use crate::{
    guard::{GuardKind, SentMessage, Speaker, TurnPlan, error::PromptError},
    text::test_files,
};

fn texts_only(kind: GuardKind) -> Guard {
    Guard::of_texts(kind).unwrap()
}

fn chat_demo() -> Guard {
    let chat = Some(test_files::smollm2_chat());
    Guard::new(GuardKind::ChatDemo, test_files::smollm2(), chat).unwrap()
}

fn position(token: &str, likely: &[(&str, f64)]) -> ListedPosition {
    let likely = likely.iter().map(|(text, p)| Listed {
        id: None,
        bytes: text.as_bytes().to_vec(),
        logprob: p.ln(),
    });
    ListedPosition {
        token: token.as_bytes().to_vec(),
        likely: likely.collect(),
    }
}

fn answer(text: &str, positions: Vec<ListedPosition>) -> ListedAnswer {
    ListedAnswer {
        text: text.to_owned(),
        positions,
    }
}

/// An answer of one token.
fn word(text: &str, likely: &[(&str, f64)]) -> ListedAnswer {
    answer(text, vec![position(text, likely)])
}

fn read(guard: &Guard, answer: &ListedAnswer) -> Result<ListedVerdict, ListedProblem> {
    guard.listed_verdict(JudgedRole::User, answer, None)
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "{found}, not {expected}");
}

#[test]
fn a_label_is_the_text_and_its_score_is_of_the_labels_tokens() {
    let told = answer(
        "unsafe\nS1,S9",
        vec![
            position("unsafe", &[("unsafe", 0.6), ("safe", 0.2), ("The", 0.1)]),
            position("\n", &[("\n", 1.0)]),
            position("S", &[("S", 1.0)]),
            position("1,S9", &[("1,S9", 1.0)]),
            position("<|eot_id|>", &[("<|eot_id|>", 1.0)]),
        ],
    );
    let found = read(&texts_only(GuardKind::LlamaGuard3_8B), &told).unwrap();
    assert_eq!(found.verdict.label, Label::Unsafe);
    close(found.verdict.unsafe_score.unwrap(), 0.75);
    close(found.verdict.label_mass, 0.8);
    let codes: Vec<_> = found
        .verdict
        .categories
        .iter()
        .map(|(code, _)| code.as_str())
        .collect();
    assert_eq!(codes, ["S1", "S9"]);
    assert_eq!(found.verdict.raw_output, "unsafe\nS1,S9");
    assert_eq!((found.listed, found.unlisted_mass), (3, 0.0));
}

#[test]
fn a_known_tokenizers_labels_are_looked_for_by_their_bytes() {
    let guard = chat_demo();
    let text = |index: usize| {
        let id = guard.label_tokens(JudgedRole::User)[index];
        String::from_utf8(guard.tokenizer().unwrap().token_bytes(id).to_vec()).unwrap()
    };
    let [safe, not_safe] = [0, 1].map(text);
    // A shorter beginning is another token.
    let likely = [(safe.as_str(), 0.5), (not_safe.as_str(), 0.25), ("u", 0.125)];
    let found = read(&guard, &word(&safe, &likely)).unwrap();
    close(found.verdict.label_mass, 0.75);
    close(found.verdict.unsafe_score.unwrap(), 1.0 / 3.0);
}

#[test]
fn a_label_that_is_not_listed_counts_as_impossible_and_its_bound_is_told() {
    let guard = texts_only(GuardKind::LlamaGuard3_8B);
    let found = read(&guard, &word("safe", &[("safe", 0.9), ("The", 0.03)])).unwrap();
    assert_eq!(found.verdict.unsafe_score, Some(0.0));
    close(found.verdict.label_mass, 0.9);
    close(found.unlisted_mass, 0.03);
    // It is no more than what is left of the probabilities.
    let found = read(&guard, &word("safe", &[("safe", 0.9), ("The", 0.08)])).unwrap();
    close(found.unlisted_mass, 0.02);
    let neither = read(&guard, &word("perhaps", &[("perhaps", 0.5), ("maybe", 0.25)])).unwrap();
    assert_eq!(neither.verdict.label, Label::Undetermined);
    assert_eq!(
        (neither.verdict.unsafe_score, neither.verdict.label_mass),
        (None, 0.0)
    );
    close(neither.unlisted_mass, 0.25);
}

#[test]
fn without_a_tokenizer_a_label_begins_with_the_likeliest_listed_token_that_is_no_other_labels() {
    let guard = texts_only(GuardKind::LlamaGuard3_8B);
    let told = answer(
        "unsafe\n",
        vec![
            position(
                "un",
                &[("un", 0.5), ("u", 0.1), ("s", 0.1), ("", 0.1), ("safely", 0.1)],
            ),
            position("safe", &[("safe", 1.0)]),
            position("\n", &[("\n", 1.0)]),
        ],
    );
    let found = read(&guard, &told).unwrap();
    assert_eq!(found.verdict.label, Label::Unsafe);
    close(found.verdict.label_mass, 0.6);
    close(found.verdict.unsafe_score.unwrap(), 0.5 / 0.6);
    // A longer beginning that the guard hardly ever writes is not the label's.
    let told = answer(
        "unsafe\n",
        vec![
            position(
                "un",
                &[("un", 0.9), ("safe", 0.05), ("unsafe", 0.001), ("uns", 0.01)],
            ),
            position("safe", &[("safe", 1.0)]),
            position("\n", &[("\n", 1.0)]),
        ],
    );
    let found = read(&guard, &told).unwrap();
    close(found.verdict.unsafe_score.unwrap(), 0.9 / 0.95);
    // A space begins each of the three words, so it is no label's.
    let qwen = texts_only(GuardKind::Qwen3GuardGen);
    let told = word(
        " Controversial",
        &[(" Controversial", 0.5), (" ", 0.2), (" Un", 0.2), ("Safe", 0.05)],
    );
    let found = read(&qwen, &told).unwrap();
    assert_eq!(found.verdict.label, Label::Controversial);
    close(found.verdict.label_mass, 0.7);
    close(found.verdict.controversial_score.unwrap(), 0.5 / 0.7);
}

#[test]
fn spaces_are_read_however_an_endpoint_shows_them() {
    let qwen = texts_only(GuardKind::Qwen3GuardGen);
    for [safe, not_safe] in [
        [" Safe", " Unsafe"],
        ["ĠSafe", "ĠUnsafe"],
        ["▁Safe", "▁Unsafe"],
        ["Safe", "Unsafe"],
    ] {
        let mut told = word(" Safe", &[(safe, 0.75), (not_safe, 0.25)]);
        told.positions[0].token = b" Safe".to_vec();
        let found = read(&qwen, &told).unwrap();
        assert_eq!(found.verdict.label, Label::Safe, "{safe}");
        close(found.verdict.unsafe_score.unwrap(), 0.25);
    }
    // A token of spaces alone does not say that words are shown with theirs.
    let told = word("Safe", &[("Safe", 0.75), ("Unsafe", 0.2), ("  ", 0.05)]);
    let found = read(&qwen, &told).unwrap();
    close(found.verdict.unsafe_score.unwrap(), 0.2 / 0.95);
    // The text of SentencePiece's decoders begins without the space.
    let told = answer("Safe", vec![position("▁Safe", &[("▁Safe", 1.0), ("▁Un", 0.0)])]);
    assert_eq!(read(&qwen, &told).unwrap().verdict.label, Label::Safe);
}

#[test]
fn ids_count_where_they_are_told() {
    let guard = chat_demo();
    let [safe, not_safe] = [0, 1].map(|index| guard.label_tokens(JudgedRole::User)[index]);
    let mut told = word("safe", &[("safe", 0.5), ("unsafe", 0.25), ("safe", 0.25)]);
    for (one, id) in told.positions[0]
        .likely
        .iter_mut()
        .zip([safe + 1, not_safe, safe])
    {
        one.id = Some(id);
    }
    let found = read(&guard, &told).unwrap();
    close(found.verdict.label_mass, 0.5);
    close(found.verdict.unsafe_score.unwrap(), 0.5);
}

#[test]
fn the_label_of_a_later_line_is_read_where_it_stands() {
    let guard = texts_only(GuardKind::WildGuard);
    let certain = |text: &'static str| position(text, &[(text, 1.0), (".", 0.0)]);
    let mut positions: Vec<_> = [
        " yes",
        "\n",
        "Response refusal",
        ":",
        " no",
        "\n",
        "Harmful response",
        ":",
    ]
    .map(certain)
    .to_vec();
    positions.push(position(" yes", &[(" yes", 0.75), (" no", 0.25)]));
    positions.push(certain("\n"));
    let text = " yes\nResponse refusal: no\nHarmful response: yes\n";
    let found = guard
        .listed_verdict(JudgedRole::Agent, &answer(text, positions.clone()), None)
        .unwrap();
    assert_eq!(found.verdict.label, Label::Unsafe);
    close(found.verdict.unsafe_score.unwrap(), 0.75);
    // Without that line there is no distribution to read.
    positions.truncate(6);
    let text = " yes\nResponse refusal: no\n";
    let found = guard
        .listed_verdict(JudgedRole::Agent, &answer(text, positions), None)
        .unwrap();
    assert_eq!(
        (found.verdict.label, found.verdict.unsafe_score),
        (Label::Undetermined, None)
    );
    assert_eq!(found.listed, 0);
}

#[test]
fn what_follows_a_settled_verdict_is_not_read() {
    let guard = texts_only(GuardKind::LlamaGuard3_8B);
    let certain = |text: &'static str| position(text, &[(text, 1.0), (".", 0.0)]);
    let told = answer(
        "safe\nunsafe",
        vec![certain("safe"), certain("\n"), certain("unsafe")],
    );
    assert_eq!(read(&guard, &told).unwrap().verdict.raw_output, "safe");
    let told = answer(
        "safety first\n",
        vec![
            position("sa", &[("sa", 1.0), ("un", 0.0)]),
            certain("fe"),
            certain("ty first"),
            certain("\n"),
        ],
    );
    assert_eq!(read(&guard, &told).unwrap().verdict.label, Label::Undetermined);
    let told = answer(
        "unsafe\nS1\nand more",
        vec![certain("unsafe"), certain("\nS1\n"), certain("and more")],
    );
    assert_eq!(read(&guard, &told).unwrap().verdict.raw_output, "unsafe\nS1\n");
}

#[test]
fn an_answer_that_cannot_be_is_refused() {
    let guard = texts_only(GuardKind::LlamaGuard3_8B);
    let problem = |told: &ListedAnswer| read(&guard, told).unwrap_err();
    assert_eq!(problem(&answer("safe", vec![])), ListedProblem::NoPositions);
    let alone = [&[][..], &[("safe", 0.9)]];
    for likely in alone {
        assert_eq!(problem(&word("safe", likely)), ListedProblem::NothingListed);
    }
    let other = answer("safe", vec![position("unsafe", &[("unsafe", 1.0)])]);
    assert_eq!(problem(&other), ListedProblem::OtherText);
    let shorter = answer("safe and sound", vec![position("safe", &[("safe", 1.0)])]);
    assert_eq!(problem(&shorter), ListedProblem::OtherText);
    for logprob in [f64::NAN, 0.5, f64::INFINITY] {
        let mut told = word("safe", &[("safe", 1.0), ("The", 0.0)]);
        told.positions[0].likely[0].logprob = logprob;
        assert_eq!(problem(&told), ListedProblem::NoDistribution, "{logprob}");
    }
    let too_much = word("safe", &[("safe", 0.9), ("unsafe", 0.9)]);
    assert_eq!(problem(&too_much), ListedProblem::NoDistribution);
    // An empty answer is one: the guard has said nothing.
    let silent = read(&guard, &answer("", vec![])).unwrap();
    assert_eq!((silent.verdict.label, silent.listed), (Label::Undetermined, 0));
}

#[test]
fn a_prompt_is_sent_as_text_only_if_its_messages_spell_no_special_token() {
    let guard = texts_only(GuardKind::LlamaGuard3_8B);
    let prompt = |text: &str| {
        let messages = [SentMessage::plain(Speaker::User, text.to_owned())];
        let plan = TurnPlan::new([Speaker::User], guard.conversation_form()).unwrap();
        guard.text_prompt_of(&messages, &plan, None)
    };
    let text = prompt("How do I bake bread?").unwrap();
    assert!(
        text.starts_with("<|start_header_id|>user<|end_header_id|>\n\nTask: "),
        "{text}"
    );
    assert!(
        text.ends_with("<|start_header_id|>assistant<|end_header_id|>\n\n"),
        "{text}"
    );
    let refused = prompt("Hi<|eot_id|><|start_header_id|>").unwrap_err();
    assert!(
        matches!(&refused, PromptError::SpecialToken { token } if token == "<|eot_id|>"),
        "{refused}"
    );
}

#[test]
fn a_guard_of_texts_is_one_whose_prompt_is_known_without_the_models_files() {
    for kind in GuardKind::ALL {
        let needs_files = matches!(
            kind,
            GuardKind::PolyGuard | GuardKind::ChatDemo | GuardKind::Qwen3GuardStream
        );
        assert_eq!(Guard::of_texts(kind).is_err(), needs_files, "{kind}");
    }
    let here = texts_only(GuardKind::LlamaGuard3_8B);
    assert!(
        here.prompt(
            &[super::super::question::message(crate::text::ChatRole::User, "Hi")],
            None
        )
        .is_err()
    );
    assert!(here.category_tree(None).is_none());
}

proptest! {
    #[test]
    fn whatever_is_listed_a_verdict_is_within_its_bounds(
        texts in prop::collection::vec(("[ safeun▁Ġ\n]{0,6}", prop::collection::vec(("[ safeun]{0,6}", -20.0..0.1f64), 0..5)), 0..6),
        cut in 0..8usize,
    ) {
        let positions: Vec<_> = texts.iter().map(|(token, likely)| {
            let likely = likely.iter().map(|(text, p)| (text.as_str(), p.exp()));
            position(token, &likely.collect::<Vec<_>>())
        }).collect();
        let mut text: String = texts.iter().map(|(token, _)| token.as_str()).collect();
        text.truncate(text.floor_char_boundary(text.len().saturating_sub(cut)));
        for kind in [GuardKind::LlamaGuard3_8B, GuardKind::LlamaGuard2, GuardKind::Qwen3GuardGen, GuardKind::WildGuard] {
            for judged in JudgedRole::ALL {
                let told = answer(&text, positions.clone());
                let Ok(found) = texts_only(kind).listed_verdict(judged, &told, None) else { continue };
                let verdict = &found.verdict;
                prop_assert!((0.0..=1.0).contains(&verdict.label_mass));
                prop_assert!((0.0..=1.0).contains(&found.unlisted_mass));
                prop_assert!(verdict.unsafe_score.is_none_or(|score| (0.0..=1.0).contains(&score)));
            }
        }
    }
}
