//! Measures whether the bits of a row of a product depend on the number of rows beside it.

use std::{collections::HashMap, sync::Arc};

use half::bf16;

use super::{
    buffer::{Buffer, HostBuffer},
    driver::{
        DeviceAddress, DriverError, PRODUCT_ROWS, ProductChoice, ProductOperands, ProductPlan, ProductShape,
        Queue,
    },
};

/// Numbers of rows for which a row's bits are compared.
const ROWS: [usize; 6] = [16, 64, 256, 512, 1024, 2048];

/// Plans products, and measures each shape once.
pub(super) struct ProductPlanner {
    queue: Arc<dyn Queue>,
    most_rows: usize,
    planned: HashMap<ProductShape, ProductPlan>,
    /// Shapes whose rows' bits depend on the number of rows, whatever algorithm computes them.
    variant: Vec<ProductShape>,
}

impl ProductPlanner {
    pub(super) fn new(queue: &Arc<dyn Queue>, most_rows: usize) -> Self {
        Self {
            queue: Arc::clone(queue),
            most_rows: most_rows.next_multiple_of(PRODUCT_ROWS),
            planned: HashMap::new(),
            variant: Vec::new(),
        }
    }

    /// Whether the bits of rows depended on the number of rows in no product that was planned.
    pub(super) fn is_invariant(&self) -> bool {
        self.variant.is_empty()
    }

    /// The plan for products with these weights: the fastest algorithms, where a row's bits do not depend on which of them
    /// computes it, and else one algorithm for all numbers of rows. `weights` has the shape's size, in bf16.
    pub(super) fn plan(
        &mut self,
        weights: DeviceAddress,
        shape: ProductShape,
    ) -> Result<ProductPlan, DriverError> {
        if let Some(&plan) = self.planned.get(&shape) {
            return Ok(plan);
        }
        let mut plan = self
            .queue
            .plan_product(shape, self.most_rows, ProductChoice::Fastest)?;
        if !self.rows_agree(weights, shape, plan)? {
            plan = self
                .queue
                .plan_product(shape, self.most_rows, ProductChoice::Uniform)?;
            if !self.rows_agree(weights, shape, plan)? {
                self.variant.push(shape);
            }
        }
        self.planned.insert(shape, plan);
        Ok(plan)
    }

    fn rows_agree(
        &self,
        weights: DeviceAddress,
        shape: ProductShape,
        plan: ProductPlan,
    ) -> Result<bool, DriverError> {
        let counts: Vec<usize> = ROWS.into_iter().filter(|rows| *rows <= self.most_rows).collect();
        let most = counts.last().copied().unwrap_or(PRODUCT_ROWS);
        let x = Buffer::holding(&self.queue, &test_rows(most, shape.inputs))?;
        let out = Buffer::new(&self.queue, most * shape.outputs * size_of::<f32>())?;
        let row_bytes = shape.outputs * size_of::<f32>();
        let mut row = HostBuffer::new(&self.queue, row_bytes)?;
        let mut first: Option<Vec<u32>> = None;
        for rows in counts {
            let operands = ProductOperands {
                weights,
                x: x.address(),
                out: out.address(),
                rows,
                out_width: shape.outputs,
                add: false,
            };
            // SAFETY: weights have the shape's size, and `x` and `out` room for the most rows. The queue is waited for
            // before any of them is dropped.
            unsafe { self.queue.product(plan, operands) }?;
            // The last row that all have: it lies in the first tile, and at its end.
            out.read((PRODUCT_ROWS - 1) * row_bytes, &mut row, row_bytes)?;
            let bits = row.part::<u32>(0, shape.outputs).to_vec();
            if *first.get_or_insert_with(|| bits.clone()) != bits {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Rows of values between -1 and 1, which sums in another order would round otherwise.
fn test_rows(rows: usize, inputs: usize) -> Vec<u16> {
    let mut state = 0x2545_f491u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        bf16::from_f32(state as f32 / u32::MAX as f32 * 2.0 - 1.0).to_bits()
    };
    (0..rows * inputs).map(|_| next()).collect()
}
