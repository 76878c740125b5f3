//! Just enough reading of Rust and Markdown for the tidy test.

pub mod circles;
pub mod known;
mod module_reader;
mod module_tree;
pub mod parameters;
pub mod uses;

/// The source with comments, strings and character literals blanked out; every byte keeps its place.
pub fn code_only(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => find(bytes, at, b"\n"),
            b'/' if bytes[at..].starts_with(b"/*") => block_comment_end(bytes, at),
            b'r' | b'b' | b'c' if !at.checked_sub(1).is_some_and(|before| is_word(bytes[before])) => {
                raw_string_end(bytes, at).unwrap_or(at)
            }
            b'"' => quoted_end(bytes, at),
            b'\'' => char_literal_end(source, at).unwrap_or(at),
            _ => at,
        };
        if end == at {
            at += 1;
            continue;
        }
        for byte in &mut out[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end;
    }
    String::from_utf8(out).expect("only whole literals were blanked")
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = &bytes[from..];
    rest.windows(what.len())
        .position(|window| window == what)
        .map_or(bytes.len(), |found| from + found)
}

fn block_comment_end(bytes: &[u8], from: usize) -> usize {
    let (mut depth, mut at) = (0usize, from);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if bytes[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while matches!(bytes.get(at), Some(b'b' | b'c')) {
        at += 1;
    }
    if bytes.get(at) != Some(&b'r') {
        return None;
    }
    at += 1;
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    at += hashes;
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut close = vec![b'"'];
    close.extend(std::iter::repeat_n(b'#', hashes));
    Some((find(bytes, at + 1, &close) + close.len()).min(bytes.len()))
}

fn quoted_end(bytes: &[u8], from: usize) -> usize {
    let mut at = from + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

/// The end of a character literal; `None` for a lifetime.
fn char_literal_end(source: &str, from: usize) -> Option<usize> {
    let rest = &source[from + 1..];
    let first = rest.chars().next()?;
    if first == '\\' {
        let escaped = 1 + rest[1..].chars().next()?.len_utf8();
        return Some(from + 1 + escaped + rest[escaped..].find('\'')? + 1);
    }
    rest[first.len_utf8()..]
        .starts_with('\'')
        .then(|| from + 1 + first.len_utf8() + 1)
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// All identifiers and keywords with their byte offsets.
pub fn words(code: &str) -> impl Iterator<Item = (usize, &str)> {
    code.split(|c: char| !(c == '_' || c.is_ascii_alphanumeric()))
        .filter(|word| !word.is_empty())
        .map(|word| (word.as_ptr() as usize - code.as_ptr() as usize, word))
}

/// 1-based line of a byte offset.
pub fn line_of(source: &str, offset: usize) -> usize {
    source[..offset].matches('\n').count() + 1
}

/// Every path that starts at the crate's root, without `crate::`, groups expanded: the offset where the path
/// begins, and `engine::Event`. `depth` is how many `super::` lead from the file to the root.
pub fn crate_paths(code: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let climb = "super::".repeat(depth);
    for (offset, word) in words(code) {
        let rest = &code[offset..];
        let before = code[..offset].trim_end();
        let start = match word {
            "crate" if rest.starts_with("crate::") => "crate::".len(),
            "super" if !before.ends_with("::") && rest.starts_with(&climb) => climb.len(),
            _ => continue,
        };
        let mut paths = Vec::new();
        use_tree(&rest[start..], "", &mut paths);
        found.extend(paths.into_iter().map(|path| (offset, path)));
    }
    found
}

/// Reads one use tree (`a::{b, c::d}`); returns what comes after it.
fn use_tree<'a>(text: &'a str, prefix: &str, found: &mut Vec<String>) -> &'a str {
    let text = text.trim_start();
    if let Some(mut rest) = text.strip_prefix('{') {
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('}') {
                return after;
            }
            let before = rest.len();
            rest = use_tree(rest, prefix, found).trim_start();
            rest = rest.strip_prefix("as ").map_or(rest, |alias| {
                alias
                    .trim_start()
                    .trim_start_matches(|c: char| c == '_' || c.is_ascii_alphanumeric())
            });
            rest = rest.trim_start().strip_prefix(',').unwrap_or(rest);
            if rest.len() >= before {
                return rest;
            }
        }
    }
    let length = text
        .find(|c: char| !(c == '_' || c == '*' || c.is_ascii_alphanumeric()))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at(length);
    let path = if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}::{name}")
    };
    match rest.strip_prefix("::") {
        Some(below) => use_tree(below, &path, found),
        None => {
            if !name.is_empty() {
                found.push(path.trim_end_matches("::self").to_owned());
            }
            rest
        }
    }
}

/// Errors of `thiserror` whose message has the field that is their source: the line, and the field.
pub fn doubled_sources(source: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, opening) in source.match_indices("#[error(") {
        let rest = &source[at + opening.len()..];
        let Some((message, variant)) = rest.split_once(")]\n") else {
            continue;
        };
        // To the next message, at most.
        let variant = variant.split("#[error(").next().unwrap_or(variant);
        let fields = &variant[..variant
            .find("\n    },")
            .or(variant.find('\n'))
            .unwrap_or(variant.len())];
        let Some(field) = source_field(fields) else {
            continue;
        };
        let shows = [format!("{{{field}"), format!(".{field}"), format!("({field})")];
        if shows.iter().any(|shown| message.contains(shown.as_str())) {
            found.push((line_of(source, at), field));
        }
    }
    found
}

/// The name or number of the field that an error hands out as its source.
fn source_field(variant: &str) -> Option<String> {
    if let Some((_, marked)) = variant.split_once("#[source]").or(variant.split_once("#[from]")) {
        let name: String = marked
            .trim_start()
            .chars()
            .take_while(|c| *c == '_' || c.is_ascii_lowercase())
            .collect();
        return Some(match marked.trim_start()[name.len()..].starts_with(':') {
            true => name,
            false => "0".to_owned(),
        });
    }
    words(&code_only(variant))
        .any(|(_, word)| word == "source")
        .then(|| "source".to_owned())
}

/// The text below `## title`, up to the next heading of that rank.
pub fn section<'a>(markdown: &'a str, title: &str) -> Option<&'a str> {
    let heading = format!("## {title}\n");
    let start = markdown.find(&heading)? + heading.len();
    let rest = &markdown[start..];
    Some(&rest[..rest.find("\n## ").unwrap_or(rest.len())])
}

/// Lines inside fenced code blocks.
pub fn code_lines(markdown: &str) -> impl Iterator<Item = &str> {
    markdown
        .split("```")
        .skip(1)
        .step_by(2)
        .flat_map(|block| block.lines().skip(1))
        .filter(|line| !line.trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_comments_are_blanked_in_place() {
        let source = "let a = '\"'; // unsafe\nlet b = r#\"un\"safe\"#; /* unsafe /* */ */ fn f<'a>() {} '\\'' \"\\\"x\" end";
        let code = code_only(source);
        assert_eq!(code.len(), source.len());
        let left: Vec<_> = words(&code).map(|(_, word)| word).collect();
        assert_eq!(left, ["let", "a", "let", "b", "fn", "f", "a", "end"]);
    }

    #[test]
    fn use_trees_are_expanded() {
        let code = "use crate::{a::{b, c as d, self}, e, f::*}; let x = crate::g::h(1);";
        let paths: Vec<_> = crate_paths(code, 1).into_iter().map(|(_, path)| path).collect();
        assert_eq!(paths, ["a::b", "a::c", "a", "e", "f::*", "g::h"]);
    }

    #[test]
    fn errors_that_show_and_expose_their_source_are_found() {
        let source = r#"
enum A {
    /// Both.
    #[error("{path}: {source}")]
    Named {
        /// Where.
        path: String,
        source: io::Error,
    },
    #[error("only where: {path}")]
    Good {
        path: String,
        source: io::Error,
    },
    #[error("numbered: {0}")]
    Numbered(#[from] Other),
    #[error("shown only: {0}")]
    Shown(Other),
    #[error(transparent)]
    Passed(#[from] Third),
    #[error(
        "by a function: {}",
        shown(cause)
    )]
    Marked {
        #[source]
        cause: Other,
    },
}
#[error("a report: {0}")]
struct Single(#[from] Other);
"#;
        let found = doubled_sources(source);
        let expected = [(4, "source"), (15, "0"), (21, "cause"), (30, "0")];
        assert_eq!(found, expected.map(|(line, field)| (line, field.to_owned())));
    }

    #[test]
    fn sections_end_at_the_next_heading() {
        let text = "# A\n\n## One\n\n```\nfirst\n```\n\n### Deeper\n\n## Two\n\n```\nsecond\n```\n";
        let lines: Vec<_> = code_lines(section(text, "One").expect("a section")).collect();
        assert_eq!(lines, ["first"]);
        assert_eq!(section(text, "Three"), None);
    }
}
