//! Plain Rust for processors without the instructions of the other kernels. Tests hold the others to its bits.

use half::f16;

use super::{operands::RowPointers, sizes::ACTIVATION_GROUP};
use crate::backend::cpu::kernels::{
    output::{Output, OutputTile},
    panel::{PANEL, PANEL_WORD_BYTES},
    strip::{SIX_BIT_UNIT, Strip, StripBits, StripScales},
};

/// The products of `ROWS` rows and `VECTORS * 16` outputs.
///
/// # Safety
/// [`RowPointers::new`] has checked `ROWS` rows and this strip, whose width is `VECTORS * 16`, and the rows are still
/// borrowed. `c` is readable and writable for as many rows and outputs, and while this runs nobody else accesses those.
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowPointers,
    strip: &Strip<'_>,
    c: OutputTile,
) {
    for row in 0..ROWS {
        // SAFETY: `row < ROWS`, so the row's `cols` values exist and `c` has its `16 * VECTORS` outputs, which are
        // exclusive and overlap no operand.
        let (values, out) = unsafe {
            (
                std::slice::from_raw_parts(rows.values.add(row * rows.stride), rows.cols),
                std::slice::from_raw_parts_mut(c.start.add(row * c.stride), 16 * VECTORS),
            )
        };
        if c.output == Output::Replace {
            out.fill(0.0);
        }
        for group in 0..rows.groups {
            let first = group * strip.group;
            // SAFETY: `row < ROWS` and `group < rows.groups`, so the row has this sum and this scale.
            let (sum, scale) = unsafe {
                (
                    *rows.sums.add(row * rows.groups + group),
                    *rows
                        .scales
                        .add(row * (rows.cols / ACTIVATION_GROUP) + first / ACTIVATION_GROUP),
                )
            };
            let mut dots = [[-strip.zero * sum as i32; 16]; VECTORS];
            let dots = dots.as_flattened_mut();
            add_products(dots, &strip.bits, first, &values[first..][..strip.group]);
            for (lane, (out, &dot)) in out.iter_mut().zip(&*dots).enumerate() {
                let mut t = get(&strip.scales, group, lane) * dot as f32;
                if let Some(mins) = &strip.mins {
                    t = get(mins, group, lane).mul_add(sum, t);
                }
                *out = t.mul_add(scale, *out);
            }
        }
    }
}

/// Adds the products of neighbouring inputs from `first` on, one for each of `values`, to each output's sum.
fn add_products(dots: &mut [i32], bits: &StripBits<'_>, first: usize, values: &[i8]) {
    let outputs = dots.len();
    let words = |inputs: usize, word: usize| {
        let first_word = bits.words(first + inputs) + word;
        &bits.bytes()[first_word * PANEL_WORD_BYTES..][..4 * outputs]
            .as_chunks::<4>()
            .0[..outputs]
    };
    let mut add = |lane: usize, weight: u8, value: i8| dots[lane] += i32::from(weight) * i32::from(value);
    match bits {
        StripBits::Four(_) => {
            for (index, values) in values.as_chunks::<8>().0.iter().enumerate() {
                for (lane, weights) in words(8 * index, 0).iter().enumerate() {
                    for b in 0..4 {
                        add(lane, weights[b] & 15, values[b]);
                        add(lane, weights[b] >> 4, values[4 + b]);
                    }
                }
            }
        }
        StripBits::Six(_) => {
            for (index, values) in values.as_chunks::<SIX_BIT_UNIT>().0.iter().enumerate() {
                let [first, second, high] = [0, 1, 2].map(|word| words(SIX_BIT_UNIT * index, word));
                for (lane, ((first, second), high)) in first.iter().zip(second).zip(high).enumerate() {
                    for (input, value) in values.iter().enumerate() {
                        let (byte, quarter) = (input % 4, input / 4);
                        let low = ([first, second][quarter / 2][byte] >> (quarter % 2 * 4)) & 15;
                        let high = (high[byte] >> (quarter * 2)) & 3;
                        add(lane, low | high << 4, *value);
                    }
                }
            }
        }
        StripBits::Eight(_) => {
            for (index, values) in values.as_chunks::<4>().0.iter().enumerate() {
                for (lane, weights) in words(4 * index, 0).iter().enumerate() {
                    for b in 0..4 {
                        add(lane, weights[b], values[b]);
                    }
                }
            }
        }
    }
}

/// A group's scale or minimum of one output.
fn get(scales: &StripScales<'_>, group: usize, lane: usize) -> f32 {
    match scales {
        StripScales::F16(values) => f16::from_bits(values[group * PANEL + lane]).to_f32(),
        StripScales::F32(values) => values[group * PANEL + lane],
        StripScales::Steps {
            bases,
            steps,
            groups_per_base,
        } => {
            let base = f16::from_bits(bases[group / groups_per_base * PANEL + lane]).to_f32();
            base * f32::from(steps[group * PANEL + lane])
        }
    }
}
