//! The scalar twin: what the vector kernels are tested against, and what other processors run.

use half::f16;

use super::{RowsAt, SPAN, Strip, StripBits, StripScales, Target};
use crate::backend::cpu::kernels::{Output, packed::PANEL};

/// # Safety
/// As [`super::product`], for `ROWS` rows and `VECTORS` times 16 outputs whose operands have been checked.
pub(super) unsafe fn product<const ROWS: usize, const VECTORS: usize>(
    rows: &RowsAt,
    strip: &Strip<'_>,
    c: Target,
) {
    for row in 0..ROWS {
        // SAFETY: inside the operands that the caller has checked, here and below.
        let (values, out) = unsafe {
            (
                std::slice::from_raw_parts(rows.values.add(row * rows.cols), rows.cols),
                std::slice::from_raw_parts_mut(c.at.add(row * c.stride), 16 * VECTORS),
            )
        };
        if c.output == Output::Replace {
            out.fill(0.0);
        }
        for group in 0..rows.groups {
            let first = group * strip.group;
            // SAFETY: as above.
            let (sum, scale) = unsafe {
                (
                    *rows.sums.add(row * rows.groups + group),
                    *rows.scales.add(row * (rows.cols / SPAN) + first / SPAN),
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

fn add_products(dots: &mut [i32], bits: &StripBits<'_>, first: usize, values: &[i8]) {
    let (step, inputs) = bits.layout();
    for (index, values) in values.chunks_exact(inputs).enumerate() {
        let bytes = &bits.bytes()[(first / inputs + index) * step..][..4 * dots.len()];
        for (dot, weights) in dots.iter_mut().zip(bytes.as_chunks::<4>().0) {
            match bits {
                StripBits::Four(_) => {
                    for b in 0..4 {
                        *dot += i32::from(weights[b] & 15) * i32::from(values[b]);
                        *dot += i32::from(weights[b] >> 4) * i32::from(values[4 + b]);
                    }
                }
                StripBits::Eight(_) | StripBits::Unpacked(_) => {
                    for b in 0..4 {
                        *dot += i32::from(weights[b]) * i32::from(values[b]);
                    }
                }
            }
        }
    }
}

fn get(scales: &StripScales<'_>, group: usize, lane: usize) -> f32 {
    match scales {
        StripScales::F16(values) => f16::from_bits(values[group * PANEL + lane]).to_f32(),
        StripScales::F32(values) => values[group * PANEL + lane],
        StripScales::Steps {
            bases,
            steps,
            per_base,
        } => {
            let base = f16::from_bits(bases[group / per_base * PANEL + lane]).to_f32();
            base * f32::from(steps[group * PANEL + lane])
        }
    }
}
