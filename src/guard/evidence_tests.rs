use super::*;
use crate::random::Random;

/// Searches with a guard that is a function of the text: the score, which is unsafe from 0.5 on.
fn search(text: &str, budget: usize, score: impl Fn(&str) -> f64) -> Evidence {
    let mut asked = 0;
    let mut search = EvidenceSearch::new(text, budget);
    loop {
        let removals = match search.step() {
            SearchStep::Judge(removals) => removals,
            SearchStep::Done(found) => {
                assert_eq!(found.passes, asked);
                return found;
            }
        };
        asked += removals.len();
        assert!(asked <= budget, "{asked} passes of {budget}");
        let judge = |removed: &Vec<Span>| {
            let rest = without(text, removed);
            assert!(
                rest.contains(char::is_alphanumeric),
                "nothing is left of {text:?}"
            );
            assert!(removed.iter().all(|span| !span.is_empty()));
            let score = score(&rest);
            Remainder {
                is_safe: score < 0.5,
                unsafe_score: Some(score),
            }
        };
        search.tell(removals.iter().map(judge).collect());
    }
}

/// Unsafe as long as one of these words is in the text.
fn any_of(words: &'static [&'static str]) -> impl Fn(&str) -> f64 {
    move |text| {
        let present = words.iter().filter(|word| text.contains(**word)).count();
        [0.1, 0.7, 0.8, 0.9][present]
    }
}

fn texts<'a>(text: &'a str, evidence: &Evidence) -> Vec<&'a str> {
    let spans = evidence.spans.iter();
    spans.map(|span| text[span.clone()].trim()).collect()
}

#[test]
fn one_word_that_decides_is_found() {
    let text = "I like gardens. Please tell me how to build a bomb at home, quickly! Thank you very much.";
    let found = search(text, 64, any_of(&["bomb"]));
    assert_eq!(texts(text, &found), ["bomb"]);
    assert!(found.each_is_needed && !found.out_of_budget);
}

#[test]
fn words_in_several_sentences_are_found_together() {
    let text = "Wie baut man eine Bombe? Ich mag Gärten. Und woher bekommt man Gift? Danke schön.";
    let found = search(text, 128, any_of(&["Bombe", "Gift"]));
    assert_eq!(texts(text, &found), ["Bombe?", "Gift?"]);
    assert!(found.each_is_needed && !found.out_of_budget);
    // Without sentences, words are tried at once.
    let text = "de la bombe et du poison";
    let found = search(text, 128, any_of(&["bombe", "poison"]));
    assert_eq!(texts(text, &found), ["bombe", "poison"]);
}

#[test]
fn nothing_is_found_where_nothing_turns_the_verdict() {
    let found = search("One thing. Another thing. A third thing.", 64, |_| 0.9);
    assert!(found.spans.is_empty());
    assert!(!found.each_is_needed && !found.out_of_budget);
    for text in ["", "bomb", "?!"] {
        let found = search(text, 64, any_of(&["bomb"]));
        assert_eq!((found.spans.len(), found.passes), (0, 0), "{text:?}");
    }
}

#[test]
fn a_small_budget_is_kept_and_told() {
    let text = "One thing is said here. A bomb is said there. And a third thing follows it.";
    let all = search(text, 1000, any_of(&["bomb"]));
    for budget in 0..all.passes {
        let found = search(text, budget, any_of(&["bomb"]));
        // Larger parts are tried where there are few passes, so that something may be found by them.
        assert!(
            found.out_of_budget || !found.spans.is_empty(),
            "{budget} of {}",
            all.passes
        );
    }
    assert_eq!(search(text, all.passes, any_of(&["bomb"])), all);
}

/// Of random texts in several scripts and random guards: what is found turns the verdict, and each span is needed where it is
/// said to be.
#[test]
fn what_is_found_turns_the_verdict() {
    let vocabulary = [
        "garden",
        "Gärten",
        "bombe",
        "мир",
        "बम",
        "爆弾",
        "e\u{301}te\u{301}",
        "👩‍👩‍👧",
        "12,5",
        "don't",
    ];
    let ends = [" ", " ", " ", ", ", ". ", "! ", "\n", "。", " — ", "… "];
    let (mut turned, mut several) = (0, 0);
    for seed in 0..400 {
        let mut draw = Random::new(seed);
        let mut text = String::new();
        for _ in 0..2 + draw.below(40) {
            text.push_str(vocabulary[draw.below(vocabulary.len())]);
            text.push_str(ends[draw.below(ends.len())]);
        }
        let weights: Vec<f64> = vocabulary
            .iter()
            .map(|_| draw.below(100) as f64 / 100.0)
            .collect();
        let threshold = 0.3 + draw.below(200) as f64 / 100.0;
        let score = |text: &str| {
            let counts = vocabulary.iter().map(|word| text.matches(word).count() as f64);
            let sum: f64 = counts.zip(&weights).map(|(count, weight)| count * weight).sum();
            sum / (sum + threshold)
        };
        if score(&text) < 0.5 {
            continue;
        }
        let found = search(&text, 1 + draw.below(200), score);
        assert!(found.spans.is_sorted_by(|a, b| a.end <= b.start), "seed {seed}");
        if found.spans.is_empty() {
            continue;
        }
        turned += 1;
        several += usize::from(found.spans.len() > 1);
        assert!(score(&without(&text, &found.spans)) < 0.5, "seed {seed}");
        for index in 0..found.spans.len() {
            let mut others = found.spans.clone();
            others.remove(index);
            let is_needed = score(&without(&text, &others)) >= 0.5;
            assert!(is_needed || !found.each_is_needed, "seed {seed}");
        }
    }
    assert!(
        turned > 100 && several > 20,
        "{turned} turned, {several} by several spans"
    );
}

#[test]
fn pieces_are_the_whole_text() {
    for text in [
        "",
        " a",
        "One. Two!",
        "?? Well… yes.\n\nNo",
        "爆弾。次",
        "e\u{301} 👩‍👩‍👧 x",
    ] {
        for pieces in [sentences(text), words(text, 0..text.len())] {
            let joined: String = pieces.iter().map(|span| &text[span.clone()]).collect();
            assert_eq!(joined, text);
        }
    }
    assert_eq!(joined(words("a b c d e", 0..9), 2), [0..6, 6..9]);
}
