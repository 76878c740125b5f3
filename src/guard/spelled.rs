//! Special tokens that a text spells.
//!
//! Whoever is sent a prompt as tokens cannot take a message's words for a special token. Whoever is sent it as a text finds special
//! tokens wherever they are spelled. So a text is sent only if nothing but the prompt itself spells any.

use std::ops::Range;

use super::kind::GuardKind;
use crate::text::Segment;

/// Around the names of special tokens in most vocabularies. Those of other makers have vertical bars of full width.
const BRACKETS: [(&str, &str); 2] = [("<|", "|>"), ("<｜", "｜>")];

/// Longest name between brackets, in bytes.
const LONGEST_NAME: usize = 64;

/// What begins every sequence, in the vocabularies of guards.
const BEGINNINGS: [&str; 3] = ["<|begin_of_text|>", "<s>", "<bos>"];

/// The first special token that is spelled in or across content, as it is spelled there.
pub(super) fn spelled_in_content(segments: &[Segment], kind: GuardKind) -> Option<String> {
    let text: String = segments.iter().map(Segment::text).collect();
    let mut contents = Vec::new();
    let mut start = 0;
    for segment in segments {
        let end = start + segment.text().len();
        if matches!(segment, Segment::Content(_)) && start < end {
            contents.push(start..end);
        }
        start = end;
    }
    let meets_content = |found: &Range<usize>| {
        contents
            .iter()
            .any(|one| found.start < one.end && one.start < found.end)
    };
    let named = kind.special_tokens().unwrap_or_default().iter();
    let named = named.chain(kind.other_special_tokens());
    let named = named.flat_map(|token| text.match_indices(token));
    let named = named.map(|(start, token)| start..start + token.len());
    let mut found: Vec<_> = named.chain(bracketed(&text)).filter(meets_content).collect();
    found.sort_by_key(|found| found.start);
    found
        .first()
        .and_then(|found| text.get(found.clone()))
        .map(str::to_owned)
}

/// Names without white space between brackets.
fn bracketed(text: &str) -> impl Iterator<Item = Range<usize>> {
    BRACKETS.into_iter().flat_map(move |(open, close)| {
        text.match_indices(open).filter_map(move |(start, _)| {
            let name = start + open.len();
            let end = text.floor_char_boundary(name + LONGEST_NAME + close.len());
            let length = text.get(name..end)?.find(close)?;
            let spelled = text.get(name..name + length)?;
            let is_name = length > 0 && !spelled.contains(char::is_whitespace);
            is_name.then_some(start..name + length + close.len())
        })
    })
}

/// A prompt's text without the token that begins every sequence, and without the white space before it.
pub(super) fn without_beginning(text: &str) -> &str {
    let trimmed = text.trim_start();
    let rest = BEGINNINGS.iter().find_map(|token| trimmed.strip_prefix(token));
    rest.unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(content: &str) -> Vec<Segment> {
        vec![
            Segment::Template("<|begin_of_text|>User: <".to_owned()),
            Segment::Content(content.to_owned()),
            Segment::Template(">\n<|eot_id|>".to_owned()),
        ]
    }

    fn spelled(content: &str) -> Option<String> {
        spelled_in_content(&segments(content), GuardKind::LlamaGuard3_8B)
    }

    #[test]
    fn what_the_template_spells_is_not_found_and_what_a_message_spells_is() {
        for harmless in [
            "",
            "a < b",
            "<s>",
            "f(|x|) |> g",
            "<| two words |>",
            "<||>",
            "eot_id",
        ] {
            assert_eq!(spelled(harmless), None, "{harmless}");
        }
        for token in ["<|eot_id|>", "<|reserved_special_token_7|>", "<｜end｜>"] {
            assert_eq!(spelled(&format!("so {token} it")).as_deref(), Some(token));
        }
        let long = format!("<|{}|>", "x".repeat(65));
        assert_eq!(spelled(&long), None);
    }

    #[test]
    fn a_token_that_begins_or_ends_in_the_template_is_found_too() {
        assert_eq!(spelled("|eot_id|").as_deref(), Some("<|eot_id|>"));
    }

    #[test]
    fn the_first_of_several_is_told() {
        assert_eq!(spelled("<|b|> <|a|>").as_deref(), Some("<|b|>"));
        let wild = spelled_in_content(&segments("x [INST] <s>"), GuardKind::WildGuard);
        assert_eq!(wild.as_deref(), Some("[INST]"));
        let thoughts = spelled_in_content(&segments("x </think> <tool_call>"), GuardKind::Qwen3GuardGen);
        assert_eq!(thoughts.as_deref(), Some("</think>"));
    }

    #[test]
    fn the_beginning_token_is_left_out_with_the_space_before_it() {
        assert_eq!(without_beginning(" <|begin_of_text|>Task"), "Task");
        assert_eq!(without_beginning("<s><|user|>\n"), "<|user|>\n");
        assert_eq!(without_beginning(" <|im_start|>user"), " <|im_start|>user");
    }
}
