//! Helpers of the integration tests.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
};

use babelward::{
    backend::{BatchLimits, DecodeLaunch, LoadOptions},
    fetch::{self, Progress},
    model::spec::Precision,
};

static SMOLLM2: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("BABELWARD_TEST_MODEL") {
    Some(path) => PathBuf::from(path),
    None => fetch::smollm2(Progress::on_stderr(false))
        .unwrap_or_else(|error| panic!("the tests need the demo's model: {error}")),
});

/// The real model: `BABELWARD_TEST_MODEL`, or the demo's, fetched unless it is in the user's cache.
pub fn smollm2() -> PathBuf {
    SMOLLM2.clone()
}

/// A path of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A path below `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    repository("tests/golden").join(path)
}

/// How a model is loaded, with the context window that its file gives it, for batches of up to 4096 tokens.
pub fn load_options(precision: Precision, kv_bytes: usize) -> LoadOptions {
    LoadOptions {
        kv_bytes,
        max_context: None,
        precision,
        batch: BatchLimits {
            sequences: 64,
            tokens: 4096,
        },
        decode: DecodeLaunch::Recorded,
    }
}
