//! Measures what a card can do at best for a model: copies inside of its memory, and products in the shapes of the model's
//! matrices, which are planned and recorded as the model's are. The weights are noise.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    buffer::Buffer,
    driver::{
        DriverError, PRODUCT_ROWS, PRODUCT_WORKSPACE_BYTES, ProductOperands, ProductPlan, ProductShape, Queue,
    },
    invariance::ProductPlanner,
    launcher::Launcher,
    linear::CudaLinear,
    weights::WeightLoader,
};
use crate::{
    backend::{Ceilings, ProductCeiling},
    model::spec::{FeedForward, ModelConfig},
};

/// Numbers of rows that products are measured with: one sequence that decodes, some, and prompts.
const ROWS: [usize; 5] = [1, 16, 64, 256, 2048];

/// The most of them.
const MOST_ROWS: usize = ROWS[ROWS.len() - 1];

/// Most rows that logits are computed of: one of each sequence.
const MOST_READ_ROWS: usize = 256;

/// A product's weights are taken in turns from as many copies as have so many bytes together, so that they come from the
/// card's memory, as a model's do, and not from its cache (50 MiB on an H200).
const ROTATED_BYTES: usize = 256 << 20;

/// Most of these copies.
const MOST_COPIES: usize = 16;

/// Most bytes that are copied at a time.
const MOST_COPIED_BYTES: usize = 1 << 30;

/// Each figure is the mean over at least this time, beside which the time of a launch and of a wait is nothing.
const LEAST_TIME: Duration = Duration::from_millis(50);

/// Most rounds of one figure.
const MOST_ROUNDS: usize = 1 << 16;

/// The products of a model, each shape once.
pub(super) struct MeasuredShapes(Vec<MeasuredShape>);

/// A product.
#[derive(Debug, Clone, Copy)]
struct MeasuredShape {
    shape: ProductShape,
    /// Most rows that the model computes it with.
    most_rows: usize,
}

impl MeasuredShapes {
    /// The shapes of a decoder's products: queries, keys and values are one, and so are gates and what they gate.
    pub(super) fn of(config: &ModelConfig) -> Self {
        let (sizes, attention) = (config.sizes, config.attention_shape());
        let inner = match config.feed_forward {
            FeedForward::Gated => 2 * sizes.ffn,
            FeedForward::Plain => sizes.ffn,
        };
        let layer = [
            (attention.qkv_width(), sizes.hidden),
            (sizes.hidden, sizes.heads * sizes.head_dim),
            (inner, sizes.hidden),
            (sizes.hidden, sizes.ffn),
        ];
        let layer = layer.map(|(outputs, inputs)| (outputs, inputs, MOST_ROWS));
        let mut seen = BTreeSet::new();
        let shapes = layer
            .into_iter()
            .chain([(sizes.vocab, sizes.hidden, MOST_READ_ROWS)])
            .filter(|&(outputs, inputs, _)| seen.insert((outputs, inputs)))
            .map(|(outputs, inputs, most_rows)| MeasuredShape {
                shape: ProductShape { outputs, inputs },
                most_rows,
            });
        Self(shapes.collect())
    }

    /// Bytes of the card's memory that measuring the products takes.
    pub(super) fn bytes(&self) -> u64 {
        let most = self.0.iter().map(|measured| measured.bytes()).max();
        (most.unwrap_or(0) + PRODUCT_WORKSPACE_BYTES) as u64
    }

    /// Measures all of it, on a queue of a card that has so many bytes of free memory.
    pub(super) fn measure(&self, queue: &Arc<dyn Queue>, free: u64) -> Result<Ceilings, DriverError> {
        let mut launcher = Launcher::new(Arc::clone(queue));
        let copied = usize::try_from(free / 4)
            .unwrap_or(usize::MAX)
            .min(MOST_COPIED_BYTES);
        let copy_bytes_per_second = copy_speed(&mut launcher, copied)?;
        let mut planner = ProductPlanner::new(queue, MOST_ROWS);
        let mut loader = WeightLoader::new(queue)?;
        let mut products = Vec::new();
        for measured in &self.0 {
            products.extend(measured.speeds(&mut launcher, &mut planner, &mut loader)?);
        }
        Ok(Ceilings {
            copy_bytes_per_second,
            products,
            row_bits_agree: planner.is_invariant(),
        })
    }
}

impl MeasuredShape {
    fn weight_bytes(&self) -> usize {
        CudaLinear::rounded_bytes(self.shape.outputs, self.shape.inputs)
    }

    /// How many copies of the weights there are.
    fn copies(&self) -> usize {
        ROTATED_BYTES
            .div_ceil(self.weight_bytes().max(1))
            .min(MOST_COPIES)
    }

    fn bytes(&self) -> usize {
        let operands = CudaLinear::rounded_bytes(MOST_ROWS, self.shape.inputs);
        let results = MOST_ROWS * self.shape.outputs * size_of::<f32>();
        self.copies() * self.weight_bytes() + operands + results
    }

    fn speeds(
        &self,
        launcher: &mut Launcher,
        planner: &mut ProductPlanner,
        loader: &mut WeightLoader,
    ) -> Result<Vec<ProductCeiling>, DriverError> {
        let ProductShape { outputs, inputs } = self.shape;
        let mut copies = Vec::new();
        for copy in 0..self.copies() {
            copies.push(loader.noise(&format!("copy {copy}"), outputs, inputs)?);
        }
        let first = copies.first().map(Buffer::address).unwrap_or_default();
        let plan = planner.plan(first, self.shape)?;
        let x = loader.noise("rows", MOST_ROWS, inputs)?;
        let out = Buffer::new(launcher.queue(), MOST_ROWS * outputs * size_of::<f32>())?;
        let operands = Operands {
            copies: &copies,
            x: &x,
            out: &out,
            out_width: outputs,
        };
        let rows = ROWS.into_iter().filter(|rows| *rows <= self.most_rows);
        let speed = |rows: usize| {
            let seconds = operands.seconds(launcher, plan, rows)?;
            Ok(ProductCeiling {
                outputs,
                inputs,
                rows,
                flop_per_second: 2.0 * (outputs * inputs * rows) as f64 / seconds,
            })
        };
        rows.map(speed).collect()
    }
}

/// What a product works on.
struct Operands<'a> {
    copies: &'a [Buffer],
    x: &'a Buffer,
    out: &'a Buffer,
    out_width: usize,
}

impl Operands<'_> {
    /// Seconds of one product.
    fn seconds(&self, launcher: &mut Launcher, plan: ProductPlan, rows: usize) -> Result<f64, DriverError> {
        let multiply = |launcher: &mut Launcher, weights: &Buffer| {
            let operands = ProductOperands {
                weights: weights.address(),
                x: self.x.address(),
                out: self.out.address(),
                rows: rows.next_multiple_of(PRODUCT_ROWS),
                out_width: self.out_width,
                add: false,
            };
            launcher.product(plan, operands);
        };
        // Once without a recording: the library may have to load its kernel first.
        self.copies
            .iter()
            .take(1)
            .for_each(|weights| multiply(launcher, weights));
        launcher.wait()?;
        launcher.begin_recording();
        self.copies.iter().for_each(|weights| multiply(launcher, weights));
        let recorded = launcher.end_recording();
        let seconds = seconds_of(launcher, |launcher| {
            // Where there is no recording, the fault is what the wait returns.
            if let Some(graph) = recorded {
                launcher.replay(graph);
            }
        })?;
        Ok(seconds / self.copies.len() as f64)
    }
}

/// Bytes that a copy of so many bytes reads and writes in a second.
fn copy_speed(launcher: &mut Launcher, bytes: usize) -> Result<f64, DriverError> {
    let from = Buffer::new(launcher.queue(), bytes)?;
    let to = Buffer::new(launcher.queue(), bytes)?;
    let seconds = seconds_of(launcher, |launcher| launcher.copy(&to, &from, bytes))?;
    Ok(2.0 * bytes as f64 / seconds)
}

/// Seconds of some work, which is given to the card many times before it is waited for.
fn seconds_of(launcher: &mut Launcher, work: impl Fn(&mut Launcher)) -> Result<f64, DriverError> {
    work(launcher);
    launcher.wait()?;
    let mut rounds = 1;
    loop {
        let begun = Instant::now();
        for _ in 0..rounds {
            work(launcher);
        }
        launcher.wait()?;
        let elapsed = begun.elapsed();
        if elapsed >= LEAST_TIME || rounds >= MOST_ROUNDS {
            return Ok(elapsed.as_secs_f64() / rounds as f64);
        }
        rounds *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{open_decoder, spec::DeviceName};

    fn shapes(model: &str) -> MeasuredShapes {
        let path = std::path::PathBuf::from(format!("dummy:{model}"));
        open_decoder(&path, |config, _| Ok(MeasuredShapes::of(&config))).unwrap()
    }

    #[test]
    fn an_8b_guards_products_are_measured_and_fit_a_small_card() {
        let shapes = shapes("llama-guard-3-8b");
        let found: Vec<_> = shapes
            .0
            .iter()
            .map(|measured| (measured.shape.outputs, measured.shape.inputs, measured.copies()))
            .collect();
        let expected = [
            (6144, 4096, 6),
            (4096, 4096, 8),
            (28_672, 4096, 2),
            (4096, 14_336, 3),
            (128_256, 4096, 1),
        ];
        assert_eq!(found, expected);
        assert!(shapes.bytes() < 4 << 30, "{}", shapes.bytes());
    }

    #[test]
    fn a_shape_that_occurs_twice_is_measured_once() {
        // Queries of 32 heads of 64 dimensions are as wide as the residual stream.
        assert_eq!(shapes("llama-guard-3-1b").0.len(), 5);
        let squares = shapes("tiny").0;
        let mut seen = BTreeSet::new();
        assert!(
            squares
                .iter()
                .all(|measured| seen.insert((measured.shape.outputs, measured.shape.inputs)))
        );
    }

    #[test]
    fn only_cards_are_measured() {
        use crate::backend::{Backend as _, CeilingsError, cpu::CpuBackend};
        let refused = CpuBackend::new(1).ceilings(std::path::Path::new("dummy:tiny"));
        assert!(matches!(
            refused,
            Err(CeilingsError::NotMeasured(DeviceName::Cpu))
        ));
    }
}
