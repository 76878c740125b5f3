//! Reads JSON bodies within limits.
//!
//! A value can take much more memory when it is read than its text has bytes, as each number of a list does. So the values of
//! a text are counted before it is read, and what they take at most is counted to the memory for requests.

use serde::de::DeserializeSeed;
use serde_path_to_error::{Deserializer, Path, Segment, Track};

use crate::rpc::{Limits, ReceivedBody, ServiceError};

/// Bytes of memory that a value or name of a JSON text is counted with: twice the size of a value in a list, which grows by
/// doubling.
const VALUE_BYTES: usize = 128;

/// Bytes of memory that an object is counted with. One that has a field has room for several.
const OBJECT_BYTES: usize = 1024;

/// The field of errors that are about the body as a whole.
const BODY: &str = "body";

/// Most bytes of a name that an error may repeat.
const NAME_BYTES: usize = 64;

/// Most bytes of memory that the values of a JSON body may take: a quarter of the memory for all requests.
pub(super) fn most_memory(limits: &Limits) -> usize {
    limits.request_bytes / 4
}

/// Reads the whole body as what `seed` makes, within this many bytes of memory.
///
/// # Errors
/// When it is not JSON, has too many values or too many levels, or is not what `seed` makes; each with the path of the field.
pub(super) fn read<T>(
    body: &mut ReceivedBody,
    most_memory: usize,
    seed: impl for<'a> DeserializeSeed<'a, Value = T>,
) -> Result<T, ServiceError> {
    let memory = memory(&body.bytes);
    if memory > most_memory {
        let says = format!(
            "has so many values that they would take {memory} bytes of memory, and the limit is {most_memory} (a quarter of \
             limits.request_bytes); send less at once"
        );
        return Err(ServiceError::field(BODY, says));
    }
    body.hold(memory)?;
    parse(&body.bytes, seed)
}

/// Reads a text as what `seed` makes, whatever memory that takes.
///
/// # Errors
/// As [`read`], but for the number of values.
pub(super) fn parse<'a, T>(
    text: &'a [u8],
    seed: impl DeserializeSeed<'a, Value = T>,
) -> Result<T, ServiceError> {
    let mut json = serde_json::Deserializer::from_slice(text);
    let mut track = Track::new();
    let read = seed.deserialize(Deserializer::new(&mut json, &mut track));
    let value = read.map_err(|error| ServiceError::field(field(track, &error), said(&error)))?;
    json.end()
        .map_err(|error| ServiceError::field(BODY, said(&error)))?;
    Ok(value)
}

/// The path of the field that is wrong, or [`BODY`].
fn field(track: Track, error: &serde_json::Error) -> String {
    if error.classify() != serde_json::error::Category::Data {
        return BODY.to_owned();
    }
    let path = shown(&track.path());
    let text = error.to_string();
    // prost-reflect tells a name that does not exist in words alone.
    let unknown = text
        .strip_prefix("unrecognized field name '")
        .and_then(|rest| rest.split_once('\''))
        .filter(|(name, _)| is_name(name));
    match (path.is_empty(), unknown) {
        (true, None) => BODY.to_owned(),
        (true, Some((name, _))) => name.to_owned(),
        (false, Some((name, _))) => format!("{path}.{name}"),
        (false, None) => path,
    }
}

/// A path up to the first name that does not look like one: such a name is the caller's text. Empty for the body as a whole.
fn shown(path: &Path) -> String {
    let is_shown = |segment: &&Segment| match segment {
        Segment::Map { key: name } | Segment::Enum { variant: name } => is_name(name),
        Segment::Seq { .. } | Segment::Unknown => true,
    };
    let mut shown = String::new();
    for segment in path.iter().take_while(is_shown) {
        if !shown.is_empty() && !matches!(segment, Segment::Seq { .. }) {
            shown.push('.');
        }
        shown.push_str(&segment.to_string());
    }
    shown
}

/// What is wrong, and where. serde's errors repeat what they found; ours repeat no text of a caller, except for a name that does
/// not exist.
fn said(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let (what, place) = match text.strip_suffix(&place) {
        Some(what) => (what, place.as_str()),
        None => (text.as_str(), ""),
    };
    let Some(quoted) = what.find(['"', '`', '\'']) else {
        return text;
    };
    let (found, rest) = what.split_at(quoted);
    let expected = rest.rfind(", expected ").map(|at| &rest[at..]);
    match expected {
        // As in: invalid type: string "x", expected a map.
        Some(expected) if found.starts_with("invalid ") => format!("{}{expected}{place}", found.trim_end()),
        _ if is_name(rest) => text,
        _ => format!("{}{place}", found.trim_end()),
    }
}

/// Whether a quoted text looks like the name of a field or value.
fn is_name(quoted: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_'`".contains(&byte);
    quoted.len() <= NAME_BYTES && quoted.bytes().all(plain)
}

/// At least as many bytes of memory as the values and names of a JSON text take, beside their texts. Each but the first follows
/// one of these characters outside of a string.
fn memory(text: &[u8]) -> usize {
    let (mut bytes, mut in_string, mut is_escaped) = (VALUE_BYTES, false, false);
    for byte in text {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if in_string => is_escaped = true,
            b'"' => in_string = !in_string,
            b',' | b':' | b'[' if !in_string => bytes += VALUE_BYTES,
            b'{' if !in_string => bytes += OBJECT_BYTES,
            _ => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::marker::PhantomData;

    use serde_json::Value;

    use super::*;

    fn parsed(text: &str) -> Result<Value, ServiceError> {
        parse(text.as_bytes(), PhantomData::<Value>)
    }

    fn wrong(text: &str) -> (String, String) {
        match parsed(text).unwrap_err() {
            ServiceError::InvalidFields(fields) => (fields[0].field.clone(), fields[0].description.clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn values_take_no_more_than_is_counted() {
        fn values(value: &Value) -> usize {
            match value {
                Value::Array(items) => VALUE_BYTES + items.iter().map(values).sum::<usize>(),
                Value::Object(fields) => {
                    OBJECT_BYTES
                        + fields
                            .values()
                            .map(|value| VALUE_BYTES + values(value))
                            .sum::<usize>()
                }
                _ => VALUE_BYTES,
            }
        }
        for text in [
            "1",
            "[]",
            "[1,2,3]",
            r#"{"a":[{},{"b":"x,y:[{"}],"c\"":null}"#,
            r#"["\\",","]"#,
            "[[[[[]]]]]",
        ] {
            assert!(
                memory(text.as_bytes()) >= values(&parsed(text).unwrap()),
                "{text}"
            );
        }
        let text = br#"{"a,b":"c:d[{"}"#;
        assert_eq!(
            memory(text),
            OBJECT_BYTES + 2 * VALUE_BYTES,
            "strings are one value each"
        );
        assert!(VALUE_BYTES >= 2 * size_of::<prost_reflect::Value>());
    }

    #[test]
    fn what_is_not_json_is_told_with_its_place() {
        assert_eq!(
            wrong(r#"{"a": }"#),
            (BODY.to_owned(), "expected value at line 1 column 7".to_owned())
        );
        assert_eq!(wrong("{} {}").0, BODY);
        assert!(wrong(&"[".repeat(200)).1.contains("recursion limit"));
        assert!(wrong("").1.contains("EOF"));
    }

    #[test]
    fn a_wrong_field_is_told_with_its_path() {
        #[derive(Debug, serde::Deserialize)]
        struct Inner {
            _n: u32,
        }
        let text = br#"{"a":[{"_n":1},{"_n":"x"}]}"#;
        let read = parse(text, PhantomData::<std::collections::HashMap<String, Vec<Inner>>>);
        let ServiceError::InvalidFields(fields) = read.unwrap_err() else {
            panic!("another error");
        };
        assert_eq!(fields[0].field, "a[1]._n");
        assert!(
            fields[0].description.starts_with("invalid type: string"),
            "{:?}",
            fields[0]
        );
    }

    #[test]
    fn texts_of_callers_are_not_repeated() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Shape {
            #[serde(rename = "n")]
            _n: u32,
        }
        let of_shape = |text: &str| match parse(text.as_bytes(), PhantomData::<Shape>) {
            Err(ServiceError::InvalidFields(fields)) => fields[0].description.clone(),
            other => panic!("{other:?}"),
        };
        for (text, expected) in [
            (
                r#"{"n":"my, expected secret"}"#,
                "invalid type: string, expected u32 at line 1 column 26",
            ),
            (
                r#"{"n":-77}"#,
                "invalid value: integer, expected u32 at line 1 column 8",
            ),
            (
                r#""secret""#,
                "invalid type: string, expected struct Shape at line 1 column 8",
            ),
            (r#"{"my secret":1}"#, "unknown field at line 1 column 12"),
        ] {
            assert_eq!(of_shape(text), expected);
        }
        let read = parse(br#"[{"n":1},{"my secret":1}]"#, PhantomData::<Vec<Shape>>);
        let Err(ServiceError::InvalidFields(fields)) = read else {
            panic!("another error");
        };
        assert!(!fields[0].field.contains("secret"), "{:?}", fields[0]);
    }

    #[test]
    fn only_what_looks_like_a_name_is_repeated() {
        assert!(is_name("'ROLE_KING'") && is_name("`n`"));
        let long = format!("'{}'", "x".repeat(NAME_BYTES));
        for text in ["'two words'", "'a`, expected b'", "'a@b.example'", &long] {
            assert!(!is_name(text), "{text}");
        }
    }
}
