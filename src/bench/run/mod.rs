//! Sends a plan to a server and keeps every result in a journal. A run may be stopped at any moment and resumed; its
//! results are then the same bytes as if it had never been stopped.

mod answers;
mod begin;
mod cells;
mod drive;
mod error;
mod event;
mod sitting;
mod state;
mod store;

pub(super) use self::state::new_info;
pub use self::{
    begin::{NewMember, NewRunFolder, begin_group, check_served},
    error::RunError,
    event::BenchEvent,
    sitting::{EarlyEnd, OpenItems, SittingEnd, SittingOptions, sit},
    state::{Failures, Run},
};
