//! Tests of products with packed weights, and of expanding them, for all formats.
//!
//! Weights are whole multiples of a power of two here, and so are the inputs, so that every sum is exact whatever the order
//! of its terms: products must have the bits of the definition. A second case has any inputs.

use std::io;

use super::{
    cases::{Cases, Tolerance},
    inputs::{Inputs, from_bf16, to_bf16},
    runner::{Runner, UNTOUCHED, UNTOUCHED_BF16},
};
use crate::{
    backend::cuda::{
        arguments::{PackedExpandArgs, PackedProductArgs},
        driver::{Consequence, DriverError},
        packed::{Bits, PackedWeights, can_be_packed},
    },
    model::spec::{MatrixSource, RawElements, TensorFormat},
};

/// 2^-6 in f16: the factor of all weights here.
const FACTOR: u16 = 0x2400;

/// How far a product of any inputs may be off, in parts of the sum of its terms' sizes. Tensor cores need not round as f32
/// does, but add with as many bits.
const SUMS: Tolerance = Tolerance {
    relative: 0.0,
    absolute: 2e-6,
};

/// A matrix with any integers, in the host's memory and in the card's.
struct Weights {
    outputs: usize,
    inputs: usize,
    /// `[outputs, inputs]`
    values: Vec<f32>,
    there: PackedWeights,
}

impl Weights {
    fn new(
        runner: &Runner,
        inputs: &mut Inputs,
        format: TensorFormat,
        shape: (usize, usize),
    ) -> Result<Self, DriverError> {
        let (rows, cols) = shape;
        let blocks = rows * cols / format.block_elements();
        let mut bytes: Vec<u8> = (0..blocks * format.block_bytes())
            .map(|_| inputs.byte())
            .collect();
        for block in bytes.chunks_exact_mut(format.block_bytes()) {
            for at in format.half_offsets() {
                block[*at..at + 2].copy_from_slice(&FACTOR.to_le_bytes());
            }
        }
        let source = MatrixSource {
            rows,
            cols,
            elements: RawElements::Bytes(format, &bytes),
        };
        let mut values = vec![0.0; rows * cols];
        for (row, values) in values.chunks_mut(cols).enumerate() {
            source
                .read_row(row, values)
                .map_err(|error: io::Error| unreadable(&error))?;
        }
        let there = PackedWeights::load(runner.queue(), &source).map_err(|error| unreadable(&error))?;
        Ok(Self {
            outputs: rows,
            inputs: cols,
            values,
            there,
        })
    }
}

fn unreadable(error: &dyn std::error::Error) -> DriverError {
    DriverError {
        call: "packing",
        reason: error.to_string(),
        consequence: Consequence::ThisCall,
    }
}

/// Outputs and inputs: a multiple of tiles, and matrices that end inside of one.
const SHAPES: [(usize, usize); 3] = [(32, 256), (7, 512), (37, 1280)];

fn formats(bits: Bits) -> impl Iterator<Item = TensorFormat> {
    TensorFormat::ALL
        .into_iter()
        .filter(move |format| can_be_packed(*format, format.block_elements()) && Bits::of(*format) == bits)
}

pub(super) fn expand_8(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    expand(runner, cases, Bits::Eight)
}

pub(super) fn expand_4(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    expand(runner, cases, Bits::Four)
}

fn expand(runner: &mut Runner, cases: &mut Cases, bits: Bits) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(13);
    for format in formats(bits) {
        for shape in SHAPES {
            cases.begin(format!(
                "{} {} outputs of {} inputs",
                format.name(),
                shape.0,
                shape.1
            ));
            let weights = Weights::new(runner, &mut inputs, format, shape)?;
            let mut expected: Vec<u16> = weights.values.iter().map(|value| to_bf16(*value)).collect();
            expected.extend(vec![UNTOUCHED_BF16; weights.inputs]);
            let out = runner.holding(&vec![UNTOUCHED_BF16; expected.len()])?;
            let argument = PackedExpandArgs {
                weights: weights.there.argument(),
                out: out.address(),
            };
            let (kernel, size) = weights.there.expand_launch();
            runner.launch(kernel, size, &argument)?;
            cases.exact(
                "weights",
                weights.inputs,
                &runner.read(&out, expected.len())?,
                &expected,
            );
        }
    }
    Ok(())
}

pub(super) fn product_8(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    product(runner, cases, Bits::Eight)
}

pub(super) fn product_4(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    product(runner, cases, Bits::Four)
}

fn product(runner: &mut Runner, cases: &mut Cases, bits: Bits) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(14);
    for format in formats(bits) {
        for shape in SHAPES {
            let weights = Weights::new(runner, &mut inputs, format, shape)?;
            for (rows, adds) in [(1, false), (3, true), (16, false), (41, true)] {
                let name = format!(
                    "{} {} outputs of {} inputs, {rows} rows",
                    format.name(),
                    shape.0,
                    shape.1
                );
                let x: Vec<f32> = (0..rows * weights.inputs).map(|_| inputs.whole(1)).collect();
                cases.begin(format!("{name}, whole numbers"));
                exact_sums(runner, cases, &weights, &x, adds)?;
                cases.begin(format!("{name}, any numbers"));
                let x: Vec<f32> = (0..rows * weights.inputs).map(|_| inputs.normal()).collect();
                near_sums(runner, cases, &weights, &x)?;
            }
        }
    }
    Ok(())
}

/// The product of whole numbers, which is exact.
fn exact_sums(
    runner: &mut Runner,
    cases: &mut Cases,
    weights: &Weights,
    x: &[f32],
    adds: bool,
) -> Result<(), DriverError> {
    // The outputs are a part of wider rows.
    let width = weights.outputs + 3;
    let rows = x.len() / weights.inputs;
    let before = vec![0.5; (rows + 1) * width];
    let mut expected = before.clone();
    for (row, x) in x.chunks(weights.inputs).enumerate() {
        for (output, values) in weights.values.chunks(weights.inputs).enumerate() {
            let sum: f32 = values.iter().zip(x).map(|(weight, x)| weight * x).sum();
            let out = &mut expected[row * width + output];
            *out = if adds { *out + sum } else { sum };
        }
    }
    let found = multiply(
        runner,
        weights,
        x,
        Target {
            before: &before,
            width,
            adds,
        },
    )?;
    cases.exact("products", width, &found, &expected);
    Ok(())
}

/// The product of any numbers, and the bits of its last row alone.
fn near_sums(
    runner: &mut Runner,
    cases: &mut Cases,
    weights: &Weights,
    x: &[f32],
) -> Result<(), DriverError> {
    let (width, inputs) = (weights.outputs, weights.inputs);
    let rows = x.len() / inputs;
    let before = vec![UNTOUCHED; rows * width];
    let target = Target {
        before: &before,
        width,
        adds: false,
    };
    let found = multiply(runner, weights, x, target)?;
    let mut off = Vec::new();
    for (x, found) in x.chunks(inputs).zip(found.chunks(width)) {
        for (values, found) in weights.values.chunks(inputs).zip(found) {
            let terms = values.iter().zip(x);
            let terms = terms.map(|(weight, x)| f64::from(*weight) * f64::from(from_bf16(to_bf16(*x))));
            let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()));
            off.push(((f64::from(*found) - sum) / size) as f32);
        }
    }
    cases.near(
        "products, in parts of their terms' sizes",
        width,
        &off,
        &vec![0.0; off.len()],
        SUMS,
    );
    let target = Target {
        before: &before[..width],
        width,
        adds: false,
    };
    let alone = multiply(runner, weights, &x[(rows - 1) * inputs..], target)?;
    cases.exact("the last row alone", width, &alone, &found[(rows - 1) * width..]);
    Ok(())
}

/// Where a product goes.
#[derive(Clone, Copy)]
struct Target<'a> {
    before: &'a [f32],
    width: usize,
    adds: bool,
}

fn multiply(
    runner: &mut Runner,
    weights: &Weights,
    x: &[f32],
    target: Target<'_>,
) -> Result<Vec<f32>, DriverError> {
    let rows = x.len() / weights.inputs;
    let rounded: Vec<u16> = x.iter().map(|x| to_bf16(*x)).collect();
    let (x, out) = (runner.holding(&rounded)?, runner.holding(target.before)?);
    let argument = PackedProductArgs {
        weights: weights.there.argument(),
        x: x.address(),
        out: out.address(),
        rows: rows as u32,
        out_width: target.width as u32,
        add: u32::from(target.adds),
        padding: 0,
    };
    let (kernel, size) = weights.there.product_launch(rows);
    runner.launch(kernel, size, &argument)?;
    runner.read(&out, target.before.len())
}
