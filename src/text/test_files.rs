//! Files that tests read: the real model, and third-party vocabularies and chat templates.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, LazyLock},
};

use super::{ChatTemplate, Tokenizer};
use crate::fetch::{self, Progress};

/// The file of SmolLM2: `BABELWARD_TEST_MODEL`, or that of the demo, which is fetched unless it is in the user's cache.
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

/// The folder that `tests/llama_cpp/fetch.py` fills: llama.cpp's vocabularies and chat templates.
pub(crate) fn llama_cpp() -> &'static Path {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let cache = match std::env::var_os("BABELWARD_CACHE") {
            Some(folder) => PathBuf::from(folder),
            None => dirs::cache_dir().expect("a cache folder").join("babelward"),
        };
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/llama_cpp/fetch.py");
        let output = Command::new("python3")
            .arg(script)
            .arg(cache)
            .stderr(Stdio::inherit())
            .output()
            .expect("python3");
        assert!(
            output.status.success(),
            "the tests need llama.cpp's vocabularies; pip's message is above"
        );
        let folder = String::from_utf8(output.stdout).expect("a path in UTF-8");
        PathBuf::from(folder.trim_end())
    });
    &FOLDER
}

/// One of llama.cpp's vocabularies.
pub(crate) fn llama_cpp_vocabulary(name: &str) -> PathBuf {
    llama_cpp().join(format!("models/ggml-vocab-{name}.gguf"))
}
