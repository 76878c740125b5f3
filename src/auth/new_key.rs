//! Makes API keys, and adds them to and removes them from the file of keys.

use std::{
    fmt::Write as _,
    fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rand::TryRng as _;

use super::{
    Scopes,
    key_file::{self, KeyFileError},
};
use crate::{digest, engine::Tenant, secret::Secret};

/// What every key begins with, so that people and programs that look for leaked secrets recognise one.
const PREFIX: &str = "bw_";

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
        "{PREFIX}{}",
        URL_SAFE_NO_PAD.encode(&bytes[..])
    )))
}

/// Adds the hash of a key to the file, which is made if there is none. Other entries and comments stay as they are.
///
/// # Errors
/// When the file cannot be read or written, is not a file of keys, or has an entry with this id.
pub fn append_key(path: &Path, key: &Secret, entry: &NewKey) -> Result<(), KeyFileError> {
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
    replace(path, &text)
}

/// Removes the entry with this id, and whether there was one. The rest of the file stays as it is.
///
/// # Errors
/// When the file cannot be read or written, or is not a file of keys.
pub fn remove_key(path: &Path, id: &str) -> Result<bool, KeyFileError> {
    let text = text_of(path)?;
    let mut kept = String::new();
    let mut found = false;
    for part in entries(&text) {
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
        replace(path, &kept)?;
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

/// The text in parts, each with at most one entry: whatever precedes the first, and then each from its header on.
fn entries(text: &str) -> Vec<&str> {
    let mut starts = vec![0];
    let mut position = 0;
    for line in text.split_inclusive('\n') {
        if line.trim_start().starts_with("[[") && position > 0 {
            starts.push(position);
        }
        position += line.len();
    }
    starts.push(text.len());
    starts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect()
}

/// Replaces the file at once, so that a server that reads it meanwhile finds all of the old or all of the new text.
fn replace(path: &Path, text: &str) -> Result<(), KeyFileError> {
    key_file::table(path, &key_file::parse(path, text.as_bytes())?)?;
    write_beside(path, text).map_err(|reason| KeyFileError::Unwritable {
        path: path.to_owned(),
        reason,
    })
}

fn write_beside(path: &Path, text: &str) -> io::Result<()> {
    // Where the name is a link, what it points to is replaced.
    let target = match fs::canonicalize(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
        Err(error) => return Err(error),
    };
    // Hashes of keys are nobody else's business, so the owner alone may read a new file.
    let mode = fs::metadata(&target).map_or(0o600, |metadata| metadata.permissions().mode() & 0o777);
    let mut name = target.clone().into_os_string();
    name.push(".new");
    let beside = std::path::PathBuf::from(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .and_then(|()| fs::rename(&beside, &target));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Scope;

    fn entry(id: &str) -> NewKey {
        NewKey {
            id: id.to_owned(),
            tenant: Tenant::named("team").unwrap(),
            scopes: [Scope::Classify, Scope::Score].into_iter().collect(),
            expires: None,
        }
    }

    #[test]
    fn keys_have_256_bits_and_are_never_the_same() {
        let [one, two] = [(); 2].map(|()| generate_key().unwrap());
        assert_ne!(one.expose(), two.expose());
        let bits = URL_SAFE_NO_PAD.decode(one.expose().strip_prefix("bw_").unwrap());
        assert_eq!(bits.unwrap().len(), 32);
    }

    #[test]
    fn keys_are_added_and_removed_and_everything_else_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let key = generate_key().unwrap();
        append_key(&path, &key, &entry("first")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let written = fs::read_to_string(&path).unwrap();
        assert!(!written.contains(key.expose()), "{written}");
        fs::write(&path, format!("# ours\n{written}")).unwrap();
        let later = NewKey {
            expires: Some("2030-01-01T00:00:00Z".parse().unwrap()),
            ..entry("second")
        };
        append_key(&path, &generate_key().unwrap(), &later).unwrap();
        let before = fs::read_to_string(&path).unwrap();
        let twice = append_key(&path, &generate_key().unwrap(), &entry("second")).unwrap_err();
        assert!(twice.to_string().contains("another entry has this id"), "{twice}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        let listed = listed_keys(&path).unwrap();
        let [first, second] = &listed[..] else {
            panic!("{listed:?}");
        };
        assert_eq!(first, &["first", "key", "team", "classify,score", "never"]);
        assert_eq!(second[4], "2030-01-01T00:00:00Z");
        assert!(remove_key(&path, "first").unwrap());
        assert!(!remove_key(&path, "first").unwrap());
        let left = fs::read_to_string(&path).unwrap();
        assert!(left.starts_with("# ours\n") && left.contains("second"), "{left}");
        assert_eq!(listed_keys(&path).unwrap().len(), 1);
    }
}
