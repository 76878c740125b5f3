//! Shows the progress of a download on stderr.

use std::{
    cell::RefCell,
    fmt,
    io::{self, IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two lines if there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

const MIB: u64 = 1 << 20;

/// Says something to the user. A download does not end because nobody can read that.
fn tell(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// How to show progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// A bar that is redrawn.
    Bar,
    /// A line from time to time.
    Lines,
    /// Nothing.
    Silent,
}

impl Progress {
    /// A bar if stderr is a terminal, otherwise lines; nothing if `quiet`.
    pub fn on_stderr(quiet: bool) -> Self {
        if quiet {
            Self::Silent
        } else if io::stderr().is_terminal() {
            Self::Bar
        } else {
            Self::Lines
        }
    }
}

/// Shows the progress of one file.
pub(super) struct Reporter {
    progress: Progress,
    file: String,
    shown: RefCell<Shown>,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Line(Instant),
}

impl Reporter {
    pub(super) fn new(progress: Progress, file: &str) -> Self {
        Self {
            progress,
            file: file.to_owned(),
            shown: RefCell::new(Shown::Nothing),
        }
    }

    /// Prints a message.
    pub(super) fn note(&self, text: &str) {
        match (&*self.shown.borrow(), self.progress) {
            (_, Progress::Silent) => {}
            (Shown::Bar(bar), _) => bar.println(format!("{}: {text}", self.file)),
            (Shown::Nothing | Shown::Line(_), _) => tell(format_args!("{}: {text}", self.file)),
        }
    }

    /// Shows that `position` of `total` bytes have arrived.
    pub(super) fn at(&self, position: u64, total: u64) {
        let shown = &mut *self.shown.borrow_mut();
        match (&mut *shown, self.progress) {
            (_, Progress::Silent) => {}
            (Shown::Bar(bar), _) => bar.set_position(position),
            (Shown::Nothing, Progress::Bar) => {
                let bar = ProgressBar::new(total)
                    .with_style(style())
                    .with_prefix(self.file.clone());
                bar.set_position(position);
                bar.reset_eta();
                *shown = Shown::Bar(bar);
            }
            (Shown::Nothing, Progress::Lines) => {
                self.line(position, total);
                *shown = Shown::Line(Instant::now());
            }
            (Shown::Line(last), _) => {
                if last.elapsed() >= LINE_EVERY {
                    self.line(position, total);
                    *last = Instant::now();
                }
            }
        }
    }

    /// Removes the bar, because this source is done.
    pub(super) fn finish(&self) {
        if let Shown::Bar(bar) = self.shown.replace(Shown::Nothing) {
            bar.finish_and_clear();
        }
    }

    fn line(&self, position: u64, total: u64) {
        tell(format_args!(
            "{}: {} of {} MiB",
            self.file,
            position / MIB,
            total / MIB
        ));
    }
}

fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
