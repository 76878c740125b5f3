//! Tests of what belongs to a whole process, such as its memory or its metrics, in a process of their own.

use std::{
    env,
    process::{Command, Stdio},
};

/// Names the test for which a process was started.
const VARIABLE: &str = "BABELWARD_TEST_ALONE";

/// Runs the body of `test` in a further process of this program that runs nothing else. `test` is its whole name, as
/// `--list` writes it.
pub fn alone(test: &str, body: impl FnOnce()) {
    if env::var_os(VARIABLE).is_some_and(|started_for| started_for == test) {
        return body();
    }
    let output = Command::new(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(VARIABLE, test)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(
        output.status.success() && stdout.contains("test result: ok. 1 passed"),
        "{test} failed in a process of its own:\n{stdout}\n{stderr}"
    );
}
