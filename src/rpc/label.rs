//! Labels of verdicts, from the protocol's words.

use crate::{guard::Label, proto};

/// The label of a verdict, as guards know it.
pub(crate) fn label(label: proto::Label) -> Label {
    match label {
        proto::Label::Safe => Label::Safe,
        proto::Label::Unsafe => Label::Unsafe,
        proto::Label::Controversial => Label::Controversial,
        proto::Label::Undetermined | proto::Label::Unspecified => Label::Undetermined,
    }
}
