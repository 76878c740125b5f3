//! Reads Parquet files as `datasets`, pandas and pyarrow write them, with flat columns of texts and numbers.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::Field,
};
use serde_json::Value;

use super::row::{BadRow, Fields, OnRow, TableLocation};

/// Reads each record as a row. Nested columns and dates become null: the tables that the benchmark reads have none.
pub(super) fn read(path: &Path, on_row: &mut OnRow<'_>) -> Result<(), String> {
    let damaged = |error| format!("the Parquet file cannot be read: {error}");
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = catch_panic(|| SerializedFileReader::new(file))?.map_err(damaged)?;
    let mut rows = catch_panic(|| reader.get_row_iter(None))?.map_err(damaged)?;
    for number in 1.. {
        let Some(row) = catch_panic(|| rows.next())? else {
            break;
        };
        let row = row.map_err(damaged)?;
        let fields = row
            .get_column_iter()
            .map(|(name, field)| Ok((name.clone(), value(name, field)?)));
        let fields = fields.collect::<Result<Fields, BadRow>>();
        on_row(TableLocation::Row(number), fields);
    }
    Ok(())
}

/// Runs a part of the reading and turns a panic into an error. The Parquet crate asserts some of what a file says about
/// itself, so a damaged file can make it panic.
fn catch_panic<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    // What was read so far is dropped after a panic.
    catch_unwind(AssertUnwindSafe(read)).map_err(|_| "the Parquet file is damaged".to_owned())
}

fn value(name: &str, field: &Field) -> Result<Value, BadRow> {
    Ok(match field {
        Field::Bool(value) => (*value).into(),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float(value) => f64::from(*value).into(),
        Field::Double(value) => (*value).into(),
        Field::Str(text) => text.as_str().into(),
        // Some writers do not mark texts as texts, so bytes are taken for UTF-8.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(error) => {
                return Err(BadRow::NotUtf8 {
                    field: name.to_owned(),
                    at: error.valid_up_to(),
                });
            }
        },
        _ => Value::Null,
    })
}
