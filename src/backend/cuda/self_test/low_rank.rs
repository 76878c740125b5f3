//! Tests of adapters' updates: the first product against sums in f64, the second, whose order is fixed, to the bit.

use super::{
    cases::{Cases, Tolerance},
    inputs::{Inputs, from_bf16},
    runner::{Runner, UNTOUCHED},
};
use crate::backend::cuda::{
    adapter::PARTS,
    arguments::{LowRankDownArgs, LowRankPart, LowRankUpArgs},
    buffer::Buffer,
    driver::{DriverError, LaunchSize},
    kernels::Kernel,
    launch_sizes::ROW_THREADS,
    ops::LOW_RANK_THREADS,
};

/// The adapter of rows that have none.
const NO_ADAPTER: u32 = u32::MAX;
/// Ranks of the parts of each adapter; 0: the part is not updated.
const RANKS: [[usize; PARTS]; 3] = [[8, 0, 3], [1, 16, 5], [0, 0, 4]];
const MOST_RANK: usize = 16;
/// Outputs of each part; parts lie beside each other.
const OUTPUTS: [usize; PARTS] = [300, 64, 7];
/// Adapters of rows beside each other.
const ADAPTERS: [u32; 6] = [0, 1, NO_ADAPTER, 2, 1, NO_ADAPTER];

/// Sums in f32 of some hundred products, in 32 parts.
const SUMS: Tolerance = Tolerance {
    relative: 1e-5,
    absolute: 5e-5,
};

/// The matrices of all adapters, in the host's memory and in the card's.
struct Adapters {
    a: Vec<[Vec<f32>; PARTS]>,
    b: Vec<[Vec<f32>; PARTS]>,
    table: Buffer,
    _matrices: Vec<Buffer>,
}

impl Adapters {
    fn new(runner: &Runner, inputs: &mut Inputs, width: usize) -> Result<Self, DriverError> {
        let (mut a, mut b, mut table, mut matrices) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for ranks in RANKS {
            a.push(ranks.map(|rank| inputs.normals(rank * width)));
            b.push([0, 1, 2].map(|part| inputs.normals(OUTPUTS[part] * ranks[part])));
            let mut first_output = 0;
            for (part, rank) in ranks.into_iter().enumerate() {
                let last = a.len() - 1;
                let (a, b) = (runner.holding(&a[last][part])?, runner.holding(&b[last][part])?);
                table.push(LowRankPart {
                    a: a.address(),
                    b: b.address(),
                    rank: rank as u32,
                    first_output,
                    outputs: OUTPUTS[part] as u32,
                    padding: 0,
                });
                first_output += OUTPUTS[part] as u32;
                matrices.extend([a, b]);
            }
        }
        Ok(Self {
            a,
            b,
            table: runner.holding(&table)?,
            _matrices: matrices,
        })
    }
}

pub(super) fn down(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(10);
    for width in [64, 70, 130, 512] {
        for rows in [1, ADAPTERS.len()] {
            cases.begin(format!("{rows} rows of {width}"));
            let adapters = Adapters::new(runner, &mut inputs, width)?;
            let x = inputs.bf16s(rows * width);
            let mut expected = vec![f64::NAN; (rows + 1) * PARTS * MOST_RANK];
            for (row, adapter) in ADAPTERS[..rows].iter().enumerate() {
                let Some(parts) = adapters.a.get(*adapter as usize) else {
                    continue;
                };
                let x = &x[row * width..][..width];
                for (part, a) in parts.iter().enumerate() {
                    for (rank, a) in a.chunks(width).enumerate() {
                        let products = a
                            .iter()
                            .zip(x)
                            .map(|(a, x)| f64::from(*a) * f64::from(from_bf16(*x)));
                        expected[(row * PARTS + part) * MOST_RANK + rank] = products.sum();
                    }
                }
            }
            let (x, rows_adapters) = (runner.holding(&x)?, runner.holding(&ADAPTERS[..rows])?);
            let inner = runner.holding(&vec![UNTOUCHED; expected.len()])?;
            let argument = LowRankDownArgs {
                x: x.address(),
                parts: adapters.table.address(),
                adapters: rows_adapters.address(),
                inner: inner.address(),
                inputs: width as u32,
                max_rank: MOST_RANK as u32,
            };
            let size = LaunchSize {
                grid: [rows as u32, PARTS as u32, 1],
                threads: LOW_RANK_THREADS,
                shared_bytes: 0,
            };
            runner.launch(Kernel::LowRankDown, size, &argument)?;
            let found = runner.read::<f32>(&inner, expected.len())?;
            cases.near("inner rows", PARTS * MOST_RANK, &found, &expected, SUMS);
        }
    }
    Ok(())
}

pub(super) fn up(runner: &mut Runner, cases: &mut Cases) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(11);
    let width: usize = OUTPUTS.iter().sum();
    for rows in [1, ADAPTERS.len()] {
        cases.begin(format!("{rows} rows"));
        let adapters = Adapters::new(runner, &mut inputs, 4)?;
        let inner = inputs.normals(rows * PARTS * MOST_RANK);
        let before = inputs.normals((rows + 1) * width);
        let mut expected = before.clone();
        for (row, adapter) in ADAPTERS[..rows].iter().enumerate() {
            let Some(parts) = adapters.b.get(*adapter as usize) else {
                continue;
            };
            let mut first_output = row * width;
            for (part, b) in parts.iter().enumerate() {
                let rank = RANKS[*adapter as usize][part];
                let inner = &inner[(row * PARTS + part) * MOST_RANK..][..rank];
                for (output, b) in b.chunks(rank.max(1)).enumerate() {
                    let sum = b
                        .iter()
                        .zip(inner)
                        .fold(0.0f32, |sum, (b, inner)| b.mul_add(*inner, sum));
                    expected[first_output + output] += sum;
                }
                first_output += OUTPUTS[part];
            }
        }
        let (inner, rows_adapters) = (runner.holding(&inner)?, runner.holding(&ADAPTERS[..rows])?);
        let out = runner.holding(&before)?;
        let argument = LowRankUpArgs {
            inner: inner.address(),
            parts: adapters.table.address(),
            adapters: rows_adapters.address(),
            out: out.address(),
            out_width: width as u32,
            max_rank: MOST_RANK as u32,
        };
        let most_outputs = OUTPUTS.into_iter().max().unwrap_or(0);
        let size = LaunchSize {
            grid: [
                rows as u32,
                PARTS as u32,
                most_outputs.div_ceil(ROW_THREADS as usize) as u32,
            ],
            threads: ROW_THREADS,
            shared_bytes: 0,
        };
        runner.launch(Kernel::LowRankUp, size, &argument)?;
        cases.exact("outputs", width, &runner.read(&out, expected.len())?, &expected);
    }
    Ok(())
}
