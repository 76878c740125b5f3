//! Makes API keys, and adds them to and removes them from the file of keys.

use std::{
    fmt::Write as _,
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::TryRng as _;

use super::{
    Scopes,
    key_file::{self, KEY_PREFIX, KeyFileError},
};
use crate::{digest, engine::Tenant, secret::Secret};

/// How often, and how long in between, a command asks whether another one has finished its change of the file.
const LOCK_TRIES: u32 = 200;
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// What is written into the file for a new key.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Its name in the file.
    pub id: String,
    /// Its tenant.
    pub tenant: Tenant,
    /// What it may do.
    pub scopes: Scopes,
    /// When it stops being valid.
    pub expires: Option<jiff::Timestamp>,
}

/// A new key of 256 bits from the system's source of random numbers.
///
/// # Errors
/// When the system has no random numbers.
pub fn generate_key() -> io::Result<Secret> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    rand::rngs::SysRng
        .try_fill_bytes(bytes.as_mut())
        .map_err(io::Error::other)?;
    Ok(Secret::new(format!(
        "{KEY_PREFIX}{}",
        URL_SAFE_NO_PAD.encode(&bytes[..])
    )))
}

/// Adds the hash of a key to the file, which is made if there is none. Other entries and comments stay as they are.
///
/// # Errors
/// When the file cannot be read or written, is not a file of keys, or has an entry with this id.
pub fn append_key(path: &Path, key: &Secret, entry: &NewKey) -> Result<(), KeyFileError> {
    let change = Change::begin(path)?;
    let mut text = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        _ => text_of(path)?,
    };
    if !text.is_empty() {
        text.push_str(if text.ends_with('\n') { "\n" } else { "\n\n" });
    }
    let hash = digest::of_bytes(key.expose());
    let hash = hash.trim_start_matches("sha256:");
    let scopes: Vec<_> = entry
        .scopes
        .iter()
        .map(|scope| format!("\"{}\"", scope.name()))
        .collect();
    // Ids, tenants and scopes have no character that TOML would have to escape; the check below makes sure.
    let _ = write!(
        text,
        "[[keys]]\nid = \"{}\"\nsha256 = \"{hash}\"\ntenant = \"{}\"\nscopes = [{}]\n",
        entry.id,
        entry.tenant,
        scopes.join(", ")
    );
    if let Some(expires) = entry.expires {
        let _ = writeln!(text, "expires = \"{expires}\"");
    }
    change.finish(&text)
}

/// Removes the entry with this id, and whether there was one. The rest of the file stays as it is, and so do the comments
/// above and below the entry.
///
/// # Errors
/// When the file cannot be read or written, or is not a file of keys.
pub fn remove_key(path: &Path, id: &str) -> Result<bool, KeyFileError> {
    let change = Change::begin(path)?;
    let text = text_of(path)?;
    let mut kept = String::new();
    let mut found = false;
    for part in parts(&text) {
        let entry = key_file::parse(path, part.as_bytes())?;
        if entry.keys.len() + entry.certificates.len() > 1 {
            return Err(KeyFileError::Format {
                path: path.to_owned(),
                reason: "several entries are in one list; give each a [[keys]] of its own".to_owned(),
            });
        }
        let ids = entry.keys.iter().map(|key| &key.id);
        let ids = ids.chain(entry.certificates.iter().map(|certificate| &certificate.id));
        if ids.into_iter().any(|other| other == id) {
            found = true;
        } else {
            kept.push_str(part);
        }
    }
    if found {
        change.finish(&kept)?;
    }
    Ok(found)
}

/// The ids, tenants, scopes and ends of all entries.
///
/// # Errors
/// When the file cannot be read or is not a file of keys.
pub fn listed_keys(path: &Path) -> Result<Vec<[String; 5]>, KeyFileError> {
    let (file, _) = key_file::read(path)?;
    key_file::table(path, &file)?;
    let keys = file.keys.into_iter().map(|key| {
        let expires = key.expires.unwrap_or_else(|| "never".to_owned());
        [
            key.id,
            "key".to_owned(),
            key.tenant,
            key.scopes.join(","),
            expires,
        ]
    });
    let certificates = file.certificates.into_iter().map(|entry| {
        let expires = "as it says".to_owned();
        [
            entry.id,
            "certificate".to_owned(),
            entry.tenant,
            entry.scopes.join(","),
            expires,
        ]
    });
    Ok(keys.chain(certificates).collect())
}

fn text_of(path: &Path) -> Result<String, KeyFileError> {
    let (file, bytes) = key_file::read(path)?;
    key_file::table(path, &file)?;
    // It was parsed as UTF-8.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The text in parts, each with at most one entry: an entry goes from its header to its last line, and what is between two
/// entries is a part of its own, because comments there may be about either of them.
fn parts(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let (mut position, mut in_entry, mut end_of_entry) = (0, false, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim_start();
        if content.starts_with("[[") {
            starts.extend(in_entry.then_some(end_of_entry));
            starts.push(position);
            in_entry = true;
        }
        position += line.len();
        if !content.is_empty() && !content.starts_with('#') {
            end_of_entry = position;
        }
    }
    starts.extend(in_entry.then_some(end_of_entry));
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// A change of the file, from before it is read until it is written. Others who want to change a file of the same folder
/// wait meanwhile, so that two commands do not each write what they have read and lose what the other has written.
struct Change<'a> {
    path: &'a Path,
    /// The file itself, where the path is a link.
    target: PathBuf,
    /// The folder, which is locked. The file cannot be, because every change puts a new one in its place.
    folder: File,
}

impl<'a> Change<'a> {
    fn begin(path: &'a Path) -> Result<Self, KeyFileError> {
        let begun = || {
            let target = match fs::canonicalize(path) {
                Ok(target) => target,
                Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
                Err(error) => return Err(error),
            };
            let folder = File::open(folder_of(&target))?;
            lock(&folder)?;
            Ok((target, folder))
        };
        let (target, folder) = begun().map_err(|reason| unwritable(path, reason))?;
        Ok(Self { path, target, folder })
    }

    /// Replaces the file at once, so that a server that reads it meanwhile finds all of the old or all of the new text.
    fn finish(self, text: &str) -> Result<(), KeyFileError> {
        key_file::table(self.path, &key_file::parse(self.path, text.as_bytes())?)?;
        self.write(text).map_err(|reason| unwritable(self.path, reason))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        // Its name is new, so that what a command has left that was killed is in nobody's way. The owner alone may read it,
        // because hashes of keys are nobody else's business.
        let mut beside = tempfile::Builder::new()
            .prefix(".keys-")
            .tempfile_in(folder_of(&self.target))?;
        if let Ok(old) = fs::metadata(&self.target) {
            same_access(beside.as_file(), &old)?;
        }
        beside.write_all(text.as_bytes())?;
        beside.as_file().sync_all()?;
        beside.persist(&self.target)?;
        // Otherwise a revoked key might be back when the machine loses its power now.
        self.folder.sync_all()
    }
}

/// Gives a new file the owner, group and permissions of the one that it replaces. Without that, a server of another user
/// could not read it, and would go on with the keys that it has read before, revoked ones too.
fn same_access(new: &File, old: &fs::Metadata) -> io::Result<()> {
    let is = new.metadata()?;
    if (is.uid(), is.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid())).map_err(|error| {
            let (uid, gid) = (old.uid(), old.gid());
            let reason = format!(
                "it belongs to user {uid} and group {gid}, to whom a new file cannot be given ({error}); run the command \
                 as that user or as root"
            );
            io::Error::new(error.kind(), reason)
        })?;
    }
    new.set_permissions(fs::Permissions::from_mode(old.mode() & 0o777))
}

fn folder_of(target: &Path) -> &Path {
    let parent = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    parent.unwrap_or(Path::new("."))
}

/// Locks the folder until the file handle is closed, which the end of the process does too.
fn lock(folder: &File) -> io::Result<()> {
    for _ in 0..LOCK_TRIES {
        match folder.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    let reason =
        "another command has been changing a file in the same folder for 10 s; try again when it has ended";
    Err(io::Error::new(io::ErrorKind::ResourceBusy, reason))
}

fn unwritable(path: &Path, reason: io::Error) -> KeyFileError {
    KeyFileError::Unwritable {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
#[path = "new_key_tests.rs"]
mod tests;
