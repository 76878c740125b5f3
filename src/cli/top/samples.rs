//! Reads Prometheus's text format: <https://prometheus.io/docs/instrumenting/exposition_formats/>, version 0.0.4.

use std::collections::BTreeMap;

/// The labels of a series, by name.
pub(super) type Labels = BTreeMap<String, String>;

/// All series of one reading: of each metric, its series with their values.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Samples(BTreeMap<String, Vec<(Labels, f64)>>);

impl Samples {
    /// Reads the lines that are series; others are left out.
    pub(super) fn parse(text: &str) -> Self {
        let mut samples = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            if let Some((name, labels, value)) = series(line) {
                let all = samples.0.entry(name.to_owned()).or_default();
                all.push((labels, value));
            }
        }
        samples
    }

    /// The series of a metric.
    pub(super) fn of(&self, metric: &str) -> &[(Labels, f64)] {
        self.0.get(metric).map_or(&[], Vec::as_slice)
    }

    /// The sum of the series of a metric that have these labels; `None` if there are none.
    pub(super) fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let found = self.of(metric).iter().filter(|(given, _)| has(given, labels));
        found.map(|(_, value)| *value).reduce(|sum, value| sum + value)
    }

    /// All values of a label of a metric, each once.
    pub(super) fn values(&self, metric: &str, label: &str) -> Vec<&str> {
        let mut values: Vec<_> = self
            .of(metric)
            .iter()
            .filter_map(|(labels, _)| labels.get(label).map(String::as_str))
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }
}

/// Whether a series has these labels.
pub(super) fn has(labels: &Labels, wanted: &[(&str, &str)]) -> bool {
    wanted
        .iter()
        .all(|(name, value)| labels.get(*name).is_some_and(|given| given == value))
}

/// Name, labels and value of a line.
fn series(line: &str) -> Option<(&str, Labels, f64)> {
    let end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Labels::new(), rest),
    };
    // A time may follow.
    let value = rest.split_whitespace().next()?;
    Some((name, labels, number(value)?))
}

/// Labels up to the closing brace, and what follows it.
fn labels(mut text: &str) -> Option<(Labels, &str)> {
    let mut labels = Labels::new();
    loop {
        text = text.trim_start_matches([' ', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once("=\"")?;
        let (value, rest) = quoted(rest)?;
        labels.insert(name.trim().to_owned(), value);
        text = rest;
    }
}

/// The text up to a quotation mark, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((place, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

fn number(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        "NaN" => Some(f64::NAN),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP calls Calls.\n# TYPE calls counter\ncalls{method=\"a\",code=\"OK\"} 3\n\
                        calls{method=\"a\",code=\"NO\"} 1 1700000000000\ncalls{method=\"b\",code=\"OK\",} 5\n\
                        up 1\nodd{text=\"a \\\"b\\\\c\\nd} e\"} +Inf\n\nbroken{\nbroken 1x\n";

    #[test]
    fn series_are_read_with_their_labels() {
        let samples = Samples::parse(TEXT);
        assert_eq!(samples.sum("calls", &[]), Some(9.0));
        assert_eq!(samples.sum("calls", &[("method", "a")]), Some(4.0));
        assert_eq!(
            samples.sum("calls", &[("method", "b"), ("code", "OK")]),
            Some(5.0)
        );
        assert_eq!(samples.sum("calls", &[("method", "c")]), None);
        assert_eq!(samples.sum("up", &[]), Some(1.0));
        assert_eq!(samples.values("calls", "code"), ["NO", "OK"]);
        assert_eq!(samples.of("broken"), []);
        let (labels, value) = &samples.of("odd")[0];
        assert_eq!(labels["text"], "a \"b\\c\nd} e");
        assert_eq!(*value, f64::INFINITY);
    }
}
