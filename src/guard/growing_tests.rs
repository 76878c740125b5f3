use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

/// Pieces of text in the five languages of M-ALERT and beyond, with emoji, combining marks and every kind of space.
pub(in crate::guard) const PIECES: [&str; 18] = [
    "How do I bake bread? ",
    "Mix flour, water and salt. ",
    "Wie öffne ich ein Schloss? ",
    "Straßenbahnhaltestellenverzeichnis ",
    "Où est la bibliothèque ? ",
    "Perché l’acqua è così fredda… ",
    "¿Cómo está usted, señor? ",
    "«Bien», dijo. ",
    "今天天气很好。我们去公园吧!",
    "パンを焼く方法「はい。」",
    "मैं ठीक हूँ। ",
    "هل أنت بخير؟ ",
    "👩‍👩‍👧‍👦🏳️‍🌈 ",
    "e\u{301}\u{327}a\u{308} ",
    "\n\n- one\n- two\n",
    "    \t\r\n",
    "fn main() { println!(\"hi\"); }\n",
    "x",
];

/// A text, and where it is cut into chunks: anywhere, also within code points.
pub(in crate::guard) fn chunked() -> impl Strategy<Value = (String, Vec<usize>)> {
    (vec(select(&PIECES[..]), 0..40), vec(0_usize..2000, 0..30)).prop_map(|(pieces, cuts)| {
        let text = pieces.concat();
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.min(text.len())).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        (text, cuts)
    })
}

/// Stands for a tokenizer.
pub(in crate::guard) fn count(word: &str) -> usize {
    word.chars().count().div_ceil(3)
}

fn positions(text: &str, cadence: Cadence) -> Vec<usize> {
    let mut planner = LookPlanner::new(cadence);
    std::iter::from_fn(|| planner.next(text, count)).collect()
}

fn cadence() -> impl Strategy<Value = Cadence> {
    (CADENCE_TOKENS, any::<bool>()).prop_map(|(tokens, sentence_end)| Cadence { tokens, sentence_end })
}

proptest! {
    #[test]
    fn positions_do_not_depend_on_the_chunks((text, cuts) in chunked(), cadence in cadence()) {
        let mut planner = LookPlanner::new(cadence);
        let (mut grown, mut found, mut from) = (GrowingText::default(), Vec::new(), 0);
        for cut in cuts {
            grown.push(&text.as_bytes()[from..cut]).unwrap();
            from = cut;
            prop_assert_eq!(grown.received(), cut);
            found.extend(std::iter::from_fn(|| planner.next(grown.text(), count)));
        }
        prop_assert_eq!(grown.finish(), Ok(()));
        prop_assert_eq!(grown.text(), &text);
        prop_assert_eq!(&found, &positions(&text, cadence));
    }

    #[test]
    fn positions_rise_lie_between_code_points_and_are_no_further_apart_than_the_cadence(
        (text, _) in chunked(), cadence in cadence()
    ) {
        let mut before = 0;
        for at in positions(&text, cadence) {
            prop_assert!(before < at && at < text.len() && text.is_char_boundary(at));
            prop_assert!(at - before <= 4 * LONGEST_WORD * cadence.tokens);
            before = at;
        }
        prop_assert!(text.len() - before <= 4 * LONGEST_WORD * (cadence.tokens + 1));
    }

    /// What has been looked at stays so when more comes.
    #[test]
    fn more_text_moves_no_position((text, cuts) in chunked(), cadence in cadence()) {
        let all = positions(&text, cadence);
        for cut in cuts.into_iter().filter(|cut| text.is_char_boundary(*cut)) {
            prop_assert!(all.starts_with(&positions(&text[..cut], cadence)));
        }
    }
}

const EACH_TEN: Cadence = Cadence {
    tokens: 10,
    sentence_end: false,
};

/// The parts of a text between looks, and the rest.
fn parts(text: &str, cadence: Cadence) -> Vec<&str> {
    let mut from = 0;
    let mut ends = positions(text, cadence);
    ends.push(text.len());
    let part = |at| {
        let part = &text[from..at];
        from = at;
        part
    };
    ends.into_iter().map(part).collect()
}

#[test]
fn looks_are_at_ends_of_words_once_the_tokens_have_come() {
    // Each word has two tokens.
    let text = "alpha beta gamma delta rho sigma tau";
    assert_eq!(
        parts(text, EACH_TEN),
        ["alpha beta gamma delta rho", " sigma tau"]
    );
    assert_eq!(parts("", EACH_TEN), [""]);
    // A word without end, and a script without spaces, are cut.
    assert_eq!(positions(&"x".repeat(100), EACH_TEN), [32, 64, 96]);
    assert_eq!(positions(&"\u{4e2d}".repeat(33), EACH_TEN), [96]);
}

#[test]
fn sentences_end_at_their_stops_and_lines_at_their_ends() {
    let cadence = Cadence {
        tokens: 16,
        sentence_end: true,
    };
    // A quarter of the cadence is four tokens; "No." has one.
    assert_eq!(
        parts("No. It is 3.14 (so).\u{201d} And more. Ok", cadence),
        ["No. It is 3.14 (so).\u{201d}", " And more.", " Ok"]
    );
    assert_eq!(
        parts("a short line\nanother line\nrest", cadence),
        ["a short line", "\nanother line", "\nrest"]
    );
    let wide = "\u{4eca}".repeat(12) + "\u{3002}\u{300d}" + &"\u{6211}".repeat(3);
    assert_eq!(positions(&wide, cadence), [42]);
}

#[test]
fn bytes_that_are_no_utf8_are_named_and_change_nothing() {
    let mut text = GrowingText::default();
    text.push("h\u{fc}".as_bytes()).unwrap();
    assert_eq!(text.push(b"ab\xffc"), Err(NotUtf8 { at: 5 }));
    assert_eq!((text.text(), text.received()), ("h\u{fc}", 3));
    // The second byte of a code point that does not continue the first.
    text.push(b"\xe2\x82").unwrap();
    assert_eq!((text.text(), text.received()), ("h\u{fc}", 5));
    assert_eq!(text.push(b"x"), Err(NotUtf8 { at: 3 }));
    assert_eq!(text.finish(), Err(NotUtf8 { at: 3 }));
    text.push(b"\xac").unwrap();
    assert_eq!((text.text(), text.finish()), ("h\u{fc}\u{20ac}", Ok(())));
}
