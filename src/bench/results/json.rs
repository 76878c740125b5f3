//! The benchmark's records as JSON text.

/// A value as one line of JSON. Only keys that are not text can make this fail, and our own types have none.
pub(crate) fn json_line<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// A value as indented JSON with a final line break.
pub(super) fn pretty_json<T: serde::Serialize>(value: &T) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
