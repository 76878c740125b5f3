//! Low-rank updates against their definition.

use proptest::prelude::*;

use super::*;
use crate::backend::cpu::kernels::{
    row_groups::RowRun,
    test_support::{bits, compute},
};

fn values(seed: usize, len: usize) -> Vec<f32> {
    (0..len)
        .map(|i| ((i + 1) * (seed + 7) * 2_654_435_761 % 2003) as f32 / 1001.5 - 1.0)
        .collect()
}

fn part(seed: usize, inputs: usize, first_output: usize, outputs: usize, rank: usize) -> LowRankPart {
    LowRankPart {
        first_output,
        outputs,
        inputs,
        rank,
        a: values(seed, rank * inputs),
        b: values(seed + 1, outputs * rank),
    }
}

/// The definition, in the order of operations that the module's documentation states.
fn reference(inputs: usize, parts: &[LowRankPart], x: &[f32], out: &mut [f32]) {
    for part in parts {
        let chain = |w: &[f32], x: &[f32]| w.iter().zip(x).fold(0f32, |sum, (w, x)| x.mul_add(*w, sum));
        let sum_of_chunks = |a: &[f32]| {
            let chunks = a.chunks(CHUNK_INPUTS).zip(x.chunks(CHUNK_INPUTS));
            chunks
                .map(|(a, x)| chain(a, x))
                .reduce(|sum, chunk| sum + chunk)
                .unwrap()
        };
        let low: Vec<f32> = part.a.chunks_exact(inputs).map(sum_of_chunks).collect();
        for (b, out) in part.b.chunks_exact(low.len()).zip(&mut out[part.first_output..]) {
            *out += chain(b, &low);
        }
    }
}

proptest! {
    #[test]
    fn equals_its_definition_to_the_bit_and_leaves_other_rows_alone(
        inputs in 1usize..700,
        ranks in prop::collection::vec(1usize..40, 1..4),
        runs in prop::collection::vec((0usize..4, 1usize..40), 1..8),
        threads in 1usize..4,
    ) {
        let mut compute = compute(threads, Isa::detect());
        let stride = 300;
        let updates: Vec<Vec<LowRankPart>> = (0..2)
            .map(|c| {
                let sizes = ranks.iter().enumerate();
                sizes.map(|(i, &rank)| part(c * 10 + i, inputs, i * 90, 70 + 10 * i + c, rank)).collect()
            })
            .collect();
        let packed: Vec<LowRank> = updates
            .iter()
            .map(|parts| LowRank::pack(&mut Arena::default(), parts).unwrap().unwrap())
            .collect();
        for (parts, packed) in updates.iter().zip(&packed) {
            prop_assert_eq!(LowRank::bytes_for(parts), packed.bytes());
        }
        // Number 2 belongs to no update, and 3 stands for rows without one.
        let of = |number: usize| (number < 3).then_some(number);
        let total: usize = runs.iter().map(|(_, count)| count).sum();
        let (x, before) = (values(3, total * inputs), values(4, total * stride));
        let mut expected = before.clone();
        let mut row = 0;
        for &(number, count) in &runs {
            for _ in 0..count {
                if let Some(parts) = updates.get(number) {
                    let x = &x[row * inputs..(row + 1) * inputs];
                    reference(inputs, parts, x, &mut expected[row * stride..(row + 1) * stride]);
                }
                row += 1;
            }
        }
        let mut groups = RowGroups::default();
        groups.set(runs.iter().map(|&(number, count)| RowRun { update: of(number), count }));
        for isa in Isa::available() {
            compute.isa = isa;
            let mut out = before.clone();
            add_low_rank(&mut compute, &groups, &|number| packed.get(number), &x, &mut out);
            prop_assert_eq!(bits(&out), bits(&expected));
        }
    }
}
