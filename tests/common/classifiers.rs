//! A tiny random classifier of texts, with the probabilities that transformers computes of some texts.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use serde::Deserialize;

use crate::common::golden;

/// `tests/golden/classifier/golden.json`.
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

/// A folder as it would be served.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("comet", "tokenizer.json"),
        ("classifier", "config.json"),
        ("classifier", "model.safetensors"),
    ] {
        std::fs::copy(golden(from).join(name), folder.path().join(name)).unwrap();
    }
    folder
}

pub fn expected() -> Golden {
    let json = std::fs::read(golden("classifier/golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}
