//! Reads files that others have written and may change at any moment. Opening one never blocks, and every length is checked.
//!
//! Files are not mapped into memory: reading a mapped page that the file no longer has ends the process with a signal, while
//! reading past the end of a file is an error.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write as _},
    os::unix::fs::{FileExt, MetadataExt as _, OpenOptionsExt},
    path::Path,
};

/// Opens a regular file for reading. Pipes, devices, sockets and folders are refused, because opening or reading one could
/// block for ever.
///
/// # Errors
/// When there is no such file, it may not be read, or it is not a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    // Checked before it is opened, because opening a device can have effects.
    regular(&std::fs::metadata(path)?)?;
    // If it has become a pipe since, opening it does not block.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)?;
    regular(&file.metadata()?)?;
    Ok(file)
}

fn regular(metadata: &std::fs::Metadata) -> io::Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    let reason = "it is not a regular file";
    Err(io::Error::new(io::ErrorKind::InvalidInput, reason))
}

/// Reads a regular file that has at most `limit` bytes.
///
/// # Errors
/// As [`open`], and when the file is larger.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than the limit is read, to detect a file that is too large even if it grows meanwhile.
    open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let reason = format!("it has more than {limit} bytes, which is the limit for such a file");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// Reads the text of a regular file that has at most `limit` bytes.
///
/// # Errors
/// As [`read`], and when it is not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("it is not UTF-8: {error}")))
}

/// Writes a file as a whole: under its name there is always the old content or the new one, and never a part of either. What
/// is no regular file, such as a pipe or a terminal, is written to as it is.
///
/// # Errors
/// When the system cannot write it, for example because the disk is full. What was written beside it is removed then.
pub fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let before = std::fs::metadata(path);
    if before.as_ref().is_ok_and(|metadata| !metadata.is_file()) {
        return std::fs::write(path, bytes);
    }
    // What a link points to is replaced, and not the link.
    let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut beside = target.clone().into_os_string();
    beside.push(".partial");
    let write = || {
        let mut file = File::create(&beside)?;
        if let Ok(before) = &before {
            file.set_permissions(before.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, &target)
    };
    write().inspect_err(|_| {
        // If it was never created, there is nothing to remove.
        let _ = std::fs::remove_file(&beside);
    })
}

/// Which file a path named at a moment, and when it was last changed. Two equal stamps mean that its content was the same,
/// within the resolution of the file system's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    /// Seconds and nanoseconds of the last change of the content or of the file's own record.
    changed: [i64; 2],
}

impl Stamp {
    /// The stamp of the file that `path` names now.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::metadata(path)?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            changed: [metadata.ctime(), metadata.ctime_nsec()],
        })
    }
}

/// A regular file that is read in pieces at any offset. Threads may share it.
#[derive(Debug)]
pub struct Pieces {
    file: File,
    len: u64,
}

impl Pieces {
    /// Opens the file and records its length.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// Length of the file in bytes when it was opened.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether the file was empty when it was opened.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Fills `out` with the bytes from `offset` on.
    ///
    /// # Errors
    /// When the file cannot be read or has too few bytes. The error says if it has become shorter since it was opened.
    pub fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset).map_err(|error| {
            if error.kind() != io::ErrorKind::UnexpectedEof {
                return error;
            }
            let (end, len) = (offset.saturating_add(out.len() as u64), self.len);
            let reason = match self.file.metadata() {
                Ok(now) if now.len() < len => format!(
                    "the file was cut from {len} to {} bytes while it was being read",
                    now.len()
                ),
                _ => format!("the file has {len} bytes, and byte {end} was to be read"),
            };
            io::Error::new(io::ErrorKind::UnexpectedEof, reason)
        })
    }

    /// Reads the bytes of the file one after the other, from the beginning.
    pub fn from_start(&self) -> FromStart<'_> {
        FromStart {
            pieces: self,
            position: 0,
        }
    }
}

/// Reads a file from the beginning, see [`Pieces::from_start`].
#[derive(Debug)]
pub struct FromStart<'a> {
    pieces: &'a Pieces,
    position: u64,
}

impl Read for FromStart<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.pieces.file.read_at(out, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_not_regular_are_refused_without_blocking() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
        assert!(made.success());
        for path in [&pipe, Path::new("/dev/zero"), folder.path()] {
            let error = open(path).unwrap_err();
            assert!(error.to_string().contains("regular file"), "{path:?}: {error}");
            assert!(Pieces::open(path).is_err() && read(path, 10).is_err());
        }
    }

    #[test]
    fn a_file_is_written_as_a_whole_through_links_and_into_what_is_no_file() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("report"), folder.path().join("link"));
        write_whole(&path, b"old").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        write_whole(&link, b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert!(link.is_symlink());
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        write_whole(Path::new("/dev/null"), b"gone").unwrap();
        assert_eq!(
            write_whole(Path::new("/dev/full"), b"more").unwrap_err().kind(),
            io::ErrorKind::StorageFull
        );
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_over_its_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("text");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read_text(&path, 5).unwrap(), "12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(
            read_text(&path, 5).unwrap_err().kind(),
            io::ErrorKind::InvalidData
        );
    }

    #[test]
    fn a_file_that_is_cut_while_it_is_read_is_an_error_that_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        std::fs::write(&path, [7; 100]).unwrap();
        let pieces = Pieces::open(&path).unwrap();
        let mut out = [0; 10];
        pieces.read_at(90, &mut out).unwrap();
        assert_eq!(out, [7; 10]);
        let beyond = pieces.read_at(91, &mut out).unwrap_err().to_string();
        assert!(beyond.contains("has 100 bytes"), "{beyond}");
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(95)
            .unwrap();
        let cut = pieces.read_at(90, &mut out).unwrap_err().to_string();
        assert!(cut.contains("cut from 100 to 95 bytes"), "{cut}");
    }
}
