//! Rows of a table file, whatever its format: JSON lines, a JSON array, CSV, TSV or Parquet. Rows are handed over one
//! at a time, and a row that cannot be read does not hide the rows after it.

mod csv;
mod json;
mod parquet;

#[cfg(test)]
mod tests;

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

use serde_json::{Map, Value};

/// What a file can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// One JSON object per line.
    JsonLines,
    /// One array of JSON objects.
    JsonArray,
    /// RFC 4180 with a header.
    Csv,
    /// The same with tabs.
    Tsv,
    /// Apache Parquet, flat columns; plain, Snappy or Zstandard.
    Parquet,
}

impl TableFormat {
    /// For people.
    pub fn title(self) -> &'static str {
        match self {
            Self::JsonLines => "JSON lines",
            Self::JsonArray => "a JSON array",
            Self::Csv => "CSV",
            Self::Tsv => "TSV",
            Self::Parquet => "Parquet",
        }
    }
}

/// Where something is in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// All of it.
    Whole,
    /// A line of a text file, from 1.
    Line(usize),
    /// A row of a file that has no lines, from 1.
    Row(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole => f.write_str("the file"),
            Self::Line(line) => write!(f, "line {line}"),
            Self::Row(row) => write!(f, "row {row}"),
        }
    }
}

/// A row's columns. Empty CSV fields are null.
pub type Fields = Map<String, Value>;

/// Why a row could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRow {
    /// Not UTF-8.
    #[error("is not UTF-8 at byte {at}: save the file as UTF-8")]
    NotUtf8 {
        /// The column; empty where there are none yet.
        field: String,
        /// From 0, in the line or field.
        at: usize,
    },
    /// Some other JSON.
    #[error("is not a JSON object")]
    NotAnObject,
    /// The format's own rules are broken.
    #[error("{0}")]
    Syntax(String),
}

impl BadRow {
    /// The column that cannot be read; empty: the whole row.
    pub fn field(&self) -> &str {
        match self {
            Self::NotUtf8 { field, .. } => field,
            Self::NotAnObject | Self::Syntax(_) => "",
        }
    }
}

/// Why a file could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The system says no.
    #[error("cannot read {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is not what it should be.
    #[error("{path}: {reason}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// What was found besides the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableInfo {
    /// By content, then by name.
    pub format: TableFormat,
    /// The file begins with a byte order mark; it was skipped.
    pub byte_order_mark: bool,
}

/// Takes a row with its place.
pub type OnRow<'a> = dyn FnMut(Place, Result<Fields, BadRow>) + 'a;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Hands over every row of a file, in order.
///
/// # Errors
/// [`TableError`] when the file as a whole cannot be read.
pub fn read(path: &Path, on_row: &mut OnRow<'_>) -> Result<TableInfo, TableError> {
    let io = |source| TableError::Io {
        path: path.to_owned(),
        source,
    };
    let unreadable = |reason| TableError::Unreadable {
        path: path.to_owned(),
        reason,
    };
    let mut file = File::open(path).map_err(io)?;
    let mut head = Vec::new();
    file.by_ref().take(4096).read_to_end(&mut head).map_err(io)?;
    let format = sniff(path, &head).map_err(unreadable)?;
    let byte_order_mark = head.starts_with(BYTE_ORDER_MARK);
    if format == TableFormat::Parquet {
        parquet::read(path, on_row).map_err(unreadable)?;
    } else {
        let skipped = if byte_order_mark { BYTE_ORDER_MARK.len() } else { 0 };
        let text = BufReader::with_capacity(1 << 18, head.get(skipped..).unwrap_or_default().chain(file));
        match format {
            TableFormat::JsonLines => json::read_lines(text, on_row).map_err(io)?,
            TableFormat::JsonArray => json::read_array(text, on_row).map_err(io)?,
            TableFormat::Csv => csv::read(text, b',', on_row).map_err(io)?,
            TableFormat::Tsv => csv::read(text, b'\t', on_row).map_err(io)?,
            TableFormat::Parquet => {}
        }
    }
    Ok(TableInfo {
        format,
        byte_order_mark,
    })
}

/// Hands over every row of JSON lines in memory.
pub fn read_json_lines(text: &str, on_row: &mut OnRow<'_>) {
    // Memory cannot fail to be read.
    let _ = json::read_lines(text.trim_start_matches('\u{feff}').as_bytes(), on_row);
}

/// The format by what the file begins with, and by its name where that says nothing.
fn sniff(path: &Path, head: &[u8]) -> Result<TableFormat, String> {
    if head.starts_with(b"PAR1") {
        return Ok(TableFormat::Parquet);
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err("is UTF-16: save it as UTF-8".to_owned());
    }
    for (magic, tool) in [
        (&b"\x1f\x8b"[..], "gunzip"),
        (b"\x28\xb5\x2f\xfd", "unzstd"),
        (b"PK\x03\x04", "unzip"),
    ] {
        if head.starts_with(magic) {
            return Err(format!("is compressed: unpack it with {tool} first"));
        }
    }
    let extension = path
        .extension()
        .map(|extension| extension.to_string_lossy().to_ascii_lowercase());
    match extension.as_deref() {
        Some("csv") => return Ok(TableFormat::Csv),
        Some("tsv") => return Ok(TableFormat::Tsv),
        Some("parquet") => return Err("is no Parquet file: it does not begin with PAR1".to_owned()),
        _ => {}
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Ok(TableFormat::JsonArray),
        Some(b'{') | None => Ok(TableFormat::JsonLines),
        Some(_) if matches!(extension.as_deref(), Some("jsonl" | "ndjson" | "json")) => {
            Ok(TableFormat::JsonLines)
        }
        Some(_) => Err("is of no known format: .jsonl, .json, .csv, .tsv and .parquet are read".to_owned()),
    }
}
