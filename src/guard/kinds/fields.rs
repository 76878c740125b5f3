//! Answers that are lines of a name, a colon and a value, such as `Safety: Safe`.

/// The value of the first whole or unfinished line with this name, without spaces around it. Names are compared without regard
/// to case.
pub(super) fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// Whether the line with this name is complete: another line begins after it.
pub(super) fn is_complete(text: &str, name: &str) -> bool {
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    value(whole, name).is_some_and(|value| !value.is_empty())
}

/// The value of the line with this name as yes or no; `None` if it is neither.
pub(super) fn yes(text: &str, name: &str) -> Option<bool> {
    let value = value(text, name)?;
    match value {
        _ if value.eq_ignore_ascii_case("yes") => Some(true),
        _ if value.eq_ignore_ascii_case("no") => Some(false),
        _ => None,
    }
}

/// Whether a text has so many more bytes than an answer of these fields that it is none. Then it is decoded no further.
pub(super) fn is_too_long(text: &str) -> bool {
    const LONGEST: usize = 512;
    text.len() >= LONGEST
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_whole_names() {
        let text = "Harmful request: yes\n Response refusal : No \nHarmful response: perhaps\n";
        assert_eq!(yes(text, "Harmful request"), Some(true));
        assert_eq!(yes(text, "response refusal"), Some(false));
        assert_eq!(yes(text, "Harmful response"), None);
        assert_eq!(value(text, "Harmful response"), Some("perhaps"));
        assert_eq!(value(text, "Harmful"), None);
        assert_eq!(value("Safety: Safe\nSafety: Unsafe", "Safety"), Some("Safe"));
    }

    #[test]
    fn a_line_is_complete_when_the_next_one_begins() {
        assert!(!is_complete("Safety: Saf", "Safety"));
        assert!(!is_complete("Safety: Safe", "Safety"));
        assert!(is_complete("Safety: Safe\n", "Safety"));
        assert!(!is_complete("Safety:\n", "Safety"));
        assert!(!is_complete("Safety: Safe\nCategories: No", "Categories"));
    }
}
