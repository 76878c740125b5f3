//! Whitespace as Python defines it, which templates and reference prompts rely on.

/// Python's `str.isspace` of one character: Unicode White_Space, and the four ASCII separators that Rust does not count.
pub(crate) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

/// Python's `str.strip()`.
pub(crate) fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strips_what_python_strips() {
        // Each of these is stripped by CPython's str.strip(); U+200B and U+FEFF are not.
        assert_eq!(strip("\u{1c}\u{1f}\u{a0}\u{3000}\t x y\u{85}\u{2029}\r\n"), "x y");
        assert_eq!(strip("\u{200b}x\u{feff}"), "\u{200b}x\u{feff}");
    }
}
