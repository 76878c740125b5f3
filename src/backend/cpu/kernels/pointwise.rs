//! Functions of single values, in place.

use super::{
    Isa, Pointwise, ThreadPool,
    elementwise::{exp, gelu_all, tanh},
    isa::per_isa,
    pool::DisjointSlices,
};

/// Values that one task takes.
const VALUES_PER_TASK: usize = 1 << 14;

impl Pointwise {
    /// Applies it to every value.
    pub fn apply(self, pool: &mut ThreadPool, isa: Isa, values: &mut [f32]) {
        let len = values.len();
        let slices = DisjointSlices::new(values);
        pool.run_parts(len, VALUES_PER_TASK, &|part| {
            // SAFETY: tasks take disjoint parts.
            let values = unsafe { slices.part(part.start, part.len()) };
            match self {
                Self::Gelu => gelu_all(isa, values),
                Self::Tanh => tanh_all(isa, values),
                Self::Sigmoid => sigmoid(isa, values),
            }
        });
    }
}

per_isa! {
    fn tanh_all(isa; values: &mut [f32]) {
        for x in values {
            *x = tanh(*x);
        }
    }
}

per_isa! {
    fn sigmoid(isa; values: &mut [f32]) {
        for x in values {
            // e^-x of a large negative x is finite in `exp`, and its inverse as good as 0.
            *x = 1.0 / (1.0 + exp(-*x));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::backend::cpu::kernels::COARSER;

    /// The normal distribution by its Taylor series, or far out by its continued fraction; in f64.
    fn normal_cdf(x: f64) -> f64 {
        let density = (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
        if x.abs() < 4.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..100 {
                term *= x * x / f64::from(2 * n + 1);
                sum += term;
            }
            return 0.5 + density * sum;
        }
        let mut fraction = x.abs();
        for n in (1..60).rev() {
            fraction = x.abs() + f64::from(n) / fraction;
        }
        let tail = density / fraction;
        if x < 0.0 { tail } else { 1.0 - tail }
    }

    fn definition(function: Pointwise, x: f64) -> f64 {
        match function {
            Pointwise::Gelu => x * normal_cdf(x),
            Pointwise::Tanh => x.tanh(),
            Pointwise::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        }
    }

    const ALL: [Pointwise; 3] = [Pointwise::Gelu, Pointwise::Tanh, Pointwise::Sigmoid];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64 / COARSER as u32))]
        #[test]
        fn equal_their_definitions_with_the_same_bits_everywhere(
            values in prop::collection::vec(-30f32..30.0, 1..100), threads in 1usize..3,
        ) {
            let mut pool = ThreadPool::new(threads).unwrap();
            for function in ALL {
                let mut bits = Vec::new();
                for isa in Isa::available() {
                    let mut found = values.clone();
                    function.apply(&mut pool, isa, &mut found);
                    for (x, found) in values.iter().zip(&found) {
                        let expected = definition(function, f64::from(*x));
                        let error = (f64::from(*found) - expected).abs();
                        prop_assert!(error < 3e-7 * (1.0 + expected.abs()), "{function:?}({x}): {found} {expected}");
                    }
                    bits.push(found.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
                }
                prop_assert!(bits.windows(2).all(|pair| pair[0] == pair[1]));
            }
        }
    }

    #[test]
    fn extremes_stay_in_range_and_what_is_no_number_stays_none() {
        let mut pool = ThreadPool::new(1).unwrap();
        let cases = [
            (Pointwise::Gelu, [0.0, 1e30, 0.0]),
            (Pointwise::Tanh, [-1.0, 1.0, 0.0]),
            (Pointwise::Sigmoid, [0.0, 1.0, 0.5]),
        ];
        for (function, expected) in cases {
            let mut values = [-1e30, 1e30, 0.0, f32::NAN];
            function.apply(&mut pool, Isa::detect(), &mut values);
            for (found, expected) in values.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= 1e-30 + expected.abs() * 1e-6,
                    "{function:?} {found}"
                );
            }
            assert!(values[3].is_nan());
        }
    }
}
