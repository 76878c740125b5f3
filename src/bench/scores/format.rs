//! Percentages, changes and p-values as text.

/// A percentage as text. It gets more than `digits` digits after the point where rounding would move it into another band,
/// or turn less than everything into 100.
pub fn format_percent(percent: f64, digits: usize) -> String {
    // Sums of many weights can miss a limit by rounding errors smaller than this.
    let sides = |value: f64| [90.0, 99.0, 100.0].map(|limit| value + 1e-9 >= limit);
    (digits..digits + 5)
        .map(|digits| format!("{percent:.digits$}"))
        .find(|text| text.parse().is_ok_and(|rounded| sides(rounded) == sides(percent)))
        .unwrap_or_else(|| format!("{percent:.digits$}"))
}

/// A change in points as text. A change that rounds to zero has no sign.
pub fn format_change(points: f64) -> String {
    let text = format!("{points:+.1}");
    match text.as_str() {
        "-0.0" | "+0.0" => "0.0".to_owned(),
        _ => text,
    }
}

/// A p-value as text.
pub fn format_p_value(p: f64) -> String {
    if p < 0.001 {
        "< 0.001".to_owned()
    } else {
        format!("{p:.3}")
    }
}
