//! Tokens that are found in text before any merging: special tokens and the like.

use super::python::is_space;

/// Where a token of this kind may be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddedKind {
    /// Steers the model (`<|eot_id|>`): found in trusted text only, and stands for no text.
    Control,
    /// Not declared as control, but spelled as markup (`<think>`, `[TOOL]`), so that somebody's words must
    /// not become it: found in trusted text only, stands for its spelling.
    Markup,
    /// An ordinary piece of text, for example a run of spaces: found everywhere.
    Text,
}

impl AddedKind {
    /// The kind of a token that is not declared as control.
    pub(super) fn of_user_defined(spelling: &str) -> Self {
        let bracketed = [('<', '>'), ('[', ']'), ('>', '<'), ('｜', '｜')]
            .iter()
            .any(|&(open, close)| {
                spelling.len() > 2 && spelling.starts_with(open) && spelling.ends_with(close)
            });
        if bracketed { Self::Markup } else { Self::Text }
    }
}

/// One such token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub id: u32,
    pub text: String,
    pub kind: AddedKind,
    /// Swallows whitespace in front of it.
    pub lstrip: bool,
    /// Swallows whitespace after it.
    pub rstrip: bool,
}

/// A token found in a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub start: usize,
    pub end: usize,
    pub id: u32,
}

/// Finds added tokens, leftmost first, the longest at each place.
pub(super) struct AddedMatcher {
    tokens: Vec<AddedToken>,
    /// Indices into `tokens` by first byte, longest spelling first.
    by_first_byte: Vec<Vec<usize>>,
}

impl AddedMatcher {
    pub(super) fn new(tokens: Vec<AddedToken>) -> Self {
        let mut by_first_byte = vec![Vec::new(); 256];
        for (index, token) in tokens.iter().enumerate() {
            if let Some(&first) = token.text.as_bytes().first() {
                by_first_byte[usize::from(first)].push(index);
            }
        }
        for indices in &mut by_first_byte {
            indices.sort_by_key(|&i| std::cmp::Reverse(tokens[i].text.len()));
        }
        Self {
            tokens,
            by_first_byte,
        }
    }

    #[cfg(test)]
    pub(super) fn tokens(&self) -> &[AddedToken] {
        &self.tokens
    }

    /// Appends what is found in `text[start..end]`, with positions in `text`. Whitespace that a token
    /// swallows may lie outside of the range, as it would in the joined text.
    pub(super) fn find_all(&self, text: &str, start: usize, end: usize, found: &mut Vec<Found>) {
        if self.tokens.is_empty() {
            return;
        }
        let bytes = text.as_bytes();
        let mut at = start.max(found.last().map_or(0, |f| f.end));
        while at < end {
            let here = self.by_first_byte[usize::from(bytes[at])]
                .iter()
                .map(|&i| &self.tokens[i])
                .find(|t| bytes[at..end].starts_with(t.text.as_bytes()));
            let Some(token) = here else {
                at += 1;
                continue;
            };
            let floor = found.last().map_or(0, |f| f.end);
            let (mut from, mut to) = (at, at + token.text.len());
            if token.lstrip {
                from = floor + text[floor..from].trim_end_matches(is_space).len();
            }
            if token.rstrip {
                to = text.len() - text[to..].trim_start_matches(is_space).len();
            }
            found.push(Found {
                start: from,
                end: to,
                id: token.id,
            });
            at = to;
        }
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
        let mut found = Vec::new();
        matcher.find_all(text, 0, text.len(), &mut found);
        found.iter().map(|f| (f.start, f.end, f.id)).collect()
    }

    #[test]
    fn leftmost_longest_and_stripping() {
        let matcher = AddedMatcher::new(vec![
            token(1, "<a>", false, false),
            token(2, "<a><b>", false, false),
            token(3, "<l>", true, false),
            token(4, "<r>", false, true),
        ]);
        assert_eq!(ids(&matcher, "é<a><b><a>"), [(2, 8, 2), (8, 11, 1)]);
        assert_eq!(ids(&matcher, "x \n<l> y"), [(1, 6, 3)]);
        assert_eq!(ids(&matcher, "<r> \n <l>"), [(0, 6, 4), (6, 9, 3)]);
        assert_eq!(ids(&matcher, "<a <a"), []);
    }

    #[test]
    fn markup_is_told_from_text() {
        for markup in [
            "<think>",
            "[TOOL_CALLS]",
            ">>TITLE<<",
            "<|START_OF_TURN_TOKEN|>",
            "<｜end｜>",
        ] {
            assert_eq!(AddedKind::of_user_defined(markup), AddedKind::Markup, "{markup}");
        }
        for text in ["  ", "\n\n\n", "õ", "<", "[]", "<>"] {
            assert_eq!(AddedKind::of_user_defined(text), AddedKind::Text, "{text}");
        }
    }
}
