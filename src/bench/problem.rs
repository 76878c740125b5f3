//! Problems of table files: what is wrong in which row and column, and how to fix it.

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeMap as _};

use super::table::{BadRow, Place};

/// How many problems an error message lists; it counts the rest.
const SHOWN_PROBLEMS: usize = 100;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file cannot be used.
    Error,
    /// The file can be used, but somebody should look at the problem.
    Warning,
}

/// A closed set of kinds of problems.
pub trait Kind: Copy + Serialize {
    /// A row that cannot be read.
    const UNREADABLE: Self;
    /// A row with bytes that are no UTF-8.
    const NOT_UTF8: Self;

    /// Whether the file can still be used.
    fn severity(self) -> Severity;

    /// How to fix a problem of this kind.
    fn fix(self) -> &'static str;
}

/// One problem of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem<K> {
    /// Its kind.
    pub kind: K,
    /// The file's name; empty where there is only one file.
    pub file: String,
    /// Where in the file it is.
    pub place: Place,
    /// The row's id, where it has one.
    pub id: Option<String>,
    /// The column; empty where the whole row is wrong.
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
    /// A problem of the only file. An empty `field` stands for the whole row.
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

    /// The problem of a row that cannot be read.
    pub fn of_bad_row(place: Place, bad: &BadRow) -> Self {
        let kind = match bad {
            BadRow::NotUtf8 { .. } => K::NOT_UTF8,
            BadRow::NotAnObject | BadRow::Syntax(_) => K::UNREADABLE,
        };
        Self::new(kind, place, None, bad.field(), bad.to_string())
    }
}

/// The first problems, one per line; if there are more, how many, and where all are listed.
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
