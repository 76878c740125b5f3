//! Added tokens, such as special tokens, which are found in text before any merging.

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::{
    error::{TokenizerError, invalid},
    python::is_space,
};

/// HTML elements for whose tags Gemma has tokens, which are ordinary text. `s` is not among them, because in other
/// vocabularies `<s>` and `</s>` begin and end a text.
const HTML: [&str; 33] = [
    "table",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "tr",
    "th",
    "td",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "blockquote",
    "strong",
    "em",
    "b",
    "i",
    "u",
    "sub",
    "sup",
    "code",
    "a",
    "html",
    "body",
    "img",
    "span",
    "ul",
    "li",
    "div",
    "iframe",
    "footer",
];

/// The kinds of added tokens, which decide in which text they are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddedKind {
    /// A token that steers the model (`<|eot_id|>`). It is found in trusted text only, and stands for no text.
    Control,
    /// A token that is not declared as control but spelled as markup (`<think>`, `[TOOL]`), which the text of a user must not
    /// become. It is found in trusted text only, and stands for its spelling.
    Markup,
    /// An ordinary piece of text, for example a run of spaces or an HTML tag. It is found in all text.
    Text,
}

impl AddedKind {
    /// The kind of a token that is not declared as control.
    pub(super) fn of_user_defined(spelling: &str) -> Self {
        if is_markup(spelling) && !is_html(spelling) {
            Self::Markup
        } else {
            Self::Text
        }
    }
}

/// Whether a token is spelled as special tokens are.
pub(super) fn is_markup(spelling: &str) -> bool {
    [('<', '>'), ('[', ']'), ('>', '<'), ('｜', '｜')]
        .iter()
        .any(|&(open, close)| spelling.len() > 2 && spelling.starts_with(open) && spelling.ends_with(close))
}

fn is_html(spelling: &str) -> bool {
    let name = spelling.strip_prefix('<').and_then(|s| s.strip_suffix('>'));
    name.is_some_and(|name| HTML.contains(&name.strip_prefix('/').unwrap_or(name)))
}

/// One added token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u32,
    pub text: String,
    pub kind: AddedKind,
    /// Whether whitespace in front of it belongs to the token.
    pub lstrip: bool,
    /// Whether whitespace after it belongs to the token.
    pub rstrip: bool,
}

/// An added token that was found in a text, with its range of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// Finds added tokens: the leftmost first, and of several at the same position the longest.
pub(super) struct AddedMatcher {
    tokens: Vec<AddedToken>,
    /// Finds the spellings of `tokens`, in the same order.
    spellings: AhoCorasick,
}

impl AddedMatcher {
    pub(super) fn new(tokens: Vec<AddedToken>) -> Result<Self, TokenizerError> {
        let spellings = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(tokens.iter().map(|t| &t.text))
            .map_err(|e| invalid(format!("added tokens: {e}")))?;
        Ok(Self { tokens, spellings })
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// The first token in `text[start..end]`, with its range in `text`. Whitespace that belongs to a token may be outside of
    /// `start..end`, as it would be in the joined text, but not before `floor`, where the previous token ended.
    pub(super) fn find(&self, text: &str, start: usize, end: usize, floor: usize) -> Option<Found> {
        if self.tokens.is_empty() || start >= end {
            return None;
        }
        let hit = self.spellings.find(Input::new(text).range(start..end))?;
        let token = &self.tokens[hit.pattern().as_usize()];
        let (mut from, mut to) = (hit.start(), hit.end());
        if token.lstrip {
            from = floor + text[floor..from].trim_end_matches(is_space).len();
        }
        if token.rstrip {
            to = text.len() - text[to..].trim_start_matches(is_space).len();
        }
        Some(Found {
            start: from,
            end: to,
            id: token.id,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: u32, text: &str, lstrip: bool, rstrip: bool) -> AddedToken {
        AddedToken {
            id,
            text: text.into(),
            kind: AddedKind::Control,
            lstrip,
            rstrip,
        }
    }

    fn ids(matcher: &AddedMatcher, text: &str) -> Vec<(usize, usize, u32)> {
        let mut end = 0;
        std::iter::from_fn(|| {
            let found = matcher.find(text, end, text.len(), end)?;
            end = found.end;
            Some((found.start, found.end, found.id))
        })
        .collect()
    }

    #[test]
    fn leftmost_longest_and_stripping() {
        let matcher = AddedMatcher::new(vec![
            token(1, "<a>", false, false),
            token(2, "<a><b>", false, false),
            token(3, "<l>", true, false),
            token(4, "<r>", false, true),
        ])
        .unwrap();
        assert_eq!(ids(&matcher, "é<a><b><a>"), [(2, 8, 2), (8, 11, 1)]);
        assert_eq!(ids(&matcher, "x \n<l> y"), [(1, 6, 3)]);
        assert_eq!(ids(&matcher, "<r> \n <l>"), [(0, 6, 4), (6, 9, 3)]);
        assert_eq!(ids(&matcher, "<a <a"), []);
    }

    #[test]
    fn markup_is_distinguished_from_text() {
        for markup in [
            "<think>",
            "[TOOL_CALLS]",
            ">>TITLE<<",
            "<|START_OF_TURN_TOKEN|>",
            "<｜end｜>",
            "</s>",
            "<//b>",
        ] {
            assert_eq!(AddedKind::of_user_defined(markup), AddedKind::Markup, "{markup}");
        }
        for text in ["  ", "\n\n\n", "õ", "<", "[]", "<>", "<table>", "</h1>"] {
            assert_eq!(AddedKind::of_user_defined(text), AddedKind::Text, "{text}");
        }
    }
}
