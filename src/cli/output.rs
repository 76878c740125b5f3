//! Data on stdout, for people or for programs.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde_json::Value;

use crate::files;

/// The format of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Format {
    /// Text for people.
    Human,
    /// One JSON document.
    Json,
    /// One JSON object per line.
    Jsonl,
}

/// Prints one JSON document.
pub(super) fn print_json(format: Format, value: &Value) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match format {
        Format::Jsonl => serde_json::to_writer(&mut out, value)?,
        Format::Human | Format::Json => serde_json::to_writer_pretty(&mut out, value)?,
    }
    writeln!(out)?;
    out.flush()
}

/// Prints a list: one JSON array, or one line for each value.
pub(super) fn print_list(format: Format, values: Vec<Value>) -> io::Result<()> {
    match format {
        Format::Jsonl => values.iter().try_for_each(|value| print_json(format, value)),
        Format::Human | Format::Json => print_json(format, &Value::Array(values)),
    }
}

/// Prints text and a line break.
pub(super) fn print_line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// Says something to the user on standard error. A command does not end because nobody can read that: a full disk behind it
/// concerns the messages, and not the work.
pub(super) fn tell(text: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes to a file, or to standard output for `-`; nothing without a path.
pub(super) fn write_to(path: Option<&Path>, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match path {
        Some(path) if path.as_os_str() == "-" => io::stdout().lock().write_all(text().as_bytes())?,
        Some(path) => {
            files::write_whole(path, text().as_bytes()).with_context(|| path.display().to_string())?;
        }
        None => {}
    }
    Ok(())
}

/// Whether to use colours on a stream.
pub(super) fn wants_color(no_color: bool, is_terminal: bool) -> bool {
    // https://no-color.org: present and not empty.
    let variable_forbids = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !no_color && !variable_forbids && is_terminal
}

/// A colour of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Color {
    Green,
    Yellow,
    Red,
}

impl Color {
    /// Text in this colour.
    pub(super) fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Green => 32,
            Self::Yellow => 33,
            Self::Red => 31,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// Text in a colour, where stdout shows colours.
pub(super) fn painted(text: &str, color: Color, no_color: bool) -> String {
    if !wants_color(no_color, io::stdout().is_terminal()) {
        return text.to_owned();
    }
    color.paint(text)
}

/// Rows as a table: each column as wide as its widest cell, with two spaces between columns.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let lines = rows.iter().map(|row| {
        let cells = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A number with the noun that it counts: `1 model`, `2 models`.
pub(super) fn counted<N>(number: N, one: &str, many: &str) -> String
where
    N: fmt::Display + PartialEq + From<u8>,
{
    let counts = if number == N::from(1) { one } else { many };
    format!("{number} {counts}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_line_up() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["größe".to_owned(), "c".to_owned()],
        ];
        assert_eq!(table(&rows), "a      bb\ngröße  c");
    }

    #[test]
    fn one_is_not_many() {
        let models = |number: u64| counted(number, "model", "models");
        assert_eq!(
            [models(0), models(1), models(2)],
            ["0 models", "1 model", "2 models"]
        );
    }
}
