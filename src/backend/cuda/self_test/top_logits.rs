//! Tests of finding a row's largest logits, and of its weight.

use super::{
    cases::{Cases, Tolerance},
    inputs::Inputs,
    runner::{Runner, UNTOUCHED},
};
use crate::backend::{
    Candidates, MOST_CANDIDATES,
    cuda::{
        arguments::{TopLogit, TopLogitsArgs},
        driver::DriverError,
        kernels::Kernel,
        launch_sizes::logit_rows,
    },
};

/// How far a weight may be off, which is a sum of exponentials in f64.
const WEIGHT: Tolerance = Tolerance {
    relative: 1e-11,
    absolute: 0.0,
};

/// Rows of each case, each with a temperature of its own; the last is behind those that are read.
const INVERSE_TEMPERATURES: [f64; 5] = [1.0, 1.0 / 0.7, 0.5, 30.0, 1.0];
const ROWS: usize = INVERSE_TEMPERATURES.len();

pub(super) fn top_logits(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(13);
    for (vocab, count) in [
        (1, 1),
        (5, 5),
        (160, 40),
        (300, MOST_CANDIDATES),
        (20_003, MOST_CANDIDATES),
    ] {
        cases.begin(format!("{count} of {vocab} tokens"));
        let mut logits: Vec<f32> = inputs.normals(ROWS * vocab).iter().map(|x| 4.0 * x).collect();
        // Many equal ones, masked ones, and one that is far above the others.
        for logit in &mut logits[vocab..2 * vocab] {
            *logit = logit.round();
        }
        logits[2 * vocab + vocab / 2..3 * vocab].fill(f32::NEG_INFINITY);
        logits[2 * vocab] = 1.0;
        logits[4 * vocab - 1] = 90.0;
        case(runner, cases, &logits, count)?;
    }
    Ok(())
}

fn case(runner: &mut Runner, cases: &mut Cases, logits: &[f32], count: usize) -> Result<(), DriverError> {
    let vocab = logits.len() / ROWS;
    let none = TopLogit {
        token: 7,
        logit: UNTOUCHED,
    };
    let logits_there = runner.holding(logits)?;
    let inverse_temperatures = runner.holding(&INVERSE_TEMPERATURES)?;
    let top = runner.holding(&vec![none; ROWS * count])?;
    let weights = runner.holding(&[-1.0f64; ROWS])?;
    let argument = TopLogitsArgs {
        logits: logits_there.address(),
        inverse_temperatures: inverse_temperatures.address(),
        top: top.address(),
        weights: weights.address(),
        vocab: vocab as u32,
        count: count as u32,
    };
    runner.launch(Kernel::TopLogits, logit_rows(ROWS - 1), &argument)?;
    let top: Vec<TopLogit> = runner.read(&top, ROWS * count)?;
    let weights: Vec<f64> = runner.read(&weights, ROWS)?;
    let (mut expected_top, mut expected_weights) = (Vec::new(), Vec::new());
    let rows = logits.chunks(vocab).zip(INVERSE_TEMPERATURES);
    for (row, inverse) in rows.take(ROWS - 1) {
        if let Some(expected) = Candidates::of_row(row, count, inverse) {
            expected_weights.push(expected.weight);
            expected_top.extend(expected.tokens.iter().map(|token| (token.id, token.logit)));
        }
    }
    expected_top.extend(vec![(none.token, none.logit); count]);
    expected_weights.push(-1.0);
    let (tokens, logits): (Vec<u32>, Vec<f32>) = expected_top.into_iter().unzip();
    let found: Vec<u32> = top.iter().map(|top| top.token).collect();
    cases.exact("most likely tokens", count, &found, &tokens);
    let found: Vec<f32> = top.iter().map(|top| top.logit).collect();
    cases.exact("largest logits", count, &found, &logits);
    cases.near("weights", 1, &weights, &expected_weights, WEIGHT);
    Ok(())
}
