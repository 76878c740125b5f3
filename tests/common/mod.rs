//! Helpers of the integration tests.

use std::{path::PathBuf, sync::LazyLock};

use babelward::fetch::{self, Progress};

static SMOLLM2: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("BABELWARD_TEST_MODEL") {
    Some(path) => PathBuf::from(path),
    None => fetch::smollm2(Progress::on_stderr(false))
        .unwrap_or_else(|error| panic!("the tests need the demo's model: {error}")),
});

/// The real model: `BABELWARD_TEST_MODEL`, or the demo's, fetched unless it is in the user's cache.
pub fn smollm2() -> PathBuf {
    SMOLLM2.clone()
}
