//! The journal of a run, `journal.jsonl`: every result is written there as soon as it arrives.
//!
//! Each line is one entry: the first 16 hex digits of the SHA-256 of its JSON, a space, and the JSON. A line is written with
//! one call, so a process that is killed loses at most the line that it was writing. The file is synced to the disk after
//! [`SYNC_LINES`] lines or [`SYNC_TIME`], so a machine that loses power loses at most these.

use std::{
    fs::{File, OpenOptions},
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use super::results::json_line;

/// Most lines that a power cut may lose.
pub const SYNC_LINES: usize = 64;

/// Longest time that a line may wait for a sync while further lines arrive.
pub const SYNC_TIME: Duration = Duration::from_secs(1);

/// Length of a line's checksum, in hex digits.
const SUM_DIGITS: usize = 16;

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Reading or writing failed.
    #[error("cannot read or write {path}")]
    Io {
        /// The journal.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A line before the last whole one is not what was written.
    #[error(
        "{path}, line {line}: {message}. Later lines are whole, so the run was not just stopped here: the file was \
         changed. To keep what stands before it, cut the file at that line and resume"
    )]
    Corrupt {
        /// The journal.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong with the line.
        message: String,
    },
    /// Another process has the journal open.
    #[error("{0} is in use: another `bench` command works on this run")]
    Locked(PathBuf),
}

/// Where in the file the JSON of an entry is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JournalOffset {
    offset: u64,
    length: u32,
}

/// An open journal. It is locked: no other process can open it as long as this value lives.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    /// Length of the file in bytes.
    end: u64,
    /// Lines since the last sync.
    unsynced: usize,
    synced_at: Instant,
}

impl Journal {
    /// Makes a new, empty journal.
    ///
    /// # Errors
    /// [`JournalError::Io`], also when there is one already; [`JournalError::Locked`].
    pub fn create(path: &Path) -> Result<Self, JournalError> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create_new(true)
            .open(path);
        Self::locked(path, file, 0)
    }

    /// Opens a journal and hands each entry to `on_entry`, with its offset. What a killed process left half-written at the end
    /// is cut off: lines that are not whole and have no whole line after them.
    ///
    /// # Errors
    /// [`JournalError`]; `on_entry`'s errors as [`JournalError::Corrupt`].
    pub fn open<T: DeserializeOwned>(
        path: &Path,
        on_entry: &mut dyn FnMut(T, JournalOffset) -> Result<(), String>,
    ) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let file = OpenOptions::new().read(true).append(true).open(path);
        let mut journal = Self::locked(path, file, 0)?;
        let mut reader = BufReader::with_capacity(1 << 18, File::open(path).map_err(io)?);
        let mut broken: Option<(usize, String)> = None;
        let (mut offset, mut number) = (0u64, 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line).map_err(io)?;
            if read == 0 {
                break;
            }
            number += 1;
            match whole(&line) {
                Err(message) => {
                    broken.get_or_insert((number, message));
                }
                Ok(_) if broken.is_some() => break,
                Ok(text) => {
                    let at = JournalOffset {
                        offset: offset + SUM_DIGITS as u64 + 1,
                        length: text.len() as u32,
                    };
                    let taken = serde_json::from_slice(text)
                        .map_err(|error| error.to_string())
                        .and_then(|entry| on_entry(entry, at));
                    taken.map_err(|message| journal.corrupt(number, message))?;
                    journal.end = offset + read as u64;
                }
            }
            offset += read as u64;
        }
        match broken {
            // A whole line follows the broken one.
            Some((at, message)) if number > at && whole(&line).is_ok() => {
                return Err(journal.corrupt(at, message));
            }
            Some(_) => journal.file.set_len(journal.end).map_err(io)?,
            None => {}
        }
        Ok(journal)
    }

    fn locked(path: &Path, file: io::Result<File>, end: u64) -> Result<Self, JournalError> {
        let io = |source| JournalError::Io {
            path: path.to_owned(),
            source,
        };
        let file = file.map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(JournalError::Locked(path.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(io(error)),
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            end,
            unsynced: 0,
            synced_at: Instant::now(),
        })
    }

    /// Writes one entry.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn append<T: Serialize>(&mut self, entry: &T) -> Result<JournalOffset, JournalError> {
        let text = json_line(entry);
        let line = format!("{} {text}\n", checksum(text.as_bytes()));
        if let Err(error) = self.file.write_all(line.as_bytes()) {
            // A part of the line may be there, and no line may follow it. Making a file shorter needs no room on the disk.
            let _ = self.file.set_len(self.end);
            return Err(self.io(error));
        }
        let at = JournalOffset {
            offset: self.end + SUM_DIGITS as u64 + 1,
            length: text.len() as u32,
        };
        self.end += line.len() as u64;
        self.unsynced += 1;
        if self.unsynced >= SYNC_LINES || self.synced_at.elapsed() >= SYNC_TIME {
            self.sync()?;
        }
        Ok(at)
    }

    /// Waits until the disk has every line.
    ///
    /// # Errors
    /// [`JournalError::Io`].
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.file.sync_data().map_err(|e| self.io(e))?;
        self.unsynced = 0;
        self.synced_at = Instant::now();
        Ok(())
    }

    /// Reads an entry again.
    ///
    /// # Errors
    /// [`JournalError::Io`], also when the entry is not there any more.
    pub fn read<T: DeserializeOwned>(&self, at: JournalOffset) -> Result<T, JournalError> {
        let mut text = vec![0; at.length as usize];
        self.file
            .read_exact_at(&mut text, at.offset)
            .map_err(|e| self.io(e))?;
        serde_json::from_slice(&text).map_err(|error| self.io(error.into()))
    }

    fn io(&self, source: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            source,
        }
    }

    fn corrupt(&self, line: usize, message: String) -> JournalError {
        JournalError::Corrupt {
            path: self.path.clone(),
            line,
            message,
        }
    }
}

/// The JSON of a line, if the line ends and its checksum is right.
fn whole(line: &[u8]) -> Result<&[u8], String> {
    let line = line.strip_suffix(b"\n").ok_or("the line has no end")?;
    match line.split_at_checked(SUM_DIGITS) {
        Some((sum, [b' ', text @ ..])) if sum == checksum(text).as_bytes() => Ok(text),
        Some((_, [b' ', ..])) => Err("the checksum is wrong".to_owned()),
        _ => Err("there is no checksum".to_owned()),
    }
}

fn checksum(text: &[u8]) -> String {
    let hash = Sha256::digest(text);
    hash.iter()
        .take(SUM_DIGITS / 2)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn open(path: &Path) -> Result<Vec<String>, JournalError> {
        let mut read = Vec::new();
        Journal::open(path, &mut |entry: String, _| {
            read.push(entry);
            Ok(())
        })?;
        Ok(read)
    }

    fn written(path: &Path, lines: &[String]) -> Vec<JournalOffset> {
        let mut journal = Journal::create(path).expect("a new file");
        lines
            .iter()
            .map(|line| journal.append(line).expect("written"))
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// However much of the end is missing, the whole lines before it are there, and writing goes on.
        #[test]
        fn a_journal_may_end_anywhere(
            lines in proptest::collection::vec("[a-zß\\n\"]{0,12}", 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("journal");
            written(&path, &lines);
            let bytes = std::fs::read(&path).expect("there");
            let kept = cut.index(bytes.len() + 1);
            std::fs::write(&path, &bytes[..kept]).expect("written");
            let whole = bytes[..kept].iter().filter(|byte| **byte == b'\n').count();
            prop_assert_eq!(&open(&path).expect("only torn"), &lines[..whole]);
            let mut journal = Journal::open(&path, &mut |_: String, _| Ok(())).expect("mended");
            let place = journal.append(&"more").expect("written");
            prop_assert_eq!(journal.read::<String>(place).expect("readable"), "more");
            drop(journal);
            prop_assert_eq!(open(&path).expect("whole").len(), whole + 1);
        }

        /// A byte that is changed before the last line is found, with its line.
        #[test]
        fn a_changed_middle_is_refused(
            lines in proptest::collection::vec("[a-z]{1,12}", 2..8),
            at in any::<prop::sample::Index>(),
        ) {
            let folder = tempfile::tempdir().expect("a folder");
            let path = folder.path().join("journal");
            written(&path, &lines);
            let mut bytes = std::fs::read(&path).expect("there");
            let last = bytes[..bytes.len() - 1].iter().rposition(|byte| *byte == b'\n').expect("two lines");
            let at = at.index(last);
            let line = bytes[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).expect("written");
            match open(&path) {
                Err(JournalError::Corrupt { line: found, .. }) => prop_assert_eq!(found, line),
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }

    #[test]
    fn offsets_lead_back_to_entries_and_a_journal_has_one_writer() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("journal");
        let lines = ["a".to_owned(), "längst".to_owned()];
        let places = written(&path, &lines);
        let mut found = Vec::new();
        let journal = Journal::open(&path, &mut |_: String, place| {
            found.push(place);
            Ok(())
        })
        .expect("whole");
        assert_eq!(found, places);
        assert_eq!(journal.read::<String>(places[1]).expect("readable"), lines[1]);
        assert!(matches!(open(&path), Err(JournalError::Locked(_))));
    }
}
