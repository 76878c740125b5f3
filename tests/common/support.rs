//! Runs the binary in an environment of its own.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
};

/// What a run left behind.
pub struct Outcome {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The binary with nothing of ours in its environment, in this folder, which is also its home.
pub fn command(folder: &Path) -> Command {
    program(env!("CARGO_BIN_EXE_babelward"), folder)
}

/// The same for another program.
pub fn program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(name);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BABELWARD_") {
            command.env_remove(name);
        }
    }
    command
        .current_dir(folder)
        .env("HOME", folder)
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_CACHE_HOME")
        .env_remove("NO_COLOR")
        .stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Outcome {
    outcome(command.output().unwrap())
}

/// Runs a command to its end, with this text as its standard input.
pub fn run_with_input(command: &mut Command, input: &str) -> Outcome {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    outcome(child.wait_with_output().unwrap())
}

fn outcome(output: Output) -> Outcome {
    Outcome {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A server that runs, and what it says on stderr.
pub struct Server {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

impl Server {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            lines,
            said: Vec::new(),
        }
    }

    /// One whose stderr the test has sent elsewhere.
    pub fn silent(command: &mut Command) -> Self {
        Self {
            child: command.stdout(Stdio::piped()).spawn().unwrap(),
            lines: mpsc::channel().1,
            said: Vec::new(),
        }
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for a line with this in it; panics when the server ends without one.
    pub fn wait_for(&mut self, part: &str) -> String {
        if let Some(line) = self.said.iter().find(|line| line.contains(part)) {
            return line.clone();
        }
        for line in self.lines.iter() {
            self.said.push(line.clone());
            if line.contains(part) {
                return line;
            }
        }
        panic!("the server never said `{part}`:\n{}", self.said.join("\n"));
    }

    /// The URL in the line with this title.
    pub fn url(&mut self, title: &str) -> String {
        let line = self.wait_for(title);
        let url = line
            .split_whitespace()
            .find(|word| word.starts_with("http://") || word.starts_with("https://"));
        url.unwrap_or_else(|| panic!("no URL in `{line}`")).to_owned()
    }

    /// Every line so far.
    pub fn said(&self) -> &[String] {
        &self.said
    }

    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &id])
                .status()
                .unwrap()
                .success()
        );
    }

    /// Waits for its end; everything it said on stderr and stdout.
    pub fn end(&mut self) -> (ExitStatus, String, String) {
        let status = self.child.wait().unwrap();
        self.said.extend(self.lines.iter());
        let stdout = std::io::read_to_string(self.child.stdout.take().unwrap()).unwrap();
        (status, self.said.join("\n"), stdout)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
