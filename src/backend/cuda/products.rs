//! The products of a model: loading weights for them, rounded or as they are, and computing them.

use std::{mem, sync::Arc};

use super::{
    arguments::{PackedExpandArgs, PackedProductArgs, RoundRowsArgs},
    buffer::{Buffer, address_of},
    driver::{DeviceAddress, PRODUCT_ROWS, ProductOperands, ProductShape, Queue},
    invariance::ProductPlanner,
    kernels::Kernel,
    launch_sizes::pieces,
    launcher::Launcher,
    linear::{CudaLinear, LinearPart, PackedPart, RoundedPart},
    packed::{PackedWeights, can_be_packed},
    rows::{CudaRows, RowFormat, RowsShape},
    weights::{WeightLoader, tensor_problem},
};
use crate::{
    backend::{
        Determinism,
        decoder::ops::{Output, PartError},
    },
    model::spec::MatrixSource,
};

/// Products of at most so many rows read packed weights as they are; for more rows they are expanded first, which reads and
/// writes more memory and computes faster.
const MOST_PACKED_ROWS: usize = 64;

/// The products of one model.
pub(super) struct Products {
    planner: ProductPlanner,
    /// Copies weights to the card; only there while the model is loaded.
    loader: Option<WeightLoader>,
    most_rows: usize,
    /// Whether weights that are packed in their file stay so.
    keeps_packed: bool,
    /// Whether any did.
    is_packed: bool,
    /// Operands that were rounded to bf16 for their product.
    rounded: CudaRows,
    /// One packed matrix in bf16, for products of many rows; `None` where none is packed.
    expanded: Option<Buffer>,
    weight_bytes: usize,
}

/// Where a product goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProductTarget {
    pub out: DeviceAddress,
    pub output: Output,
}

impl Products {
    pub(super) fn new(queue: &Arc<dyn Queue>, most_rows: usize, keeps_packed: bool) -> Self {
        Self {
            planner: ProductPlanner::new(queue, most_rows),
            loader: None,
            most_rows,
            keeps_packed,
            is_packed: false,
            rounded: CudaRows::default(),
            expanded: None,
            weight_bytes: 0,
        }
    }

    /// The kernels that it launches.
    pub(super) const KERNELS: [Kernel; 5] = [
        Kernel::RoundRows,
        Kernel::PackedProduct8,
        Kernel::PackedProduct4,
        Kernel::PackedExpand8,
        Kernel::PackedExpand4,
    ];

    /// Frees what only loading needs.
    pub(super) fn loaded(&mut self) {
        self.loader = None;
    }

    /// Bytes of all weights that were loaded.
    pub(super) fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    /// Which results are equal to the bit, by what was measured of each product.
    pub(super) fn determinism(&self) -> Determinism {
        // Packed weights are rounded for products of many rows, and exact for those of few.
        let one_way = !self.is_packed || self.most_rows <= MOST_PACKED_ROWS;
        match one_way && self.planner.is_invariant() {
            true => Determinism::BatchInvariant,
            false => Determinism::BestEffort,
        }
    }

    /// Loads matrices below each other. Each that can stay packed does, if any may; neighbours that cannot are one matrix.
    pub(super) fn linear(
        &mut self,
        launcher: &mut Launcher,
        matrices: &[MatrixSource<'_>],
    ) -> Result<CudaLinear, PartError> {
        let stays_packed =
            |matrix: &MatrixSource<'_>| self.keeps_packed && can_be_packed(matrix.format(), matrix.cols);
        let storages: Vec<bool> = matrices.iter().map(stays_packed).collect();
        let mut parts = Vec::new();
        let mut first = 0;
        for run in storages.chunk_by(|a, b| !a && !b) {
            let sources = &matrices[first..first + run.len()];
            let loaded = match run[0] {
                true => self.load_packed(launcher, &sources[0]).map(LinearPart::Packed),
                false => self.load_rounded(launcher, sources).map(LinearPart::Rounded),
            };
            parts.push(loaded.map_err(|error| PartError {
                part: first + error.part,
                ..error
            })?);
            first += run.len();
        }
        Ok(CudaLinear {
            shape: shape_of(matrices),
            parts,
        })
    }

    /// Loads a matrix whose rows are also read one by one.
    pub(super) fn table(
        &mut self,
        launcher: &mut Launcher,
        matrix: MatrixSource<'_>,
    ) -> Result<CudaLinear, PartError> {
        let part = self.load_rounded(launcher, &[matrix])?;
        Ok(CudaLinear {
            shape: shape_of(&[matrix]),
            parts: vec![LinearPart::Rounded(part)],
        })
    }

    /// The operand of a product for these rows, rounded where it is not yet.
    pub(super) fn operand(&mut self, launcher: &mut Launcher, x: &CudaRows) -> DeviceAddress {
        if x.format == RowFormat::Bf16 {
            return x.address();
        }
        let mut rounded = mem::take(&mut self.rounded);
        let shape = RowsShape {
            count: x.count,
            width: x.width,
            format: RowFormat::Bf16,
        };
        launcher.prepare(&mut rounded, shape, self.most_rows);
        let argument = RoundRowsArgs {
            x: x.address(),
            rounded: rounded.address(),
            width: x.width as u32,
            padding: 0,
        };
        launcher.launch(Kernel::RoundRows, pieces(x.count, x.width), &argument);
        let address = rounded.address();
        self.rounded = rounded;
        address
    }

    /// `out = x · weightsᵀ`, or added to `out`.
    pub(super) fn multiply(
        &mut self,
        launcher: &mut Launcher,
        weights: &CudaLinear,
        x: &CudaRows,
        target: ProductTarget,
    ) {
        let product = Product {
            x: self.operand(launcher, x),
            rows: x.count,
            out: target.out,
            out_width: weights.shape.outputs,
            add: target.output == Output::Add,
        };
        let mut first_output = 0;
        for part in &weights.parts {
            let product = Product {
                out: target.out.offset(first_output * size_of::<f32>()),
                ..product
            };
            match part {
                LinearPart::Rounded(part) => {
                    launcher.product(part.plan, product.operands(part.buffer.address()));
                }
                LinearPart::Packed(part) if x.count <= MOST_PACKED_ROWS => {
                    multiply_packed(launcher, &part.weights, product);
                }
                LinearPart::Packed(part) => {
                    self.expand(launcher, &part.weights);
                    let expanded = address_of(self.expanded.as_ref());
                    launcher.product(part.plan, product.operands(expanded));
                }
            }
            first_output += part.outputs();
        }
    }

    /// Writes packed weights in bf16 to the scratch buffer.
    fn expand(&self, launcher: &mut Launcher, weights: &PackedWeights) {
        let Some(expanded) = &self.expanded else {
            return;
        };
        let argument = PackedExpandArgs {
            weights: weights.argument(),
            out: expanded.address(),
        };
        let (kernel, size) = weights.expand_launch();
        launcher.launch(kernel, size, &argument);
    }

    /// Loads a matrix that is packed in its file, and keeps it so.
    fn load_packed(
        &mut self,
        launcher: &mut Launcher,
        source: &MatrixSource<'_>,
    ) -> Result<PackedPart, PartError> {
        let failed = |problem| PartError { part: 0, problem };
        let weights = PackedWeights::load(launcher.queue(), source).map_err(failed)?;
        self.weight_bytes += weights.bytes();
        let bytes = CudaLinear::rounded_bytes(source.rows, source.cols);
        if self.expanded.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            // The old one first: there may be no memory for both.
            self.expanded = None;
            let buffer = Buffer::new(launcher.queue(), bytes);
            self.expanded = Some(buffer.map_err(|error| failed(tensor_problem(error)))?);
        }
        self.expand(launcher, &weights);
        let expanded = address_of(self.expanded.as_ref());
        let plan = self.planner.plan(expanded, shape_of(&[*source]));
        let plan = plan.map_err(|error| failed(tensor_problem(error)))?;
        self.is_packed = true;
        Ok(PackedPart { weights, plan })
    }

    /// Loads matrices rounded to bf16.
    fn load_rounded(
        &mut self,
        launcher: &mut Launcher,
        parts: &[MatrixSource<'_>],
    ) -> Result<RoundedPart, PartError> {
        let failed = |error| PartError {
            part: 0,
            problem: tensor_problem(error),
        };
        let loader = match &mut self.loader {
            Some(loader) => loader,
            None => self
                .loader
                .insert(WeightLoader::new(launcher.queue()).map_err(failed)?),
        };
        let loaded = loader.load(parts);
        let buffer = loaded.map_err(|(part, problem)| PartError { part, problem })?;
        self.weight_bytes += buffer.bytes();
        let shape = shape_of(parts);
        let plan = self.planner.plan(buffer.address(), shape).map_err(failed)?;
        Ok(RoundedPart {
            buffer,
            outputs: shape.outputs,
            plan,
        })
    }
}

/// A product of few rows with weights as they are.
fn multiply_packed(launcher: &mut Launcher, weights: &PackedWeights, product: Product) {
    let argument = PackedProductArgs {
        weights: weights.argument(),
        x: product.x,
        out: product.out,
        rows: product.rows as u32,
        out_width: product.out_width as u32,
        add: u32::from(product.add),
        padding: 0,
    };
    let (kernel, size) = weights.product_launch(product.rows);
    launcher.launch(kernel, size, &argument);
}

/// The shape of matrices below each other.
fn shape_of(parts: &[MatrixSource<'_>]) -> ProductShape {
    ProductShape {
        outputs: parts.iter().map(|part| part.rows).sum(),
        inputs: parts.first().map_or(0, |part| part.cols),
    }
}

/// A product of rows, with any weights.
#[derive(Debug, Clone, Copy)]
struct Product {
    x: DeviceAddress,
    rows: usize,
    out: DeviceAddress,
    out_width: usize,
    add: bool,
}

impl Product {
    /// The operands of the product with these weights in bf16.
    fn operands(self, weights: DeviceAddress) -> ProductOperands {
        ProductOperands {
            weights,
            x: self.x,
            out: self.out,
            rows: self.rows.next_multiple_of(PRODUCT_ROWS),
            out_width: self.out_width,
            add: self.add,
        }
    }
}
