//! Tests of the kernels that copy, add to and round rows. All of them are exact.

use super::{
    cases::Cases,
    inputs::{Inputs, from_bf16, to_bf16},
    runner::{Runner, UNTOUCHED, UNTOUCHED_BF16},
};
use crate::backend::cuda::{
    arguments::{AddBiasArgs, EmbedArgs, KeepRowsArgs, RoundRowsArgs},
    buffer::address_of,
    driver::DriverError,
    kernels::Kernel,
    launch_sizes::{pieces, rows_of, words_of},
};

/// Widths of rows: single values, rows that are no multiple of the four values which threads read at once, and rows that
/// one block of threads, or one round of its threads, does not cover.
pub(super) const WIDTHS: [usize; 7] = [1, 3, 64, 130, 1024, 1027, 2304];

/// Tokens and positions of the tables that are read.
const TABLE: usize = 11;

pub(super) fn embed(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(1);
    for width in WIDTHS {
        for (rows, scale, has_positions) in [(1, 1.0, false), (5, 11.313_708_f32, true), (17, 0.5, false)] {
            cases.begin(format!("{rows} rows of {width}, positions {has_positions}"));
            let table = inputs.bf16s(TABLE * width);
            let positions_table = inputs.bf16s(TABLE * width);
            let mut ids = || (0..rows).map(|_| inputs.below(TABLE) as u32).collect::<Vec<_>>();
            let (tokens, positions) = (ids(), ids());
            let mut expected = Vec::new();
            for (token, position) in tokens.iter().zip(&positions) {
                for i in 0..width {
                    let value = from_bf16(table[*token as usize * width + i]) * scale;
                    let added = from_bf16(positions_table[*position as usize * width + i]);
                    expected.push(if has_positions { value + added } else { value });
                }
            }
            // A row behind the last, which nobody may write to.
            expected.extend(vec![UNTOUCHED; width]);
            let table = runner.holding(&table)?;
            let positions_table = runner.holding(&positions_table)?;
            let (tokens, positions) = (runner.holding(&tokens)?, runner.holding(&positions)?);
            let hidden = runner.holding(&vec![UNTOUCHED; expected.len()])?;
            let argument = EmbedArgs {
                table: table.address(),
                position_table: address_of(has_positions.then_some(&positions_table)),
                tokens: tokens.address(),
                positions: positions.address(),
                hidden: hidden.address(),
                width: width as u32,
                scale,
            };
            runner.launch(Kernel::Embed, rows_of(rows), &argument)?;
            cases.exact(
                "embeddings",
                width,
                &runner.read(&hidden, expected.len())?,
                &expected,
            );
        }
    }
    Ok(())
}

pub(super) fn add_bias(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(2);
    for width in WIDTHS {
        for rows in [1, 6] {
            cases.begin(format!("{rows} rows of {width}"));
            let (mut values, bias) = (inputs.normals(rows * width), inputs.normals(width));
            values.extend(vec![UNTOUCHED; width]);
            let sums = values[..rows * width].iter().enumerate();
            let mut expected: Vec<f32> = sums.map(|(i, value)| value + bias[i % width]).collect();
            expected.extend(vec![UNTOUCHED; width]);
            let (buffer, bias) = (runner.holding(&values)?, runner.holding(&bias)?);
            let argument = AddBiasArgs {
                rows: buffer.address(),
                bias: bias.address(),
                width: width as u32,
                padding: 0,
            };
            runner.launch(Kernel::AddBias, pieces(rows, width), &argument)?;
            cases.exact("sums", width, &runner.read(&buffer, expected.len())?, &expected);
        }
    }
    Ok(())
}

/// Values whose rounding is special: ties to both sides, the largest number below infinity, numbers below the normal ones,
/// and what is no number.
const SPECIAL: [u32; 12] = [
    0x3f80_8000,
    0x3f81_8000,
    0x3f80_7fff,
    0x3f80_8001,
    0xbf80_8000,
    0x7f7f_ffff,
    0x0000_8000,
    0x0001_8000,
    0x0040_0000,
    0x8000_0000,
    0x7f80_0000,
    0xff80_0000,
];

pub(super) fn round_rows(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(3);
    for width in WIDTHS {
        for rows in [1, 16] {
            cases.begin(format!("{rows} rows of {width}"));
            let mut values = inputs.normals(rows * width);
            for (value, special) in values.iter_mut().zip(SPECIAL) {
                *value = f32::from_bits(special);
            }
            let mut expected: Vec<u16> = values.iter().map(|value| to_bf16(*value)).collect();
            expected.extend(vec![UNTOUCHED_BF16; width]);
            let x = runner.holding(&values)?;
            let rounded = runner.holding(&vec![UNTOUCHED_BF16; expected.len()])?;
            let argument = RoundRowsArgs {
                x: x.address(),
                rounded: rounded.address(),
                width: width as u32,
                padding: 0,
            };
            runner.launch(Kernel::RoundRows, pieces(rows, width), &argument)?;
            cases.exact(
                "rounded rows",
                width,
                &runner.read(&rounded, expected.len())?,
                &expected,
            );
        }
    }
    Ok(())
}

pub(super) fn keep_rows(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(4);
    let kept: [&[u32]; 5] = [
        &[0],
        &[8],
        &[0, 1, 2],
        &[1, 2, 5, 8],
        &[0, 1, 2, 3, 4, 5, 6, 7, 8],
    ];
    for words in [1, 96, 256, 700] {
        for indices in kept {
            cases.begin(format!("{} of 9 rows of {words} words", indices.len()));
            let values: Vec<u32> = (0..9 * words).map(|_| inputs.below(1 << 30) as u32).collect();
            let mut expected = values.clone();
            for (row, index) in indices.iter().enumerate() {
                let from = *index as usize * words;
                expected[row * words..][..words].copy_from_slice(&values[from..from + words]);
            }
            let (rows, indices_there) = (runner.holding(&values)?, runner.holding(indices)?);
            let argument = KeepRowsArgs {
                rows: rows.address(),
                indices: indices_there.address(),
                count: indices.len() as u32,
                words: words as u32,
            };
            runner.launch(Kernel::KeepRows, words_of(words), &argument)?;
            cases.exact("words", words, &runner.read(&rows, expected.len())?, &expected);
        }
    }
    Ok(())
}
