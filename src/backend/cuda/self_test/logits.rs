//! Tests of reading logits: scaled and capped rows, and what the host needs to know of them, as the host reads a row.

use super::{
    cases::{Cases, Tolerance},
    inputs::Inputs,
    runner::{Runner, UNTOUCHED},
};
use crate::backend::{
    argmax,
    cuda::{
        arguments::{Probe, ReadLogitsArgs, RowReading},
        driver::DriverError,
        kernels::Kernel,
        launch_sizes::logit_rows,
    },
    log_sum_exp, row_max,
};

/// How far a capped logit may be off, in parts of the cap where that is absolute: the kernel's tanh is exact to 2e-7.
const CAPPED: Tolerance = Tolerance {
    relative: 1e-6,
    absolute: 3e-7,
};

/// How far a sum of exponentials may be off, which is computed in f64.
const LOG_SUM: Tolerance = Tolerance {
    relative: 1e-11,
    absolute: 1e-11,
};

/// Rows of each case; the last is behind those that are read.
const ROWS: usize = 7;

/// Tokens that a row's probe asks for, of which the last is outside of every vocabulary here.
const PROBED: [u32; 4] = [0, 2, 4, 1_000_000];

pub(super) fn read_logits(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(12);
    for vocab in [5, 160, 2048, 2051, 20_003] {
        for (scale, soft_cap) in [(1.0, 0.0), (0.125, 0.0), (1.0, 30.0), (0.5, 2.0)] {
            let logits = rows(&mut inputs, vocab);
            case(runner, cases, &logits, Scaling { scale, soft_cap })?;
        }
    }
    Ok(())
}

/// Rows with what has to be told apart: equal maxima, masked tokens, and what makes a row unsound.
fn rows(inputs: &mut Inputs, vocab: usize) -> Vec<f32> {
    let mut logits: Vec<f32> = inputs.normals(ROWS * vocab).iter().map(|x| 4.0 * x).collect();
    let mut set = |row: usize, token: usize, value: f32| logits[row * vocab + token] = value;
    // Two largest logits, of which the first counts.
    set(1, vocab / 2, 40.0);
    set(1, vocab - 1, 40.0);
    set(2, 0, f32::NEG_INFINITY);
    set(2, vocab - 1, f32::NEG_INFINITY);
    set(3, vocab / 3, f32::NAN);
    set(4, vocab - 2, f32::INFINITY);
    for token in 0..vocab {
        set(5, token, f32::NEG_INFINITY);
    }
    logits
}

#[derive(Clone, Copy)]
struct Scaling {
    scale: f32,
    soft_cap: f32,
}

impl Scaling {
    fn of(self, logit: f32) -> f64 {
        let scaled = f64::from(logit * self.scale);
        match f64::from(self.soft_cap) {
            0.0 => scaled,
            cap => cap * (scaled / cap).tanh(),
        }
    }
}

fn case(runner: &mut Runner, cases: &mut Cases, logits: &[f32], scaling: Scaling) -> Result<(), DriverError> {
    let vocab = logits.len() / ROWS;
    let read = ROWS - 1;
    let Scaling { scale, soft_cap } = scaling;
    cases.begin(format!("{vocab} tokens, scale {scale}, cap {soft_cap}"));
    // The second row asks for nothing.
    let counts = [4, 0, 3, 1, 2, 4, 0];
    let firsts = counts.iter().scan(0, |next, count| {
        *next += count;
        Some(*next - count)
    });
    let probes: Vec<Probe> = firsts
        .zip(counts)
        .map(|(first, count)| Probe { first, count })
        .collect();
    let tokens: Vec<u32> = counts
        .iter()
        .flat_map(|count| &PROBED[4 - *count as usize..])
        .copied()
        .collect();
    let none = RowReading {
        log_sum_exp: f64::NAN,
        max: UNTOUCHED,
        most_likely: 7,
        sound: 7,
        padding: 7,
    };
    let there = runner.holding(logits)?;
    let (probes_there, tokens_there) = (runner.holding(&probes)?, runner.holding(&tokens)?);
    let readings = runner.holding(&[none; ROWS])?;
    let probe_logits = runner.holding(&vec![UNTOUCHED; tokens.len() + 1])?;
    let argument = ReadLogitsArgs {
        logits: there.address(),
        probes: probes_there.address(),
        probe_tokens: tokens_there.address(),
        readings: readings.address(),
        probe_logits: probe_logits.address(),
        vocab: vocab as u32,
        scale,
        soft_cap,
        padding: 0,
    };
    runner.launch(Kernel::ReadLogits, logit_rows(read), &argument)?;
    let changed: Vec<f32> = runner.read(&there, logits.len())?;
    if soft_cap == 0.0 {
        let mut expected: Vec<f32> = logits.iter().map(|logit| logit * scale).collect();
        expected[read * vocab..].copy_from_slice(&logits[read * vocab..]);
        cases.exact("logits", vocab, &changed, &expected);
    } else {
        let expected: Vec<f64> = logits[..read * vocab]
            .iter()
            .map(|logit| scaling.of(*logit))
            .collect();
        let tolerance = Tolerance {
            absolute: CAPPED.absolute * f64::from(soft_cap),
            ..CAPPED
        };
        cases.near("logits", vocab, &changed[..read * vocab], &expected, tolerance);
        cases.exact(
            "logits that are not read",
            vocab,
            &changed[read * vocab..],
            &logits[read * vocab..],
        );
    }
    let readings: Vec<RowReading> = runner.read(&readings, ROWS)?;
    let probe_logits: Vec<f32> = runner.read(&probe_logits, tokens.len() + 1)?;
    let mut expected_logits = Vec::new();
    for (row, probe) in changed.chunks(vocab).zip(&probes) {
        for token in &tokens[probe.first as usize..][..probe.count as usize] {
            expected_logits.push(row.get(*token as usize).copied().unwrap_or(f32::NEG_INFINITY));
        }
    }
    expected_logits.push(UNTOUCHED);
    cases.exact("logits that probes ask for", 1, &probe_logits, &expected_logits);
    compare_readings(cases, &readings, &changed, vocab);
    Ok(())
}

/// Compares readings with what the host reads of the rows that the card has changed.
fn compare_readings(cases: &mut Cases, readings: &[RowReading], logits: &[f32], vocab: usize) {
    let (mut sound, mut expected_sound) = (Vec::new(), Vec::new());
    let (mut largest, mut expected_largest) = (Vec::new(), Vec::new());
    let (mut likely, mut expected_likely) = (Vec::new(), Vec::new());
    let (mut sums, mut expected_sums) = (Vec::new(), Vec::new());
    for (reading, row) in readings[..ROWS - 1].iter().zip(logits.chunks(vocab)) {
        let max = row_max(row);
        sound.push(reading.sound);
        expected_sound.push(u32::from(max.is_some()));
        if let Some(max) = max {
            largest.push(reading.max);
            expected_largest.push(max);
            likely.push(reading.most_likely);
            expected_likely.push(argmax(row, max));
            sums.push(reading.log_sum_exp);
            expected_sums.push(log_sum_exp(row, max));
        }
    }
    // The row behind the last has no reading.
    sound.push(readings[ROWS - 1].sound);
    expected_sound.push(7);
    cases.exact("whether rows are sound", 1, &sound, &expected_sound);
    cases.exact("largest logits", 1, &largest, &expected_largest);
    cases.exact("most likely tokens", 1, &likely, &expected_likely);
    cases.near(
        "logarithms of sums of exponentials",
        1,
        &sums,
        &expected_sums,
        LOG_SUM,
    );
}
