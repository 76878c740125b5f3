//! Tiny random quality estimators, with what their reference implementations say of some pairs.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::path::PathBuf;

use serde_json::Value;

use crate::common::golden;

/// A pair with its tokens and its score.
#[derive(Debug, Clone)]
pub struct Pair {
    pub source: String,
    pub translation: String,
    pub tokens: Vec<u32>,
    pub score: f64,
}

/// A folder as it would be served.
pub struct Case {
    pub folder: tempfile::TempDir,
    pub pairs: Vec<Pair>,
}

/// `tests/golden/KIND/NAME`; all cases of a kind share one tokenizer.
pub fn case(kind: &str, name: &str) -> Case {
    let golden = golden(kind);
    let folder = tempfile::tempdir().unwrap();
    let copy = |from: PathBuf, name: &str| {
        std::fs::copy(from.join(name), folder.path().join(name)).unwrap();
    };
    copy(golden.clone(), "tokenizer.json");
    copy(golden.join(name), "config.json");
    copy(golden.join(name), "model.safetensors");
    let json = std::fs::read(golden.join(name).join("golden.json")).unwrap();
    let json: Value = serde_json::from_slice(&json).unwrap();
    let pairs = json["pairs"].as_array().unwrap().iter().map(|pair| Pair {
        source: pair["source"].as_str().unwrap().to_owned(),
        translation: pair["translation"].as_str().unwrap().to_owned(),
        tokens: serde_json::from_value(pair["tokens"].clone()).unwrap(),
        score: pair["score"].as_f64().unwrap(),
    });
    Case {
        pairs: pairs.collect(),
        folder,
    }
}
