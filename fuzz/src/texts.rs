//! Tokenizers, chat templates, and what guards write.

use std::sync::{Arc, LazyLock};

use babelward::{
    engine::ProbeResult,
    gguf::Gguf,
    guard::{Guard, GuardKind, JudgedRole, Label},
    text::{
        Allowance, ChatMessage, ChatRole, ChatTemplate, Segment, TextStream, Tokenizer, TokenizerError, Watch,
    },
};

use super::input::{Folder, part, parts, repository, text};

/// A folder with `tokenizer.json`. Parts: tokenizer.json, tokenizer_config.json, a text.
pub(crate) fn tokenizer_json(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    folder.write("tokenizer.json", part(&parts, 0));
    if parts.len() > 1 {
        folder.write("tokenizer_config.json", part(&parts, 1));
    }
    if let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) {
        encode(tokenizer, &text(part(&parts, 2)));
    }
    let _ = ChatTemplate::from_folder(folder.path());
}

/// A folder with `tokenizer.model`. Parts: tokenizer.model, tokenizer_config.json, a text.
pub(crate) fn tokenizer_model(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    folder.write("tokenizer.model", part(&parts, 0));
    if parts.len() > 1 {
        folder.write("tokenizer_config.json", part(&parts, 1));
    }
    if let Ok(tokenizer) = Tokenizer::from_folder(folder.path()) {
        encode(tokenizer, &text(part(&parts, 2)));
    }
}

/// A GGUF file with a vocabulary. Parts: the file, a text.
pub(crate) fn tokenizer_gguf(input: &[u8]) {
    let folder = Folder::new();
    let parts = parts(input);
    let path = folder.write("model.gguf", part(&parts, 0));
    let Ok(file) = Gguf::open(&path) else {
        return;
    };
    let _ = ChatTemplate::from_gguf(&file);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file) {
        encode(tokenizer, &text(part(&parts, 1)));
    }
}

/// What is true of every tokenizer, also of a senseless one: its tokens are those of its vocabulary, a text as a message has
/// the tokens of the text alone, bounds on the number of tokens hold and change nothing, and text that is decoded piece by
/// piece is the text that is decoded at once.
fn encode(tokenizer: Tokenizer, text: &str) {
    let Ok(tokens) = tokenizer.encode_plain(text) else {
        return;
    };
    let size = tokenizer.vocab_size();
    assert!(
        tokens.iter().all(|token| (*token as usize) < size),
        "a token outside of {size}"
    );
    let least = tokenizer.least_tokens(text);
    assert!(
        least <= tokens.len(),
        "at least {least} tokens were foretold, and there are {}",
        tokens.len()
    );
    let message = tokenizer.encode(&[Segment::Content(text.to_owned())]);
    assert_eq!(message.as_ref().ok(), Some(&tokens), "as a message");
    let watch = Watch::default();
    let within = |most| {
        let allowance = Allowance {
            tokens: most,
            watch: &watch,
        };
        tokenizer.encode_plain_within(text, allowance)
    };
    assert_eq!(
        within(tokens.len()).ok().as_ref(),
        Some(&tokens),
        "within its own number"
    );
    if let Some(fewer) = tokens.len().checked_sub(1) {
        assert!(
            matches!(within(fewer), Err(TokenizerError::TooLong(_))),
            "within one token less"
        );
    }
    let whole = tokenizer.decode(&tokens);
    let mut stream = TextStream::new(Arc::new(tokenizer), &[]);
    let mut pieces: String = tokens.iter().map(|token| stream.push(*token)).collect();
    pieces.push_str(&stream.finish());
    assert_eq!(pieces, whole, "decoded piece by piece");
}

/// Most text that a template may make of such short conversations, in bytes: its fuel, of which a unit is 64 bytes.
const RENDERED: usize = 64 * (400_000 + 64 * 4_000) + (1 << 24);

/// A chat template and a conversation. Parts: the template, then messages, whose first letter is their role (s, u, a). The same
/// conversation gives the same prompt; it has the whole text of every message of a user, as content and in their order; and its
/// length is bounded.
pub(crate) fn chat_template(input: &[u8]) {
    let parts = parts(input);
    let source = text(part(&parts, 0));
    let Ok(template) = ChatTemplate::new(&source, "<s>", "</s>") else {
        return;
    };
    let messages: Vec<_> = parts
        .iter()
        .skip(1)
        .take(64)
        .map(|part| message(&text(part)))
        .collect();
    if messages.is_empty() {
        return;
    }
    let Ok(segments) = template.render(&messages, true) else {
        return;
    };
    // A date may change between two calls.
    if !source.contains("strftime_now") {
        assert_eq!(
            template.render(&messages, true).ok().as_ref(),
            Some(&segments),
            "another prompt"
        );
    }
    let bytes: usize = segments.iter().map(|segment| segment.text().len()).sum();
    assert!(bytes <= RENDERED, "{bytes} bytes of prompt");
    let contents: Vec<&str> = segments
        .iter()
        .filter_map(|segment| match segment {
            Segment::Content(text) => Some(text.as_str()),
            Segment::Template(_) => None,
        })
        .collect();
    for content in &contents {
        let known = messages.iter().any(|message| message.content.contains(content));
        assert!(known, "content that no message has");
    }
    for message in messages.iter().filter(|message| message.role == ChatRole::User) {
        // Python's whitespace, by which templates trim, is within Rust's and the separators of ASCII.
        let words = message
            .content
            .trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c));
        let found = contents.iter().any(|content| content.contains(words));
        assert!(
            words.is_empty() || found,
            "a message of a user is not in the prompt"
        );
    }
}

fn message(text: &str) -> ChatMessage {
    let mut letters = text.chars();
    let role = match letters.next() {
        Some('s') => ChatRole::System,
        Some('a') => ChatRole::Assistant,
        _ => ChatRole::User,
    };
    ChatMessage {
        role,
        content: letters.as_str().to_owned(),
    }
}

struct Tiny {
    tokenizer: Arc<Tokenizer>,
    guard: Guard,
}

/// A small model's tokenizer, and the demo's guard with it.
static TINY: LazyLock<Tiny> = LazyLock::new(|| {
    let folder = repository("tests/golden/tiny-chat");
    let tokenizer = Arc::new(Tokenizer::from_folder(&folder).expect("the tokenizer"));
    let chat = ChatTemplate::from_folder(&folder)
        .expect("the template")
        .map(Arc::new);
    Tiny {
        guard: Guard::new(GuardKind::ChatDemo, Arc::clone(&tokenizer), chat).expect("the guard"),
        tokenizer,
    }
});

/// A prompt of template text and messages, in turn, for an honest tokenizer. Text of messages never becomes a special token,
/// whatever it spells and whatever stands beside it; and template text does.
pub(crate) fn segments(input: &[u8]) {
    let tokenizer = &TINY.tokenizer;
    let specials = |text: &str| text.matches("<|im_start|>").count() + text.matches("<|im_end|>").count();
    let mut expected = 0;
    let mut segments = Vec::new();
    for (index, part) in parts(input).into_iter().take(64).enumerate() {
        let text = text(part);
        segments.push(match index % 2 {
            0 => {
                expected += specials(&text);
                Segment::Template(text)
            }
            _ => Segment::Content(text),
        });
    }
    let tokens = tokenizer.encode(&segments).expect("every text has tokens");
    let found = tokens
        .iter()
        .filter(|token| tokenizer.special_text(**token).is_some())
        .count();
    assert_eq!(found, expected, "special tokens");
    let whole: String = segments.iter().map(Segment::text).collect();
    let kept: String = segments
        .iter()
        .map(|segment| match segment {
            Segment::Template(text) => text.replace("<|im_start|>", "").replace("<|im_end|>", ""),
            Segment::Content(text) => text.clone(),
        })
        .collect();
    assert_eq!(tokenizer.decode(&tokens), kept, "of {whole:?}");
}

/// What a guard writes, and the probabilities of its verdict. Parts: sixteen bytes of two log-probabilities, the text. The label
/// is that of the first line, scores are probabilities, categories are codes and occur once; and where decoding may end early,
/// more text changes neither label nor categories.
pub(crate) fn verdict(input: &[u8]) {
    let Tiny { guard, tokenizer } = &*TINY;
    let Some((numbers, written)) = input.split_at_checked(16) else {
        return;
    };
    let logprob = |at: usize| {
        let bytes = numbers[at..at + 8].try_into().expect("eight bytes");
        // What an engine computes: not above 0, and never not a number.
        let value = -f64::from_le_bytes(bytes).abs();
        if value.is_nan() { f64::NEG_INFINITY } else { value }
    };
    let probe = ProbeResult {
        logprobs: vec![logprob(0), logprob(8)],
        greedy: 0,
    };
    let written = text(written);
    let tokens = tokenizer.encode_plain(&written).expect("every text has tokens");
    let verdict = guard.verdict(JudgedRole::User, std::slice::from_ref(&probe), &tokens, None);
    assert!(
        verdict
            .unsafe_score
            .is_none_or(|score| (0.0..=1.0).contains(&score)),
        "{verdict:?}"
    );
    assert!((0.0..=2.0).contains(&verdict.label_mass), "{verdict:?}");
    let first = written
        .trim()
        .lines()
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let expected = match first.as_str() {
        "safe" => Label::Safe,
        "unsafe" => Label::Unsafe,
        _ => Label::Undetermined,
    };
    assert_eq!(verdict.label, expected, "of {written:?}");
    assert!(
        verdict.categories.is_empty() || verdict.label == Label::Unsafe,
        "{verdict:?}"
    );
    let mut codes: Vec<_> = verdict.categories.iter().map(|(code, _)| code.as_str()).collect();
    let number = |code: &str| {
        code.strip_prefix('S')
            .and_then(|digits| digits.parse::<u8>().ok())
    };
    assert!(
        codes
            .iter()
            .all(|code| number(code).is_some_and(|number| number < 100)),
        "{verdict:?}"
    );
    codes.sort_unstable();
    assert!(codes.windows(2).all(|pair| pair[0] != pair[1]), "{verdict:?}");

    let mut stop = guard
        .output_spec(JudgedRole::User, None)
        .stop
        .expect("a guard's text has an end");
    let end = tokens.iter().position(|token| stop.push(*token));
    if let Some(end) = end {
        let early = guard.verdict(
            JudgedRole::User,
            std::slice::from_ref(&probe),
            &tokens[..=end],
            None,
        );
        assert_eq!(early.label, verdict.label, "ended early, of {written:?}");
        assert_eq!(
            early.categories, verdict.categories,
            "ended early, of {written:?}"
        );
    }
}
