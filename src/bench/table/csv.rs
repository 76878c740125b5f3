//! Reads comma- or tab-separated values with a header (RFC 4180).

use std::io;

use csv::{ByteRecord, ErrorKind, ReaderBuilder};
use serde_json::Value;

use super::row::{BadRow, Fields, OnRow, TableLocation};

/// Reads each record as a row. An empty field becomes null; every other value is text.
pub(super) fn read(text: impl io::Read, delimiter: u8, on_row: &mut OnRow<'_>) -> io::Result<()> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(text);
    let mut names = Vec::new();
    let header = reader.byte_headers().map_err(io::Error::from)?;
    for name in header {
        match std::str::from_utf8(name) {
            Ok(name) if names.iter().any(|known| known == name.trim()) => {
                let message = format!("the header has `{}` twice", name.trim());
                on_row(TableLocation::Line(1), Err(BadRow::Syntax(message)));
                return Ok(());
            }
            Ok(name) => names.push(name.trim().to_owned()),
            Err(error) => {
                let field = String::from_utf8_lossy(name).into_owned();
                let at = error.valid_up_to();
                on_row(TableLocation::Line(1), Err(BadRow::NotUtf8 { field, at }));
                return Ok(());
            }
        }
    }
    let mut record = ByteRecord::new();
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(false) => return Ok(()),
            Ok(true) => on_row(location(&record, reader.position()), fields(&names, &record)),
            Err(error) => match error.kind() {
                ErrorKind::UnequalLengths {
                    expected_len, len, ..
                } => {
                    let message = format!("has {len} fields, the header has {expected_len}");
                    on_row(location(&record, reader.position()), Err(BadRow::Syntax(message)));
                }
                _ => return Err(error.into()),
            },
        }
    }
}

fn location(record: &ByteRecord, fallback: &csv::Position) -> TableLocation {
    let position = record.position().unwrap_or(fallback);
    TableLocation::Line(usize::try_from(position.line()).unwrap_or(usize::MAX))
}

fn fields(names: &[String], record: &ByteRecord) -> Result<Fields, BadRow> {
    let mut fields = Fields::new();
    for (name, value) in names.iter().zip(record) {
        let value = match std::str::from_utf8(value) {
            Ok("") => Value::Null,
            Ok(text) => Value::String(text.to_owned()),
            Err(error) => {
                return Err(BadRow::NotUtf8 {
                    field: name.clone(),
                    at: error.valid_up_to(),
                });
            }
        };
        fields.insert(name.clone(), value);
    }
    Ok(fields)
}
