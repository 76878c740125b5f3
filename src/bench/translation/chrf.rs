//! chrF (Popović 2015), computed like sacreBLEU for one sentence and one reference: `chrF2|nc:6|nw:0|space:no`.

use std::collections::HashMap;

/// Length of the longest n-grams, in characters.
const MAX_ORDER: usize = 6;

/// Recall weighs four times as much as precision.
const BETA_SQUARED: f64 = 4.0;

/// How far a text agrees with a reference in character n-grams, from 0 to 100. White space does not count.
pub fn chrf(text: &str, reference: &str) -> f64 {
    let (text, reference) = (characters(text), characters(reference));
    let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0u32);
    for order in 1..=MAX_ORDER {
        let (ours, theirs) = (ngrams(&text, order), ngrams(&reference, order));
        let total = |grams: &HashMap<&[char], u32>| f64::from(grams.values().sum::<u32>());
        let (n, m) = (total(&ours), total(&theirs));
        // A text that is shorter than the n-grams has none: then this length does not count.
        if n > 0.0 && m > 0.0 {
            let common =
                |(gram, count): (&&[char], &u32)| (*count).min(theirs.get(*gram).copied().unwrap_or(0));
            let matched = f64::from(ours.iter().map(common).sum::<u32>());
            precision += matched / n;
            recall += matched / m;
            orders += 1;
        }
    }
    if orders == 0 || precision + recall == 0.0 {
        return 0.0;
    }
    let (precision, recall) = (precision / f64::from(orders), recall / f64::from(orders));
    100.0 * (1.0 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
}

fn characters(text: &str) -> Vec<char> {
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

fn ngrams(text: &[char], order: usize) -> HashMap<&[char], u32> {
    let mut grams = HashMap::new();
    for gram in text.windows(order) {
        *grams.entry(gram).or_default() += 1;
    }
    grams
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chrf_equals_sacrebleu() {
        #[derive(serde::Deserialize)]
        struct Case {
            text: String,
            reference: String,
            chrf: f64,
        }
        let cases: Vec<Case> = serde_json::from_str(include_str!("../../../tests/golden/chrf.json")).unwrap();
        assert!(cases.len() > 20);
        for case in cases {
            let found = chrf(&case.text, &case.reference);
            assert!(
                (found - case.chrf).abs() < 1e-9,
                "`{}` against `{}`: {found}, sacreBLEU says {}",
                case.text,
                case.reference,
                case.chrf
            );
        }
    }
}
