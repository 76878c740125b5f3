//! What is wrong with a table file, by row and field, and what to do about it.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::table::{BadRow, Place};

/// Problems that an error message spells out; the rest is counted.
const SHOWN_PROBLEMS: usize = 100;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The set cannot be used.
    Error,
    /// It can, but somebody should look.
    Warning,
}

/// A closed set of kinds of problems.
pub trait Kind: Copy + Serialize {
    /// A row that cannot be read.
    const UNREADABLE: Self;
    /// Bytes that are no UTF-8.
    const NOT_UTF8: Self;

    /// Whether the file can still be used.
    fn severity(self) -> Severity;

    /// What to do about it.
    fn fix(self) -> &'static str;
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem<K> {
    /// What kind of thing.
    pub kind: K,
    /// Which file; empty when there is only one.
    pub file: String,
    /// Where in it.
    pub place: Place,
    /// The row's id, where it has one.
    pub id: Option<String>,
    /// The column; empty: the row.
    pub field: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl<K> fmt::Display for Problem<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}, ", self.file)?;
        }
        let Self { place, message, .. } = self;
        match self.field.as_str() {
            "" => write!(f, "{place}: {message}"),
            field => write!(f, "{place}, field `{field}`: {message}"),
        }
    }
}

impl<K: Kind> Serialize for Problem<K> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let (line, row) = match self.place {
            Place::Whole => (None, None),
            Place::Line(line) => (Some(line), None),
            Place::Row(row) => (None, Some(row)),
        };
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut map = to.serialize_map(Some(9))?;
        map.serialize_entry("severity", &self.kind.severity())?;
        map.serialize_entry("kind", &self.kind)?;
        map.serialize_entry("file", &text(&self.file))?;
        map.serialize_entry("line", &line)?;
        map.serialize_entry("row", &row)?;
        map.serialize_entry("id", &self.id)?;
        map.serialize_entry("field", &text(&self.field))?;
        map.serialize_entry("message", &self.message)?;
        map.serialize_entry("fix", self.kind.fix())?;
        map.end()
    }
}

impl<K: Kind> Problem<K> {
    /// In the only file; `field` empty: about the row.
    pub fn new(kind: K, place: Place, id: Option<String>, field: &str, message: String) -> Self {
        Self {
            kind,
            file: String::new(),
            place,
            id,
            field: field.to_owned(),
            message,
        }
    }

    /// A row that could not be read.
    pub fn of_bad_row(place: Place, bad: &BadRow) -> Self {
        let kind = match bad {
            BadRow::NotUtf8 { .. } => K::NOT_UTF8,
            BadRow::NotAnObject | BadRow::Syntax(_) => K::UNREADABLE,
        };
        Self::new(kind, place, None, bad.field(), bad.to_string())
    }
}

/// The first problems, one per line, and how many more there are, with where to see them.
pub fn list<K>(problems: &[Problem<K>], more_at: &str) -> String {
    let shown = problems.iter().take(SHOWN_PROBLEMS);
    let mut text: String = shown.map(|problem| format!("\n  {problem}")).collect();
    let more = problems.len().saturating_sub(SHOWN_PROBLEMS);
    if more > 0 {
        text.push_str(&format!("\n  and {more} more ({more_at})"));
    }
    text
}

/// `1 problem`, `2 problems`.
pub fn counted(problems: usize) -> String {
    match problems {
        1 => "1 problem".to_owned(),
        several => format!("{several} problems"),
    }
}
