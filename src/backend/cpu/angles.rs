//! The rotary angles of a step's rows.

use super::kernels::RopeAngles;
use crate::model::spec::{Rope, RopeStyle, Rotation};

/// The angles of all rows, for each set of frequencies that layers rotate with.
pub(super) struct Angles {
    global: AngleSet,
    local: Option<AngleSet>,
}

struct AngleSet {
    rope: Rope,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl Angles {
    pub(super) fn new(global: Rope, local: Option<Rope>) -> Self {
        Self {
            global: AngleSet::new(global),
            local: local.map(AngleSet::new),
        }
    }

    /// Computes the angles of rows with these positions.
    pub(super) fn set(&mut self, positions: &[usize]) {
        for set in [Some(&mut self.global), self.local.as_mut()]
            .into_iter()
            .flatten()
        {
            set.fill(positions);
        }
    }

    /// The angles for layers with this rotation.
    pub(super) fn of(&self, rotation: Rotation) -> RopeAngles<'_> {
        match (rotation, &self.local) {
            (Rotation::None, _) => RopeAngles {
                pairs: 0,
                cos: &[],
                sin: &[],
                style: RopeStyle::Halves,
            },
            (Rotation::Local, Some(local)) => local.angles(),
            (Rotation::Global, _) | (Rotation::Local, None) => self.global.angles(),
        }
    }
}

impl AngleSet {
    fn new(rope: Rope) -> Self {
        Self {
            rope,
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    fn fill(&mut self, positions: &[usize]) {
        self.cos.clear();
        self.sin.clear();
        for (cos, sin) in positions.iter().flat_map(|&position| self.rope.angles(position)) {
            self.cos.push(cos);
            self.sin.push(sin);
        }
    }

    fn angles(&self) -> RopeAngles<'_> {
        RopeAngles {
            pairs: self.rope.frequencies.len(),
            cos: &self.cos,
            sin: &self.sin,
            style: self.rope.style,
        }
    }
}
