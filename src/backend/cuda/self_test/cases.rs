//! The cases of a test: what was compared, how far it was off, and where it first differed.

use std::fmt;

use super::inputs::from_bf16;

/// How far a number may be off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tolerance {
    /// In parts of the number that is expected.
    pub relative: f64,
    /// Whatever the number is.
    pub absolute: f64,
}

/// What a test has compared so far.
#[derive(Debug, Default)]
pub(super) struct Cases {
    count: usize,
    /// The case under way.
    name: String,
    /// The largest difference of numbers that need not be equal; `None` where all have to be.
    largest: Option<f64>,
    /// The largest part of a tolerance that was used.
    share: f64,
    first: Option<String>,
}

/// A value that is compared to the bit. One NaN is as good as another.
pub(super) trait Exact: Copy {
    fn is(self, other: Self) -> bool;

    /// The value as a reader knows it.
    fn number(self) -> f64;
}

impl Exact for f32 {
    fn is(self, other: Self) -> bool {
        self.to_bits() == other.to_bits() || (self.is_nan() && other.is_nan())
    }

    fn number(self) -> f64 {
        f64::from(self)
    }
}

impl Exact for u32 {
    fn is(self, other: Self) -> bool {
        self == other
    }

    fn number(self) -> f64 {
        f64::from(self)
    }
}

/// The bits of bf16.
impl Exact for u16 {
    fn is(self, other: Self) -> bool {
        self == other || (from_bf16(self).is_nan() && from_bf16(other).is_nan())
    }

    fn number(self) -> f64 {
        f64::from(from_bf16(self))
    }
}

impl Cases {
    /// Begins a case; its name says what is special about its inputs.
    pub(super) fn begin(&mut self, name: impl fmt::Display) {
        self.count += 1;
        self.name = name.to_string();
    }

    /// Compares rows of `width` values to the bit.
    pub(super) fn exact<T: Exact>(&mut self, what: &str, width: usize, found: &[T], expected: &[T]) {
        let pairs = found.iter().zip(expected);
        let wrong = pairs
            .enumerate()
            .filter(|(_, (found, expected))| !found.is(**expected));
        let places: Vec<usize> = wrong.map(|(place, _)| place).collect();
        if let Some(&place) = places.first() {
            let (found, expected) = (found[place].number(), expected[place].number());
            self.differs(
                what,
                Place { place, width },
                format!("{found:e} in place of {expected:e}"),
                places.len(),
            );
        }
        self.expect_count(what, found.len(), expected.len());
    }

    /// Compares rows of `width` values, which may be off by a little. Where NaN is expected, it must be there.
    pub(super) fn near(
        &mut self,
        what: &str,
        width: usize,
        found: &[impl Into<f64> + Copy],
        expected: &[f64],
        tolerance: Tolerance,
    ) {
        let mut wrong = 0;
        let mut first = None;
        for (place, (&found, &expected)) in found.iter().zip(expected).enumerate() {
            let found: f64 = found.into();
            if found.is_nan() && expected.is_nan() {
                continue;
            }
            let difference = (found - expected).abs();
            let allowed = tolerance.absolute + tolerance.relative * expected.abs();
            // A difference that is not a number is not within anything.
            if difference <= allowed {
                self.largest = Some(self.largest.unwrap_or(0.0).max(difference));
                self.share = self.share.max(difference / allowed);
            } else {
                wrong += 1;
                let text = || format!("{found:e} in place of {expected:e}, by more than {allowed:.1e}");
                first.get_or_insert_with(|| (place, text()));
            }
        }
        if let Some((place, text)) = first {
            self.differs(what, Place { place, width }, text, wrong);
        }
        self.expect_count(what, found.len(), expected.len());
    }

    fn expect_count(&mut self, what: &str, found: usize, expected: usize) {
        if found != expected {
            let text = format!("{}: {found} values of {what} in place of {expected}", self.name);
            self.first.get_or_insert(text);
        }
    }

    fn differs(&mut self, what: &str, place: Place, text: String, wrong: usize) {
        let text = format!("{}: {what}, {place}: {text} ({wrong} values differ)", self.name);
        self.first.get_or_insert(text);
    }

    /// Where the first difference was.
    pub(super) fn failure(&self) -> Option<String> {
        self.first.clone()
    }

    /// What was compared, when nothing differed.
    pub(super) fn summary(&self) -> String {
        match self.largest {
            None => format!("{} cases, equal to the bit", self.count),
            Some(largest) => format!(
                "{} cases, largest difference {largest:.1e}, at most {:.0} % of what is allowed",
                self.count,
                100.0 * self.share
            ),
        }
    }
}

/// A value among rows.
struct Place {
    place: usize,
    width: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.width.max(1);
        write!(f, "row {}, value {}", self.place / width, self.place % width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOLERANCE: Tolerance = Tolerance {
        relative: 0.1,
        absolute: 0.5,
    };

    #[test]
    fn the_first_difference_is_named_with_its_case_and_place() {
        let mut cases = Cases::default();
        cases.begin("rows of 2");
        cases.exact("sums", 2, &[1.0f32, 2.0, 3.0], &[1.0, 2.0, 4.0]);
        cases.begin("rows of 3");
        cases.exact("sums", 2, &[1u32], &[2]);
        assert_eq!(
            cases.failure().unwrap(),
            "rows of 2: sums, row 1, value 0: 3e0 in place of 4e0 (1 values differ)"
        );
    }

    #[test]
    fn numbers_within_the_tolerance_are_counted_and_others_are_differences() {
        let mut cases = Cases::default();
        cases.begin("a case");
        cases.near("values", 2, &[11.0, f32::NAN], &[10.0, f64::NAN], TOLERANCE);
        assert_eq!(cases.failure(), None);
        assert_eq!(
            cases.summary(),
            "1 cases, largest difference 1.0e0, at most 67 % of what is allowed"
        );
        for wrong in [11.6, f32::NAN, f32::INFINITY] {
            let mut cases = Cases::default();
            cases.near("values", 2, &[wrong], &[10.0], TOLERANCE);
            assert!(cases.failure().is_some(), "{wrong}");
        }
    }

    #[test]
    fn missing_values_are_differences() {
        let mut cases = Cases::default();
        cases.exact("values", 1, &[1u16], &[1, 2]);
        assert!(cases.failure().is_some());
        let mut cases = Cases::default();
        cases.near("values", 1, &[0f32; 0], &[1.0], TOLERANCE);
        assert!(cases.failure().is_some());
    }

    #[test]
    fn zeros_of_either_sign_differ_to_the_bit_and_nans_do_not() {
        let mut cases = Cases::default();
        cases.exact("values", 1, &[f32::NAN, 1.0], &[-f32::NAN, 1.0]);
        assert_eq!(
            (cases.failure(), cases.summary()),
            (None, "0 cases, equal to the bit".to_owned())
        );
        cases.exact("values", 1, &[0.0f32], &[-0.0]);
        assert!(cases.failure().is_some());
    }
}
