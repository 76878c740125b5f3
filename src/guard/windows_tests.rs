use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{
    guard::{ConversationExtent, ConversationForm, GuardKind, Speaker, SystemMessages},
    text::{TokenCount, Watch, test_files},
};

/// As many tokens as bytes, which no order of words changes.
fn bytes(word: &str) -> usize {
    word.len()
}

fn guard() -> Guard {
    Guard::new(
        GuardKind::ChatDemo,
        test_files::smollm2(),
        Some(test_files::smollm2_chat()),
    )
    .unwrap()
}

fn said(speaker: Speaker, text: &str) -> Arc<SentMessage> {
    Arc::new(SentMessage::plain(speaker, text.to_owned()))
}

const FORM: ConversationForm = ConversationForm {
    extent: ConversationExtent::Conversation,
    system: SystemMessages::LeftOut,
};

fn windowed(
    guard: &Guard,
    messages: &[Arc<SentMessage>],
    rules: WindowRules,
    tokens: usize,
) -> Result<Windowed, WindowError> {
    let plan = TurnPlan::new(messages.iter().map(|message| message.speaker), FORM).unwrap();
    let watch = Watch::default();
    let allowance = Allowance {
        tokens,
        watch: &watch,
    };
    guard.windows(messages, &plan, None, rules, allowance)
}

/// Each window's prompt is that of the conversation that the uses tell, with the window as its last message.
fn check(guard: &Guard, messages: &[Arc<SentMessage>], windowed: &Windowed, tokens: usize) {
    let judged = messages.last().unwrap().text();
    let kept: Vec<ChatMessage> = messages
        .iter()
        .zip(&windowed.uses)
        .filter(|(_, one)| matches!(one.place, MessagePlace::Context { .. }))
        .map(|(sent, one)| message(sent.speaker.side(), &sent.text()[one.cut_bytes..]))
        .collect();
    let role = messages.last().unwrap().speaker.side();
    let mut end = 0;
    for TextWindow { bytes, prompt } in &windowed.windows {
        assert!(bytes.start <= end && bytes.end > end, "{bytes:?} behind {end}");
        end = bytes.end;
        let mut turns = kept.clone();
        if turns.is_empty() && role == ChatRole::Assistant {
            turns.push(message(ChatRole::User, ""));
        }
        turns.push(message(role, &judged[bytes.clone()]));
        assert_eq!(*prompt, guard.prompt(&turns, None).unwrap());
        assert!(prompt.len() <= tokens);
    }
    assert_eq!(windowed.windows[0].bytes.start, 0);
    assert_eq!(end, judged.len());
}

const WORDS: &str =
    "Mix the flour with water, and let it rest for an hour. 最后烤到金黄色。 Größere Brote brauchen länger! ";

#[test]
fn windows_cover_a_long_message_and_each_is_an_ordinary_prompt() {
    let guard = guard();
    let long = WORDS.repeat(40);
    for messages in [
        vec![said(Speaker::User, &long)],
        vec![said(Speaker::User, "How?"), said(Speaker::Assistant, &long)],
        vec![
            said(Speaker::User, "a"),
            said(Speaker::Assistant, "b"),
            said(Speaker::User, &long),
        ],
    ] {
        let windowed = windowed(&guard, &messages, WindowRules::default(), 1200).unwrap();
        assert!(windowed.windows.len() > 1);
        check(&guard, &messages, &windowed, 1200);
        let context = messages.len() - 1;
        let in_context = |one: &&MessageUse| matches!(one.place, MessagePlace::Context { .. });
        assert_eq!(windowed.uses.iter().filter(in_context).count(), context);
        // The overlap: what is between two windows stands whole in one of them.
        let starts = windowed.windows.iter().skip(1).map(|window| window.bytes.start);
        let ends = windowed.windows.iter().map(|window| window.bytes.end);
        assert!(starts.zip(ends).all(|(start, end)| start < end));
    }
}

#[test]
fn windows_have_at_most_the_tokens_that_are_asked_for() {
    let guard = guard();
    let messages = [said(Speaker::User, &WORDS.repeat(40))];
    let rules = WindowRules {
        tokens: Some(40),
        overlap: 0,
        most: 64,
    };
    let found = windowed(&guard, &messages, rules, 1200).unwrap();
    check(&guard, &messages, &found, 1200);
    for window in &found.windows {
        let tokens = guard
            .tokenizer()
            .unwrap()
            .encode_plain(&messages[0].text()[window.bytes.clone()]);
        assert!(tokens.unwrap().len() <= 44, "words join at their edges only");
    }
    let needed = found.windows.len();
    let few = WindowRules {
        most: needed - 1,
        ..rules
    };
    match windowed(&guard, &messages, few, 1200) {
        Err(WindowError::TooMany { needed: told }) => assert_eq!(told, needed),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_long_context_is_left_out_from_its_beginning() {
    let guard = guard();
    let long = WORDS.repeat(40);
    let exchange = WORDS.repeat(3);
    let messages: Vec<_> = (0..9)
        .map(|index| match index % 2 {
            0 => said(Speaker::User, &exchange),
            _ => said(Speaker::Assistant, &exchange),
        })
        .chain([said(Speaker::Assistant, &long)])
        .collect();
    let found = windowed(&guard, &messages, WindowRules::default(), 1800).unwrap();
    check(&guard, &messages, &found, 1800);
    let left_out = |one: &MessageUse| one.place == MessagePlace::LeftOut(LeftOut::NoRoom);
    let dropped = found.uses.iter().filter(|one| left_out(one)).count();
    assert!(dropped > 0 && dropped < 9, "{dropped}");
    assert!(found.uses[..dropped].iter().all(left_out));
    assert_eq!(dropped % 2, 0, "what is left begins with the user");
    let last = found.uses.last().unwrap();
    assert_eq!(last.place, MessagePlace::Judged { turn: 9 - dropped });
}

#[test]
fn the_beginning_of_a_request_that_is_too_long_is_cut_off() {
    let guard = guard();
    let long = WORDS.repeat(60);
    let messages = [
        said(Speaker::User, "Before."),
        said(Speaker::User, &long),
        said(Speaker::Assistant, "Yes."),
    ];
    let found = windowed(&guard, &messages, WindowRules::default(), 1200).unwrap();
    let [before, request, answer] = found.uses.as_slice() else {
        panic!("{:?}", found.uses);
    };
    assert_eq!(before.place, MessagePlace::LeftOut(LeftOut::NoRoom));
    assert_eq!(request.place, MessagePlace::Context { turn: 0 });
    assert!(request.cut_bytes > 0 && request.cut_bytes < long.len());
    assert_eq!(answer.place, MessagePlace::Judged { turn: 1 });
    assert_eq!(found.windows.len(), 1);
    check(
        &guard,
        &messages[1..],
        &Windowed {
            uses: found.uses[1..].to_vec(),
            ..found
        },
        1200,
    );
}

#[test]
fn an_answer_that_says_nothing_has_one_window() {
    let guard = guard();
    let messages = [
        said(Speaker::User, &WORDS.repeat(60)),
        said(Speaker::Assistant, ""),
    ];
    let found = windowed(&guard, &messages, WindowRules::default(), 1200).unwrap();
    let [window] = found.windows.as_slice() else {
        panic!("{:?}", found.windows);
    };
    assert_eq!(window.bytes, 0..0);
    let cut = found.uses[0].cut_bytes;
    assert!(cut > 0);
    let turns = [
        message(ChatRole::User, &messages[0].text()[cut..]),
        message(ChatRole::Assistant, ""),
    ];
    assert_eq!(window.prompt, guard.prompt(&turns, None).unwrap());
}

#[test]
fn a_guard_without_room_says_so() {
    let guard = guard();
    let messages = [said(Speaker::User, &WORDS.repeat(40))];
    let least = guard.prompt(&[message(ChatRole::User, "")], None).unwrap().len();
    for tokens in [10, least, least + LEAST_WINDOW_TOKENS - 1] {
        let refused = windowed(&guard, &messages, WindowRules::default(), tokens);
        assert!(
            matches!(refused, Err(WindowError::NoRoom)),
            "{tokens}: {refused:?}"
        );
    }
    let plan = TurnPlan::new([Speaker::User], FORM).unwrap();
    let watch = Watch::default();
    let allowance = Allowance {
        tokens: 1200,
        watch: &watch,
    };
    let whole = guard.prompt_of(&messages, &plan, None, allowance);
    let Err(PromptError::Tokenizer(TokenizerError::TooLong(count))) = whole else {
        panic!("{whole:?}");
    };
    // A text that is far too long is not read to its end.
    let (TokenCount::Exactly(tokens) | TokenCount::AtLeast(tokens)) = count;
    assert!(tokens > 1200, "{tokens}");
}

proptest! {
    #[test]
    fn cuts_cover_a_text_at_its_code_points(
        text in "[a-zäé界🙂 \n.。]{1,200}",
        room in 4..40usize,
        overlap in 0..20usize,
    ) {
        let windows = cut(&text, room, overlap.min(room / 2), &bytes);
        prop_assert_eq!(windows[0].start, 0);
        prop_assert_eq!(windows.last().unwrap().end, text.len());
        for pair in windows.windows(2) {
            prop_assert!(pair[0].start < pair[1].start && pair[0].end < pair[1].end);
            prop_assert!(pair[1].start <= pair[0].end, "nothing is between them");
            prop_assert!(pair[0].end - pair[1].start <= overlap);
        }
        for window in windows {
            // A piece is at most half of the room, or one code point.
            prop_assert!(text.get(window.clone()).is_some_and(|window| window.len() <= room.max(4)));
        }
    }

    #[test]
    fn a_tail_is_the_end_of_a_text(text in "[a-zé界 \n.]{0,100}", room in 0..60usize) {
        let start = tail_start(&text, room, &bytes);
        prop_assert!(text.is_char_boundary(start));
        prop_assert!(text.len() - start <= room);
    }
}
