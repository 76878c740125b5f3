//! Finds out how often a run's guard errs: draws answers for people to label, shows them on a page without the guard's
//! verdicts, compares the labels with these, and fits calibrators to them.

mod calibrate;
mod error;
mod key;
mod page;
mod sample;
mod score;
mod sheet;
mod stored;

pub use self::{
    calibrate::{FittedCalibrator, HeldOut, SetCounts, calibrate},
    error::{LabelError, SheetProblem},
    page::{LabelPage, OpenPage},
    sample::{SampleOptions, draw_sample},
    score::{Labels, of_folder, score},
};
