//! Relative positions: mT5 has no position embeddings. Instead, each head has biases for the distances between a query and a
//! key, and adds the one of their distance to their product (arXiv 1910.10683, section 2.1).

/// How distances between tokens are divided into buckets, each of which has a bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buckets {
    /// Number of buckets, a multiple of 4: half of them are for each direction.
    pub count: usize,
    /// All distances of so many tokens and more share a bucket; more than a quarter of `count`.
    pub max_distance: usize,
}

impl Buckets {
    /// The bucket of a key that is `distance` behind the query: short distances have their own, longer ones share by
    /// their logarithm.
    pub(crate) fn of(self, distance: isize) -> usize {
        let half = self.count / 2;
        let exact = half / 2;
        let steps = distance.unsigned_abs();
        let bucket = if steps < exact {
            steps
        } else {
            let reach = (self.max_distance as f64 / exact as f64).ln() as f32;
            let share = (steps as f32 / exact as f32).ln() / reach;
            (exact + (share * (half - exact) as f32) as usize).min(half - 1)
        };
        if distance > 0 { half + bucket } else { bucket }
    }

    /// The biases of all distances from `1 - reach` to `reach - 1` tokens, `[heads, 2 * reach - 1]`, from the checkpoint's
    /// biases of buckets, `[count, heads]`.
    pub(crate) fn by_distance(self, biases: &[f32], heads: usize, reach: usize) -> Vec<f32> {
        let distances = || (0..2 * reach - 1).map(|at| at.cast_signed() - (reach - 1).cast_signed());
        let of_head = |head| distances().map(move |distance| biases[self.of(distance) * heads + head]);
        (0..heads).flat_map(of_head).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/metricx/buckets.json");
        let cases: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let number = |value: &Value| usize::try_from(value.as_u64().unwrap()).unwrap();
        for case in cases.as_array().unwrap() {
            let buckets = Buckets {
                count: number(&case["buckets"]),
                max_distance: number(&case["max_distance"]),
            };
            let first = isize::try_from(case["first"].as_i64().unwrap()).unwrap();
            for (distance, expected) in (first..).zip(case["bucket"].as_array().unwrap()) {
                assert_eq!(buckets.of(distance), number(expected), "{buckets:?} {distance}");
            }
        }
    }

    #[test]
    fn every_head_has_its_own_bias_for_each_distance() {
        let buckets = Buckets {
            count: 4,
            max_distance: 3,
        };
        // Buckets: 0 the query itself, 1 all before it, 3 all behind it.
        let biases = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5];
        let expected = [1.0, 1.0, 0.0, 3.0, 3.0, 1.5, 1.5, 0.5, 3.5, 3.5];
        assert_eq!(buckets.by_distance(&biases, 2, 3), expected);
    }
}
