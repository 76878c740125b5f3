//! What `.ci/run` says and returns when it does not come to its end. A stand-in for cargo ends or hangs as told.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
};

use tempfile::TempDir;

/// A folder with our `.ci/run` and a `cargo` that is this script.
fn folder(cargo: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [".ci", "bin"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(".ci/run");
    fs::copy(source, folder.path().join(".ci/run")).unwrap();
    let path = folder.path().join("bin/cargo");
    fs::write(&path, format!("#!/bin/sh\n{cargo}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn ci(folder: &TempDir) -> Command {
    let mut path = std::ffi::OsString::from(folder.path().join("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new("bash");
    command
        .arg(folder.path().join(".ci/run"))
        .env("PATH", path)
        .env("TMPDIR", folder.path())
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_stage_that_fails_is_named_and_its_code_is_the_runs() {
    let folder = folder("exit 3");
    let output = ci(&folder).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.ends_with("== FAILED in: cargo fmt (exit code 3)\n"),
        "{said}"
    );
}

#[test]
fn a_run_that_is_stopped_says_so_and_ends_what_it_runs() {
    // It holds standard output open: reading ends when it has.
    let folder = folder("echo busy; exec tail -f /dev/null");
    let mut run = ci(&folder).spawn().unwrap();
    let mut lines = BufReader::new(run.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap() == "busy"));
    // Not another signal: whoever runs the tests in the background may have told us to ignore it.
    let killed = Command::new("kill")
        .args(["-s", "TERM", &run.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(run.wait().unwrap().code(), Some(143), "{said:?}");
    assert_eq!(
        said.last().map(String::as_str),
        Some("== INTERRUPTED by SIGTERM in: cargo fmt"),
        "{said:?}"
    );
}
