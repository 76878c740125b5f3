//! What is fuzzed: for each door through which bytes of others come in, a function that gives it any bytes, and checks what
//! must be true whatever they are. It panics where that is not so. `docs/fuzzing.md` lists them.
//!
//! The programs in `fuzz_targets` call them with inputs that libFuzzer makes, and `tests/repo/fuzz_corpus.rs` with those that
//! are kept in `corpus`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a target tells what it has found by panicking"
)]

use std::{panic, process, sync::Once, thread};

mod bench_files;
mod bodies;
mod input;
#[cfg(fuzzing)]
mod memory;
mod model_files;
mod requests;
mod settings;
mod texts;

/// A target by the name of its program and of its folder in `corpus`.
pub struct Target {
    /// The name.
    pub name: &'static str,
    /// Gives an input to the door.
    pub run: fn(&[u8]),
}

/// All targets.
pub const TARGETS: [Target; 15] = [
    Target {
        name: "gguf",
        run: model_files::gguf,
    },
    Target {
        name: "safetensors",
        run: model_files::safetensors,
    },
    Target {
        name: "tokenizer_json",
        run: texts::tokenizer_json,
    },
    Target {
        name: "tokenizer_model",
        run: texts::tokenizer_model,
    },
    Target {
        name: "tokenizer_gguf",
        run: texts::tokenizer_gguf,
    },
    Target {
        name: "chat_template",
        run: texts::chat_template,
    },
    Target {
        name: "segments",
        run: texts::segments,
    },
    Target {
        name: "verdict",
        run: texts::verdict,
    },
    Target {
        name: "policy",
        run: settings::policy,
    },
    Target {
        name: "config",
        run: settings::config,
    },
    Target {
        name: "credentials",
        run: settings::credentials,
    },
    Target {
        name: "requests",
        run: requests::requests,
    },
    Target {
        name: "bodies",
        run: bodies::bodies,
    },
    Target {
        name: "rows",
        run: bench_files::rows,
    },
    Target {
        name: "journal",
        run: bench_files::journal,
    },
];

/// Runs one target under libFuzzer, and ends the process by a signal, as libFuzzer expects, when it finds something.
///
/// libFuzzer's own hook ends the process at every panic, also at one that the service expects and turns into an error, such as
/// the Parquet crate's on damaged files. Here a panic is a finding when it leaves the target, and when it is another thread's.
#[allow(
    dead_code,
    reason = "tests/repo gives the kept inputs to the targets without libFuzzer"
)]
pub fn fuzz(name: &str, input: &[u8]) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let fuzzing = thread::current().id();
        // The hook that prints the panic, in place of libFuzzer's.
        drop(panic::take_hook());
        let print = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            print(info);
            if thread::current().id() != fuzzing {
                process::abort();
            }
        }));
    });
    if panic::catch_unwind(|| run(name, input)).is_err() {
        process::abort();
    }
}

/// Runs one target.
///
/// # Panics
/// When there is no such target, and when it finds something.
pub fn run(name: &str, input: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target has this name").run)(input);
}
