//! Tests of the norms of rows and of heads, against means and variances in f64.

use super::{
    cases::{Cases, Tolerance},
    inputs::{Inputs, from_bf16s},
    rows::WIDTHS,
    runner::{Runner, UNTOUCHED, UNTOUCHED_BF16},
};
use crate::{
    backend::cuda::{
        arguments::{NormHeadsArgs, NormRowsArgs},
        buffer::address_of,
        driver::{DriverError, LaunchSize},
        kernels::Kernel,
        launch_sizes::rows_of,
        ops::kind_number,
    },
    model::spec::NormKind,
};

const KINDS: [(NormKind, &str); 2] = [
    (NormKind::Rms, "root mean square"),
    (NormKind::Layer, "layer norm"),
];

const EPS: f32 = 1e-5;

/// Sums of thousands of values in f32, in 256 parts.
const SUMS: Tolerance = Tolerance {
    relative: 1e-5,
    absolute: 2e-5,
};

/// The same, rounded to bf16: by up to half of the last of eight bits.
pub(super) const ROUNDED: Tolerance = Tolerance {
    relative: 1.0 / 256.0 + 1e-5,
    absolute: 2e-5,
};

/// The norm of one row or head.
fn norm(x: &[f32], weight: &[f32], bias: Option<&[f32]>, kind: NormKind) -> Vec<f64> {
    let count = x.len() as f64;
    let values = || x.iter().map(|x| f64::from(*x));
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => values().sum::<f64>() / count,
    };
    let variance = values().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
    let scale = 1.0 / (variance + f64::from(EPS)).sqrt();
    let normed = values().zip(weight).enumerate().map(|(i, (x, weight))| {
        let bias = bias.map_or(0.0, |bias| f64::from(bias[i]));
        (x - mean) * scale * f64::from(*weight) + bias
    });
    normed.collect()
}

pub(super) fn norm_rows(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(5);
    for width in WIDTHS {
        for (kind, kind_name) in KINDS {
            for (rows, has_bias, adds) in [
                (1, false, false),
                (5, true, false),
                (4, kind == NormKind::Layer, true),
            ] {
                let target = if adds { "added" } else { "rounded" };
                cases.begin(format!(
                    "{kind_name} of {rows} rows of {width}, bias {has_bias}, {target}"
                ));
                // Rows of different sizes, and with a mean that is not zero.
                let mut x = inputs.normals(rows * width);
                for (i, x) in x.iter_mut().enumerate() {
                    *x = (*x + 2.0) * [1.0, 0.01, 300.0][i / width % 3];
                }
                let (weight, bias) = (inputs.normals(width), inputs.normals(width));
                let before = inputs.normals(rows * width);
                let bias_row = has_bias.then_some(bias.as_slice());
                let mut expected: Vec<f64> = x
                    .chunks(width)
                    .flat_map(|row| norm(row, &weight, bias_row, kind))
                    .collect();
                if adds {
                    for (expected, before) in expected.iter_mut().zip(&before) {
                        *expected += f64::from(*before);
                    }
                }
                expected.extend(vec![f64::NAN; width]);
                let x = runner.holding(&x)?;
                let (weight, bias) = (runner.holding(&weight)?, runner.holding(&bias)?);
                let rounded = runner.holding(&vec![UNTOUCHED_BF16; expected.len()])?;
                let sum = runner.holding(&[before, vec![UNTOUCHED; width]].concat())?;
                let argument = NormRowsArgs {
                    x: x.address(),
                    weight: weight.address(),
                    bias: address_of(has_bias.then_some(&bias)),
                    rounded: address_of((!adds).then_some(&rounded)),
                    sum: sum.address(),
                    width: width as u32,
                    kind: kind_number(kind),
                    eps: EPS,
                    padding: 0,
                };
                runner.launch(Kernel::NormRows, rows_of(rows), &argument)?;
                if adds {
                    cases.near(
                        "sums",
                        width,
                        &runner.read::<f32>(&sum, expected.len())?,
                        &expected,
                        SUMS,
                    );
                } else {
                    let found = from_bf16s(&runner.read(&rounded, expected.len())?);
                    cases.near("norms", width, &found, &expected, ROUNDED);
                }
            }
        }
    }
    Ok(())
}

pub(super) fn norm_heads(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(6);
    for head_dim in [16, 64, 80, 128, 256] {
        for (kind, kind_name) in KINDS {
            for (rows, heads, left) in [(1, 1, 0), (5, 6, 2)] {
                cases.begin(format!(
                    "{kind_name} of {heads} heads of {head_dim} in {rows} rows"
                ));
                // Heads that are normed, and behind them some that are not.
                let width = (heads + left) * head_dim;
                let qkv: Vec<f32> = inputs
                    .normals((rows + 1) * width)
                    .iter()
                    .map(|x| x + 0.5)
                    .collect();
                let weight = inputs.normals(heads * head_dim);
                let mut expected: Vec<f64> = qkv.iter().map(|x| f64::from(*x)).collect();
                for row in 0..rows {
                    for head in 0..heads {
                        let at = row * width + head * head_dim;
                        let weight = &weight[head * head_dim..][..head_dim];
                        let normed = norm(&qkv[at..at + head_dim], weight, None, kind);
                        expected[at..at + head_dim].copy_from_slice(&normed);
                    }
                }
                let (qkv, weight) = (runner.holding(&qkv)?, runner.holding(&weight)?);
                let argument = NormHeadsArgs {
                    qkv: qkv.address(),
                    weight: weight.address(),
                    qkv_width: width as u32,
                    head_dim: head_dim as u32,
                    kind: kind_number(kind),
                    eps: EPS,
                };
                let size = LaunchSize {
                    grid: [rows as u32, heads as u32, 1],
                    threads: 32,
                    shared_bytes: 0,
                };
                runner.launch(Kernel::NormHeads, size, &argument)?;
                cases.near(
                    "heads",
                    width,
                    &runner.read::<f32>(&qkv, expected.len())?,
                    &expected,
                    SUMS,
                );
            }
        }
    }
    Ok(())
}
