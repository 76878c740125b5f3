//! Python clients, with the packages that files beside their scripts list.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

/// The folder with the packages of `tests/clients/requirements.txt`; installed once.
pub static PACKAGES: LazyLock<PathBuf> = LazyLock::new(|| installed("tests/clients/requirements.txt"));

/// The folder with the packages of this file of the repository.
pub fn installed(requirements: &str) -> PathBuf {
    let mut install = script("tests/clients/install.py");
    install
        .arg(env!("CARGO_TARGET_TMPDIR"))
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(requirements))
        .stderr(Stdio::inherit());
    let done = install
        .output()
        .expect("python3 runs: these tests need python3 and pip");
    assert!(
        done.status.success(),
        "the Python clients could not be installed: pip's message is above. This test needs pip and a package index."
    );
    PathBuf::from(String::from_utf8_lossy(&done.stdout).trim())
}

/// A script of the repository.
pub fn script(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new("python3");
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(path))
        .stdin(Stdio::null());
    command
}
