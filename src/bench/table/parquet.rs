//! Parquet files as `datasets`, pandas and pyarrow write them: flat columns of texts and numbers.

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

use super::{BadRow, Fields, OnRow, Place};

/// Each record as a row. Nested columns and dates are null: no table of ours has any.
pub(super) fn read(path: &Path, on_row: &mut OnRow<'_>) -> Result<(), String> {
    let damaged = |error| format!("the Parquet file cannot be read: {error}");
    let file = File::open(path).map_err(|error| error.to_string())?;
    let reader = whole(|| SerializedFileReader::new(file))?.map_err(damaged)?;
    let mut rows = whole(|| reader.get_row_iter(None))?.map_err(damaged)?;
    for number in 1.. {
        let Some(row) = whole(|| rows.next())? else { break };
        let row = row.map_err(damaged)?;
        let fields = row
            .get_column_iter()
            .map(|(name, field)| Ok((name.clone(), value(name, field)?)));
        let fields = fields.collect::<Result<Fields, BadRow>>();
        on_row(Place::Row(number), fields);
    }
    Ok(())
}

/// The crate asserts some of what a file says of itself. A file that lies is an error of ours like any other.
fn whole<T>(read: impl FnOnce() -> T) -> Result<T, String> {
    // What was read so far is dropped when it panics.
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
        // Texts of writers that do not say that they are texts.
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
