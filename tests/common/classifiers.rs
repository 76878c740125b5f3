//! Tiny random classifiers of texts, with the probabilities that transformers computes of some texts.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use serde::Deserialize;

use crate::common::golden;

/// A `golden.json`.
#[derive(Deserialize)]
pub struct Golden {
    pub labels: Vec<String>,
    pub texts: Vec<GoldenText>,
}

#[derive(Deserialize)]
pub struct GoldenText {
    pub text: String,
    pub windows: Vec<GoldenWindow>,
}

#[derive(Deserialize)]
pub struct GoldenWindow {
    /// With the two around the text.
    pub tokens: Vec<u32>,
    /// In the order of the labels.
    pub probabilities: Vec<f64>,
}

/// Where the files of a classifier are.
#[derive(Debug, Clone, Copy)]
pub struct GoldenClassifier {
    /// Its folder in `tests/golden`.
    pub folder: &'static str,
    /// The folder that has its tokenizer.
    pub tokenizer: &'static str,
    /// Its architecture in provenance.
    pub architecture: &'static str,
}

/// XLM-R, by `tests/golden/classifier_labels.py`.
pub const XLM_ROBERTA: GoldenClassifier = GoldenClassifier {
    folder: "classifier",
    tokenizer: "comet",
    architecture: "xlm-roberta classifier",
};

/// DeBERTa with the settings of its published files, by `tests/golden/classifier_families.py`.
pub const DEBERTA: GoldenClassifier = GoldenClassifier {
    folder: "classifiers/deberta-shared",
    tokenizer: "classifiers/deberta-shared",
    architecture: "deberta-v2 classifier",
};

/// All architectures and settings.
pub const ALL: [GoldenClassifier; 4] = [
    XLM_ROBERTA,
    DEBERTA,
    GoldenClassifier {
        folder: "classifiers/deberta-own",
        tokenizer: "classifiers/deberta-own",
        architecture: "deberta-v2 classifier",
    },
    GoldenClassifier {
        folder: "classifiers/roberta",
        tokenizer: "classifiers/roberta",
        architecture: "roberta classifier",
    },
];

impl GoldenClassifier {
    /// A folder as it would be served.
    pub fn served(self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (from, name) in [
            (self.tokenizer, "tokenizer.json"),
            (self.folder, "config.json"),
            (self.folder, "model.safetensors"),
        ] {
            std::fs::copy(golden(from).join(name), folder.path().join(name)).unwrap();
        }
        folder
    }

    /// What transformers computes.
    pub fn expected(self) -> Golden {
        let json = std::fs::read(golden(self.folder).join("golden.json")).unwrap();
        serde_json::from_slice(&json).unwrap()
    }
}

/// XLM-R's folder as it would be served.
pub fn folder() -> tempfile::TempDir {
    XLM_ROBERTA.served()
}

/// What transformers computes with it.
pub fn expected() -> Golden {
    XLM_ROBERTA.expected()
}
