//! Reads JSON lines and JSON arrays of objects.

use std::{
    fmt,
    io::{self, BufRead},
};

use serde::de::{Deserializer as _, SeqAccess, Visitor};
use serde_json::Value;

use super::row::{BadRow, Fields, OnRow, TableLocation};

/// Reads one object from each line; blank lines are skipped.
pub(super) fn read_lines(mut text: impl BufRead, on_row: &mut OnRow<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    for line in 1.. {
        bytes.clear();
        if text.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        let trimmed = bytes.trim_ascii();
        if trimmed.is_empty() {
            continue;
        }
        let row = match std::str::from_utf8(trimmed) {
            Err(error) => Err(BadRow::NotUtf8 {
                field: String::new(),
                at: error.valid_up_to(),
            }),
            Ok(text) => match serde_json::from_str(text) {
                Ok(value) => object(value),
                Err(error) => Err(BadRow::Syntax(format!("is not JSON: {error}"))),
            },
        };
        on_row(TableLocation::Line(line), row);
    }
    Ok(())
}

/// Reads one array. A syntax error ends the reading and is reported with its line.
pub(super) fn read_array(mut text: impl BufRead, on_row: &mut OnRow<'_>) -> io::Result<()> {
    let mut bytes = Vec::new();
    text.read_to_end(&mut bytes)?;
    let mut reader = serde_json::Deserializer::from_slice(&bytes);
    let read = reader.deserialize_seq(Rows { on_row });
    if let Err(error) = read.and_then(|()| reader.end()) {
        let reason = BadRow::Syntax(format!("is not JSON: {error}"));
        on_row(TableLocation::Line(error.line()), Err(reason));
    }
    Ok(())
}

fn object(value: Value) -> Result<Fields, BadRow> {
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(BadRow::NotAnObject),
    }
}

/// Hands over the elements of an array while it is being read.
struct Rows<'a, 'b> {
    on_row: &'a mut OnRow<'b>,
}

impl<'de> Visitor<'de> for Rows<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        let mut row = 0;
        while let Some(value) = elements.next_element()? {
            row += 1;
            (self.on_row)(TableLocation::Row(row), object(value));
        }
        Ok(())
    }
}
