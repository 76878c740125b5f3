//! Classifiers of texts: what they read of a text, and what their labels are. Encoders compute them (`backend`); what a label means
//! is its caller's to say.

mod text_classifier;

pub use self::text_classifier::{LabelOdds, LabelSet, LabelsError, MOST_WINDOWS, TextClassifier, labels_of};
pub use crate::model::{ClassifierFamily, EncoderKind};
