//! Who lets engines take their turns: a thread of their own or, where time is simulated, the simulation.

use std::sync::{Arc, Mutex, PoisonError};

/// Who lets an engine take its turns.
#[derive(Debug, Clone, Default)]
pub enum Driver {
    /// A thread of the engine's own.
    #[default]
    Thread,
    /// Whoever has the same turns.
    Caller(Arc<CallerTurns>),
}

/// What came of offering an engine a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It had nothing to do.
    Idle,
    /// It took a turn.
    Taken,
    /// It took its last turn.
    Last,
}

/// Offers an engine a turn. Never waits.
type OfferTurn = Box<dyn FnMut() -> Turn + Send>;

/// Engines without a thread. Whoever has this takes their turns one by one, so that a simulation decides when a step is
/// computed and how long it takes by its clock.
#[derive(Default)]
pub struct CallerTurns(Mutex<Vec<OfferTurn>>);

impl std::fmt::Debug for CallerTurns {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallerTurns")
    }
}

impl CallerTurns {
    /// Takes one turn of each engine that has something to do, and returns whether there was one. Never waits.
    pub fn turn(&self) -> bool {
        let mut busy = false;
        let mut engines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        engines.retain_mut(|offer| {
            let turn = offer();
            busy |= turn != Turn::Idle;
            turn != Turn::Last
        });
        busy
    }

    pub(super) fn add(&self, engine: OfferTurn) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }
}
