//! A Jinja environment that behaves like the one in which transformers renders chat templates: with Python's string
//! methods and whitespace, `raise_exception`, `strftime_now`, and JSON as Python writes it.

use std::{borrow::Cow, collections::HashSet, fmt, io};

use minijinja::{
    AutoEscape, Environment, Error, ErrorKind, Output, State, Value,
    syntax::SyntaxConfig,
    value::{Kwargs, ValueKind},
};
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use super::{
    marks::PRIVATE_USE,
    metered::{self, BYTES_PER_FUEL, Price},
    python, strftime,
};

/// The error of a template that has called `raise_exception`.
#[derive(Debug)]
pub(super) struct Refusal(pub String);

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Returns the seconds since 1970-01-01.
pub(super) type Clock = fn() -> u64;

/// The environment for templates; `strftime_now` reads `clock`.
pub(super) fn environment(clock: Clock) -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(write_as_python);
    environment.set_unknown_method_callback(method);
    environment.add_filter(
        "trim",
        |text: Cow<'_, str>, chars: Option<Cow<'_, str>>| match chars {
            Some(chars) => text.trim_matches(among(&chars)).to_owned(),
            None => python::strip(&text).to_owned(),
        },
    );
    environment.add_filter("tojson", to_json);
    environment.add_filter("dictsort", dictsort);
    metered::add_functions(&mut environment);
    // In Python, None is not iterable. Templates test this when there are no tools.
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && value.try_iter().is_ok()
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Refusal(message)))
    });
    environment.add_function("strftime_now", move |state: &State<'_, '_>, format: &str| {
        // The fuel is consumed before the text is written, because a short format can ask for wide fields.
        state.consume_fuel(1 + format.len() as u64 * strftime::LONGEST_FIELD / BYTES_PER_FUEL)?;
        Ok(strftime::at(clock(), format))
    });
    Ok(environment)
}

/// Replaces `{% generation %}`, which only marks the answer for training, by a condition that is always true, because
/// transformers renders its body.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let inside = start + 2;
        let Some(end) = rest[inside..].find("%}").map(|e| inside + e) else {
            break;
        };
        let tag = rest[inside..end].trim_matches(['-', '+']).trim();
        let instead = match tag {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        match instead {
            Some(instead) => out.push_str(&rest[..end].replace(tag, instead)),
            None => out.push_str(&rest[..end]),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    out
}

/// Writes a value as Python prints it: `None`, `True` and `False`.
fn write_as_python(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    let text = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => {
            metered::pay(state, value, Price::Text)?;
            return minijinja::escape_formatter(out, state, value);
        }
    };
    out.write_str(text).map_err(Error::from)
}

fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    if let (Some(text), "strip" | "lstrip" | "rstrip") = (value.as_str(), name) {
        let chars = match args {
            [] => None,
            [chars] => chars.as_str(),
            _ => return Err(Error::from(ErrorKind::TooManyArguments)),
        };
        state.consume_fuel((text.len() + chars.map_or(0, str::len)) as u64 / BYTES_PER_FUEL)?;
        let chars = chars.map(among);
        let matches = |c: char| {
            chars
                .as_ref()
                .map_or_else(|| python::is_space(c), |matches| matches(c))
        };
        return Ok(Value::from(match name {
            "lstrip" => text.trim_start_matches(matches),
            "rstrip" => text.trim_end_matches(matches),
            _ => text.trim_matches(matches),
        }));
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// A test of whether a character is one of these, which is as fast with many.
fn among(chars: &str) -> impl Fn(char) -> bool + use<> {
    let chars: HashSet<char> = chars.chars().collect();
    move |c| chars.contains(&c)
}

/// Jinja's `dictsort(case_sensitive=, by=, reverse=)`, by words alone: names of a tool's arguments have [marks](super::marks)
/// around them, whose numbers are in the order in which the caller wrote them.
fn dictsort(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    if value.kind() != ValueKind::Map {
        let error = "cannot convert value into pair list";
        return Err(Error::new(ErrorKind::InvalidOperation, error));
    }
    let is_by_value = kwargs.get::<Option<&str>>("by")? == Some("value");
    let is_case_sensitive = kwargs.get::<Option<bool>>("case_sensitive")?.unwrap_or(false);
    let is_reverse = kwargs.get::<Option<bool>>("reverse")?.unwrap_or(false);
    kwargs.assert_all_used()?;
    let mut pairs = Vec::new();
    for key in value.try_iter()? {
        let found = value.get_item(&key)?;
        let by = if is_by_value { &found } else { &key };
        let by = match by.as_str() {
            Some(text) if is_case_sensitive => Value::from(words_between_marks(text)),
            Some(text) => Value::from(words_between_marks(text).to_lowercase()),
            None => by.clone(),
        };
        pairs.push((by, [key, found]));
    }
    pairs.sort_by(|(one, _), (other, _)| match is_reverse {
        true => other.cmp(one),
        false => one.cmp(other),
    });
    Ok(pairs
        .into_iter()
        .map(|(_, pair)| Value::from(pair.to_vec()))
        .collect())
}

/// A text without marks, which are private-use characters, and without what stands between the first two of them.
fn words_between_marks(text: &str) -> String {
    let pieces = text.split(|c| PRIVATE_USE.contains(&c));
    let words = pieces.enumerate().filter(|(index, _)| *index != 1);
    words.map(|(_, piece)| piece).collect()
}

/// Python's `json.dumps(value, ensure_ascii=..., indent=...)`, where `ensure_ascii` is off unless it is set, as in transformers.
fn to_json(value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let is_ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    // This has no effect: keys keep their order.
    let _ = kwargs.get::<Option<bool>>("sort_keys")?;
    let indent = kwargs.get::<Option<usize>>("indent")?;
    kwargs.assert_all_used()?;
    let mut out = Vec::new();
    let written = match indent {
        Some(width) => {
            let indent = vec![b' '; width.min(16)];
            dump(value, &mut out, PrettyFormatter::with_indent(&indent))
        }
        None => dump(value, &mut out, PythonFormatter),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    let json = String::from_utf8_lossy(&out);
    Ok(Value::from(match is_ascii {
        true => in_ascii(&json),
        false => json.into_owned(),
    }))
}

/// JSON with escapes in place of characters that are not ASCII. Private-use characters stay, because the marks around words are such.
fn in_ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for character in json.chars() {
        let stays = character.is_ascii() && character != '\x7f' || PRIVATE_USE.contains(&character);
        match stays {
            true => out.push(character),
            false => {
                for unit in character.encode_utf16(&mut [0; 2]).iter() {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out
}

fn dump(value: &Value, out: &mut Vec<u8>, formatter: impl Formatter) -> serde_json::Result<()> {
    value.serialize(&mut serde_json::Serializer::with_formatter(out, formatter))
}

/// Python's default separators: `", "` and `": "`.
struct PythonFormatter;

impl Formatter for PythonFormatter {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        self.begin_array_value(out, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, out: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(out)?;
        out.write_all(b" ")
    }
}
