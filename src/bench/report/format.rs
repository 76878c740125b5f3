//! Numbers as the reports write them.

/// The value with one digit after the point. A value that rounds to zero has no sign.
pub(super) fn tenth(value: f64) -> String {
    let text = format!("{value:.1}");
    match text.as_str() {
        "-0.0" => "0.0".to_owned(),
        _ => text,
    }
}
