//! Rotary embedding (arXiv 2104.09864) of the heads of queries and keys.

use candle_core::{Device, Tensor};

use crate::model::spec::{Rope, RopeStyle};

/// Cosines and sines of a step's rows, `[rows, 1, pairs]` each, for one set of frequencies.
pub(super) struct StepAngles {
    style: RopeStyle,
    pairs: usize,
    cos: Tensor,
    sin: Tensor,
}

impl StepAngles {
    /// The angles of rows with these positions.
    pub(super) fn new(rope: &Rope, positions: &[usize], device: &Device) -> candle_core::Result<Self> {
        let angles = positions.iter().flat_map(|&position| rope.angles(position));
        let (cos, sin): (Vec<f32>, Vec<f32>) = angles.unzip();
        let pairs = rope.frequencies.len();
        let shape = (positions.len(), 1, pairs);
        Ok(Self {
            style: rope.style,
            pairs,
            cos: Tensor::from_vec(cos, shape, device)?,
            sin: Tensor::from_vec(sin, shape, device)?,
        })
    }

    /// Rotates heads, `[rows, heads, head_dim]`: the first `2 * pairs` dimensions of each, while those after them stay.
    pub(super) fn rotate(&self, heads: &Tensor) -> candle_core::Result<Tensor> {
        let (rows, count, head_dim) = heads.dims3()?;
        let rotated = 2 * self.pairs;
        if rotated == 0 {
            return Ok(heads.clone());
        }
        let (first, second) = match self.style {
            RopeStyle::Halves => (
                heads.narrow(2, 0, self.pairs)?,
                heads.narrow(2, self.pairs, self.pairs)?,
            ),
            RopeStyle::Interleaved => {
                let pairs = heads
                    .narrow(2, 0, rotated)?
                    .contiguous()?
                    .reshape((rows, count, self.pairs, 2))?;
                let side = |index| pairs.narrow(3, index, 1)?.squeeze(3)?.contiguous();
                (side(0)?, side(1)?)
            }
        };
        let (cos, sin) = (&self.cos, &self.sin);
        let turned = [
            (first.broadcast_mul(cos)? - second.broadcast_mul(sin)?)?,
            (second.broadcast_mul(cos)? + first.broadcast_mul(sin)?)?,
        ];
        let turned = match self.style {
            RopeStyle::Halves => Tensor::cat(&turned, 2)?,
            RopeStyle::Interleaved => Tensor::stack(&turned, 3)?.reshape((rows, count, rotated))?,
        };
        if rotated == head_dim {
            return Ok(turned);
        }
        let rest = heads.narrow(2, rotated, head_dim - rotated)?;
        Tensor::cat(&[turned, rest], 2)
    }
}
