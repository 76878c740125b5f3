//! Isotonic regression by pooling adjacent violators (Ayer et al. 1955; Zadrozny & Elkan 2002 for classifiers' scores), with
//! weights.

use super::{curve::CurvePoint, labelled::LabelledScore};

/// Texts with neighbouring scores that have the same probability.
struct Block {
    first_score: f64,
    last_score: f64,
    /// Sum of the weights.
    weight: f64,
    /// Sum of the weights of what is labelled unsafe.
    unsafe_weight: f64,
}

impl Block {
    fn probability(&self) -> f64 {
        self.unsafe_weight / self.weight
    }

    fn take(&mut self, next: Self) {
        self.last_score = next.last_score;
        self.weight += next.weight;
        self.unsafe_weight += next.unsafe_weight;
    }
}

/// The non-decreasing function of the score with the least weighted squared error. Texts with the same score are one point of it.
/// It has at most two points for each different score, and none without texts.
pub(super) fn fit(texts: &[LabelledScore]) -> Vec<CurvePoint> {
    let mut sorted: Vec<&LabelledScore> = texts.iter().collect();
    sorted.sort_by(|a, b| a.score.total_cmp(&b.score));
    let mut distinct: Vec<Block> = Vec::new();
    for text in sorted {
        let next = Block {
            first_score: text.score,
            last_score: text.score,
            weight: text.weight,
            unsafe_weight: if text.is_unsafe { text.weight } else { 0.0 },
        };
        match distinct.last_mut() {
            Some(last) if last.last_score == next.first_score => last.take(next),
            _ => distinct.push(next),
        }
    }
    let mut blocks: Vec<Block> = Vec::new();
    for mut next in distinct {
        while let Some(mut last) = blocks.pop_if(|last| last.probability() >= next.probability()) {
            last.take(next);
            next = last;
        }
        blocks.push(next);
    }
    let mut points = Vec::new();
    for block in blocks {
        let probability = block.probability().clamp(0.0, 1.0);
        points.push(CurvePoint {
            score: block.first_score,
            probability,
        });
        if block.last_score > block.first_score {
            points.push(CurvePoint {
                score: block.last_score,
                probability,
            });
        }
    }
    points
}
