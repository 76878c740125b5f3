//! Reads the rows of a table file in any of several formats: JSON lines, a JSON array, CSV, TSV or Parquet. Rows are handed
//! over one at a time, and a row that cannot be read does not hide the rows after it.

mod csv;
mod json;
mod parquet;
mod row;

#[cfg(test)]
mod tests;

use std::{
    fs::File,
    io::{self, BufReader, Read as _},
    path::{Path, PathBuf},
};

pub use self::row::{BadRow, Fields, OnRow, TableLocation};

/// The format of a table file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableFormat {
    /// One JSON object in each line.
    JsonLines,
    /// One array of JSON objects.
    JsonArray,
    /// Comma-separated values with a header (RFC 4180).
    Csv,
    /// The same with tabs instead of commas.
    Tsv,
    /// Apache Parquet with flat columns, uncompressed or compressed with Snappy or Zstandard.
    Parquet,
}

impl TableFormat {
    /// The format's name for people.
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

/// Why a file could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The operating system reported an error.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        source: io::Error,
    },
    /// The content does not have the expected format.
    #[error("{path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do about it.
        reason: String,
    },
}

/// What is known of a file besides its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableInfo {
    /// The format, found by the content and, where that is not enough, by the file's name.
    pub format: TableFormat,
    /// Whether the file begins with a byte order mark, which is skipped.
    pub byte_order_mark: bool,
}

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

/// Hands over every row of JSON lines that are in memory.
pub fn read_json_lines(text: &str, on_row: &mut OnRow<'_>) {
    // Reading from memory cannot fail.
    let _ = json::read_lines(text.trim_start_matches('\u{feff}').as_bytes(), on_row);
}

/// Finds the format by the first bytes of the file, and by its name where these are not enough.
fn sniff(path: &Path, head: &[u8]) -> Result<TableFormat, String> {
    if head.starts_with(b"PAR1") {
        return Ok(TableFormat::Parquet);
    }
    if head.starts_with(b"\xff\xfe") || head.starts_with(b"\xfe\xff") {
        return Err("is encoded as UTF-16: save it as UTF-8".to_owned());
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
        Some("parquet") => return Err("is not a Parquet file: it does not begin with PAR1".to_owned()),
        _ => {}
    }
    let text = head.strip_prefix(BYTE_ORDER_MARK).unwrap_or(head);
    match text.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'[') => Ok(TableFormat::JsonArray),
        Some(b'{') | None => Ok(TableFormat::JsonLines),
        Some(_) if matches!(extension.as_deref(), Some("jsonl" | "ndjson" | "json")) => {
            Ok(TableFormat::JsonLines)
        }
        Some(_) => {
            Err("has an unknown format: .jsonl, .json, .csv, .tsv and .parquet can be read".to_owned())
        }
    }
}
