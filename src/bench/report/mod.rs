//! The reports: HTML pages that load nothing from elsewhere, and tables as text.

pub(crate) mod comparability;
pub mod formats;
pub mod tables;
pub mod texts;
pub(crate) mod translation_effects;
pub(crate) mod two_runs;

mod format;
mod jurisdictions;
mod label;
mod plots;
mod run;
mod sheet;
mod study;
mod template;

pub use self::{
    label::label_page,
    run::{figures, html, html_with},
    sheet::{Cell, Sheet},
    study::study_html,
    template::ReportError,
};
