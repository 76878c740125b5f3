//! Decides what each step computes: which sequences, how many tokens of each, and in which KV blocks. This is plain
//! synchronous code without clocks: the time is an argument.
//!
//! [`Scheduler::plan`] (`plan.rs`) plans one step. It uses `select.rs`, which shares a step's tokens and time between
//! decodes and prefills; `reclaim.rs`, which takes running slots and blocks back from tenants that hold more than their
//! share; `admit.rs`, which lets waiting sequences run; and `blocks.rs`, which allocates KV blocks and preempts.
//! `arrival.rs` accepts new sequences or refuses them, and `pace.rs` bounds the time of a step.
//!
//! Planning a step does not look at all sequences that wait, and taking an arrival seldom does: one that the queue may make
//! late looks at those before it, as far as `wait_forecast.rs` asks for them, and one of a prefix that is to be pinned looks at
//! all. What else either costs grows with the running sequences and the queues, which are bounded by the budget and by the
//! number of classes and accounts.

mod admit;
mod arrival;
mod blocks;
mod holdings;
mod pace;
mod plan;
mod reclaim;
mod select;
mod state;

pub(crate) use blocks::release_out_of_window;
pub(crate) use pace::{DeviceWork, Pace, StepForecast, TimeLedger};
#[cfg(test)]
pub(crate) use reclaim::TIME_SLICE;
pub(crate) use state::{Budget, Scheduler};
