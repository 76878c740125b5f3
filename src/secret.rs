//! Texts that nobody may see: keys and tokens. They are never written into logs, errors or debug output.

use std::{fmt, fs, os::unix::fs::MetadataExt as _, path::Path};

use zeroize::Zeroizing;

/// What other users of the machine may not do with a file of secrets: read, write or run it; and what its group may not:
/// write it. The group may read it, because servers in containers often get their files that way.
const CLOSED: u32 = 0o027;

/// A secret text. Its debug form hides it, it has no display form, and its memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Keeps a text secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Whoever calls this must not write it anywhere that is read by others.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// Writes a warning into the log where other users of the machine may read or change a file of secrets.
pub fn warn_if_exposed(path: &Path) {
    if let Some(mode) = exposed_mode(path) {
        tracing::warn!(
            file = %path.display(),
            mode = format!("{mode:04o}"),
            "other users of this machine may read or change this file; give it the mode 0600, or 0640 for its group to read"
        );
    }
}

/// The permissions of a file that others than its owner and group may read, or others than its owner change.
fn exposed_mode(path: &Path) -> Option<u32> {
    let mode = fs::metadata(path).ok()?.mode() & 0o777;
    (mode & CLOSED != 0).then_some(mode)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_that_others_may_read_or_change_are_exposed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "").unwrap();
        for (mode, exposed) in [
            (0o600, false),
            (0o400, false),
            (0o640, false),
            (0o440, false),
            (0o644, true),
            (0o660, true),
            (0o602, true),
            (0o666, true),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(exposed_mode(&path).is_some(), exposed, "{mode:o}");
        }
        assert_eq!(exposed_mode(&folder.path().join("none")), None);
    }

    #[test]
    fn a_secret_is_not_in_its_debug_form() {
        let secret = Secret::new("open sesame".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret(hidden)");
        assert_eq!(secret.expose(), "open sesame");
    }
}
