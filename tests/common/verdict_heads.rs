//! A tiny random guard with verdict heads, and what PyTorch computes of some conversations with it.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use serde::Deserialize;

use crate::common::golden;

/// `tests/golden/verdict_heads/golden.json`.
#[derive(Deserialize)]
pub struct Golden {
    pub cases: Vec<GoldenCase>,
}

#[derive(Deserialize)]
pub struct GoldenCase {
    /// Of the user and the assistant in turn; the last one is judged.
    pub contents: Vec<String>,
    pub prompt: String,
    pub tokens: Vec<u32>,
    /// Probabilities of safe, unsafe and controversial.
    pub risk: Vec<f64>,
    /// Probabilities of the categories of the judged side.
    pub category: Vec<f64>,
}

impl GoldenCase {
    /// Whether the last message is the assistant's.
    pub fn judges_an_answer(&self) -> bool {
        self.contents.len().is_multiple_of(2)
    }
}

/// A folder as it would be served. Its name does not say what it is.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("tiny-chat", "tokenizer.json"),
        ("tiny-chat", "tokenizer_config.json"),
        ("verdict_heads", "config.json"),
        ("verdict_heads", "model.safetensors"),
    ] {
        std::fs::copy(golden(from).join(name), folder.path().join(name)).unwrap();
    }
    folder
}

pub fn expected() -> Golden {
    let json = std::fs::read(golden("verdict_heads/golden.json")).unwrap();
    serde_json::from_slice(&json).unwrap()
}
