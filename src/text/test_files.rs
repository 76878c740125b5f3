//! Files that tests read: the real model, and third-party vocabularies where they are present.

use std::{
    path::PathBuf,
    sync::{Arc, LazyLock},
};

use super::{ChatTemplate, Tokenizer};
use crate::fetch::{self, Progress};

/// SmolLM2's file: `BABELWARD_TEST_MODEL`, or the demo's, fetched unless it is in the user's cache.
pub(crate) fn smollm2_path() -> PathBuf {
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| match std::env::var_os("BABELWARD_TEST_MODEL") {
        Some(path) => PathBuf::from(path),
        None => fetch::smollm2(Progress::on_stderr(true))
            .unwrap_or_else(|error| panic!("the tests need the demo's model: {error}")),
    });
    PATH.clone()
}

/// SmolLM2's tokenizer.
pub(crate) fn smollm2() -> Arc<Tokenizer> {
    static TOKENIZER: LazyLock<Arc<Tokenizer>> =
        LazyLock::new(|| Arc::new(Tokenizer::open(&smollm2_path()).expect("SmolLM2's tokenizer")));
    TOKENIZER.clone()
}

/// SmolLM2's chat template.
pub(crate) fn smollm2_chat() -> Arc<ChatTemplate> {
    let template = ChatTemplate::open(&smollm2_path()).expect("SmolLM2's template");
    Arc::new(template.expect("SmolLM2's file has a template"))
}

/// A file below llama.cpp's source folder, named by `BABELWARD_LLAMA_CPP`; says so when it is not there.
pub(crate) fn llama_cpp(file: &str) -> Option<PathBuf> {
    let path = std::env::var_os("BABELWARD_LLAMA_CPP").map(|root| PathBuf::from(root).join(file));
    let present = path.filter(|p| p.exists());
    if present.is_none() {
        eprintln!("SKIPPED: {file} (set BABELWARD_LLAMA_CPP to llama.cpp's source folder)");
    }
    present
}
