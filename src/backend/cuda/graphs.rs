//! Recorded decode steps. A step of one token of each sequence consists of hundreds of short launches, which take the host
//! longer to make than the card to carry out; a recording of them is launched in one call.

use std::collections::HashMap;

use super::{driver::GraphHandle, inputs::StepShape};

/// Steps of at most so many rows are recorded.
pub(super) const MOST_ROWS: usize = 256;

/// What the launches of a step depend on, beside what its inputs say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct GraphKey {
    /// Rows that are computed: those of the step, rounded up.
    pub rows: usize,
    /// Segments that attention is launched for, rounded up.
    pub segments: usize,
    /// Whether adapters' updates are added.
    pub adapted: bool,
}

impl GraphKey {
    /// The recording that a step can use; `None` where it is no decode step: where a sequence has several new tokens, or one
    /// is not read.
    pub(super) fn of(shape: &StepShape, sequences: usize, most_rows: usize) -> Option<Self> {
        let decode = shape.rows == sequences && shape.reads == sequences && shape.rows <= MOST_ROWS;
        decode.then(|| Self {
            rows: shape.rows.next_power_of_two().min(most_rows),
            segments: shape.tiles.segments.next_power_of_two(),
            adapted: shape.adapted,
        })
    }
}

/// The recordings of a model.
#[derive(Debug, Default)]
pub(super) struct Graphs {
    recorded: HashMap<GraphKey, GraphHandle>,
}

impl Graphs {
    pub(super) fn get(&self, key: GraphKey) -> Option<GraphHandle> {
        self.recorded.get(&key).copied()
    }

    pub(super) fn insert(&mut self, key: GraphKey, graph: GraphHandle) {
        self.recorded.insert(key, graph);
    }
}
