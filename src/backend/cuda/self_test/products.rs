//! Tests of what is not a kernel of ours: cuBLASLt's products, and recorded launches. All numbers are whole, so that every
//! sum is exact whatever the order of its terms.

use super::{
    cases::Cases,
    inputs::{Inputs, to_bf16},
    runner::{Runner, UNTOUCHED},
};
use crate::backend::cuda::{
    arguments::AddBiasArgs,
    driver::{DriverError, ProductChoice, ProductOperands, ProductShape},
    kernels::Kernel,
    launch_sizes::pieces,
};

/// Outputs and inputs, and by how much rows of results are wider.
const SHAPES: [(usize, usize, usize); 4] = [(48, 64, 0), (160, 96, 32), (512, 256, 0), (128, 1024, 16)];

pub(super) fn products(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(15);
    for (outputs, inner, wider) in SHAPES {
        let width = outputs + wider;
        let weights: Vec<f32> = (0..outputs * inner).map(|_| inputs.whole(3)).collect();
        let weights_there = runner.holding(&rounded(&weights))?;
        for choice in [ProductChoice::Fastest, ProductChoice::Uniform] {
            let shape = ProductShape {
                outputs,
                inputs: inner,
            };
            let plan = runner.queue().plan_product(shape, 80, choice)?;
            for (rows, add) in [(16, false), (16, true), (80, false), (64, true)] {
                cases.begin(format!(
                    "{rows} rows, {outputs} outputs of {inner} inputs, {choice:?}, added {add}"
                ));
                let x: Vec<f32> = (0..rows * inner).map(|_| inputs.whole(3)).collect();
                let mut before: Vec<f32> = (0..rows * width).map(|_| inputs.whole(100)).collect();
                before.extend(vec![UNTOUCHED; width]);
                let mut expected = before.clone();
                for (row, x) in x.chunks(inner).enumerate() {
                    for (output, weights) in weights.chunks(inner).enumerate() {
                        let sum: f32 = weights.iter().zip(x).map(|(weight, x)| weight * x).sum();
                        let out = &mut expected[row * width + output];
                        *out = if add { *out + sum } else { sum };
                    }
                }
                let (x, out) = (runner.holding(&rounded(&x))?, runner.holding(&before)?);
                let operands = ProductOperands {
                    weights: weights_there.address(),
                    x: x.address(),
                    out: out.address(),
                    rows,
                    out_width: width,
                    add,
                };
                runner.product(plan, operands)?;
                cases.exact("products", width, &runner.read(&out, expected.len())?, &expected);
            }
        }
    }
    Ok(())
}

fn rounded(values: &[f32]) -> Vec<u16> {
    values.iter().map(|value| to_bf16(*value)).collect()
}

/// A launch that is recorded is carried out as often as the recording is, and not when it is recorded.
pub(super) fn recording(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(16);
    let (rows, width) = (5, 70);
    let mut whole = |count: usize| (0..count).map(|_| inputs.whole(50)).collect::<Vec<f32>>();
    let (before, bias) = (whole(rows * width), whole(width));
    let (buffer, bias_there) = (runner.holding(&before)?, runner.holding(&bias)?);
    let argument = AddBiasArgs {
        rows: buffer.address(),
        bias: bias_there.address(),
        width: width as u32,
        padding: 0,
    };
    let graph = runner.record(Kernel::AddBias, pieces(rows, width), &argument);
    for times in [0, 1, 2] {
        cases.begin(format!("carried out {times} times"));
        if times > 0 {
            runner.replay(graph)?;
        }
        let sums = before.iter().enumerate();
        let expected: Vec<f32> = sums
            .map(|(i, value)| value + times as f32 * bias[i % width])
            .collect();
        cases.exact("sums", width, &runner.read(&buffer, expected.len())?, &expected);
    }
    Ok(())
}
