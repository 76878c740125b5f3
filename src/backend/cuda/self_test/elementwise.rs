//! Tests of activations, against their definitions in f64.

use super::{
    cases::{Cases, Tolerance},
    inputs::{Inputs, from_bf16s},
    norms::ROUNDED,
    rows::WIDTHS,
    runner::{Runner, UNTOUCHED, UNTOUCHED_BF16},
};
use crate::{
    backend::cuda::{
        arguments::{ActivateArgs, GateArgs},
        driver::DriverError,
        kernels::Kernel,
        launch_sizes::pieces,
        ops::activation_number,
    },
    model::spec::Activation,
};

const ACTIVATIONS: [(Activation, &str); 3] = [
    (Activation::Silu, "silu"),
    (Activation::Gelu, "gelu"),
    (Activation::GeluTanh, "gelu by tanh"),
];

/// What the kernels' exponential and their approximation of the normal distribution are off by.
const APPROXIMATED: Tolerance = Tolerance {
    relative: 2e-6,
    absolute: 1e-6,
};

/// Beginnings of rows: values for which an exponential is as large or as small as it gets, and both zeros.
const SPECIAL: [f32; 12] = [
    0.0, -0.0, 1e-30, -1e-30, 100.0, -100.0, 1e4, -1e4, 12.5, -12.5, 0.625, -3.0,
];

/// The activation by its definition.
fn activated(x: f32, activation: Activation) -> f64 {
    let x = f64::from(x);
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Gelu => x * 0.5 * (1.0 + error_function(x * std::f64::consts::FRAC_1_SQRT_2)),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
            x * 0.5 * (1.0 + inner.tanh())
        }
    }
}

/// The error function, by a series all of whose terms have one sign (Abramowitz and Stegun, 7.1.6).
fn error_function(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let mut term = x;
    let mut sum = x;
    for n in 1..200 {
        term *= 2.0 * x * x / f64::from(2 * n + 1);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

/// Rows of which the first begins with special values.
fn rows_of_values(inputs: &mut Inputs, count: usize) -> Vec<f32> {
    let mut values: Vec<f32> = inputs.normals(count).iter().map(|x| 3.0 * x).collect();
    for (value, special) in values.iter_mut().zip(SPECIAL) {
        *value = special;
    }
    values
}

pub(super) fn gate(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(8);
    for width in WIDTHS {
        for (activation, name) in ACTIVATIONS {
            for rows in [1, 5] {
                cases.begin(format!("{name}, {rows} rows of {width}"));
                let gate_up = rows_of_values(&mut inputs, rows * 2 * width);
                let mut expected = Vec::new();
                for row in gate_up.chunks(2 * width) {
                    let (gate, up) = row.split_at(width);
                    let pairs = gate.iter().zip(up);
                    expected.extend(pairs.map(|(gate, up)| activated(*gate, activation) * f64::from(*up)));
                }
                expected.extend(vec![f64::NAN; width]);
                let gate_up = runner.holding(&gate_up)?;
                let gated = runner.holding(&vec![UNTOUCHED_BF16; expected.len()])?;
                let argument = GateArgs {
                    gate_up: gate_up.address(),
                    gated: gated.address(),
                    width: width as u32,
                    activation: activation_number(activation),
                };
                runner.launch(Kernel::Gate, pieces(rows, width), &argument)?;
                let found = from_bf16s(&runner.read(&gated, expected.len())?);
                cases.near("gated rows", width, &found, &expected, ROUNDED);
            }
        }
    }
    Ok(())
}

pub(super) fn activate(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(9);
    for width in WIDTHS {
        for (activation, name) in ACTIVATIONS {
            for rows in [1, 5] {
                cases.begin(format!("{name}, {rows} rows of {width}"));
                let mut values = rows_of_values(&mut inputs, rows * width);
                let mut expected: Vec<f64> = values.iter().map(|x| activated(*x, activation)).collect();
                values.extend(vec![UNTOUCHED; width]);
                expected.extend(vec![f64::NAN; width]);
                let buffer = runner.holding(&values)?;
                let argument = ActivateArgs {
                    rows: buffer.address(),
                    width: width as u32,
                    activation: activation_number(activation),
                };
                runner.launch(Kernel::Activate, pieces(rows, width), &argument)?;
                let found = runner.read::<f32>(&buffer, expected.len())?;
                cases.near("activated rows", width, &found, &expected, APPROXIMATED);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_has_the_values_of_tables() {
        for (x, expected) in [
            (0.0, 0.0),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.0, 0.995_322_265_018_952_7),
            (4.0, 0.999_999_984_582_742_1),
            (-1.0, -0.842_700_792_949_714_9),
        ] {
            assert!((error_function(x) - expected).abs() < 1e-14, "{x}");
        }
    }
}
