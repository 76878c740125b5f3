//! Labels of verdicts, from the protocol's words and to them.

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

/// The name of a label in metrics, and wherever else texts name it in lower case.
pub(crate) fn label_name(label: proto::Label) -> &'static str {
    match label {
        proto::Label::Safe => "safe",
        proto::Label::Unsafe => "unsafe",
        proto::Label::Controversial => "controversial",
        proto::Label::Undetermined | proto::Label::Unspecified => "undetermined",
    }
}

/// The label of a guard, in the protocol's words.
pub(crate) fn told(label: Label) -> proto::Label {
    match label {
        Label::Safe => proto::Label::Safe,
        Label::Unsafe => proto::Label::Unsafe,
        Label::Controversial => proto::Label::Controversial,
        Label::Undetermined => proto::Label::Undetermined,
    }
}
