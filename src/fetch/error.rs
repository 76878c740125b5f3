//! Why a file could not be fetched.

use std::path::PathBuf;

use crate::{errors::with_causes, memory::human_bytes};

/// Why a model could not be fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The environment does not say where the cache is.
    #[error("no cache folder: set HOME, or name a folder with BABELWARD_CACHE")]
    NoCacheFolder,
    /// The cache cannot be used.
    #[error("{path}: {reason}; name a folder that can be written with BABELWARD_CACHE")]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        reason: std::io::Error,
    },
    /// A prompt set could not be fetched.
    #[error(
        "the prompt set {name} could not be fetched: {}; check the network, or fetch its file elsewhere and give \
         the path",
        with_causes(error)
    )]
    Dataset {
        /// The requested name.
        name: String,
        /// What went wrong.
        error: SourceError,
    },
    /// A model could not be fetched from a hub.
    #[error(
        "the model {name} could not be fetched: {}{}",
        with_causes(error),
        if error.is_of_network() {
            "; check the network, and give the command again: it goes on with what is there"
        } else {
            ""
        }
    )]
    Model {
        /// Its name.
        name: String,
        /// What went wrong.
        error: SourceError,
    },
    /// A file could not be fetched from its address.
    #[error("{} could not be fetched: {}; check the address and the network", path.display(), with_causes(error))]
    File {
        /// Where the file was to be.
        path: PathBuf,
        /// What went wrong.
        error: SourceError,
    },
    /// A file that was to be there already is not.
    #[error("{}: {reason}; give an address with --url to fetch it", path.display())]
    NotThere {
        /// The file.
        path: PathBuf,
        /// Why it is not the file with the expected digest.
        reason: String,
    },
    /// No source has given the file.
    #[error("{}", no_source(.failures, .manual))]
    NoSource {
        /// Each source that was tried, with its error.
        failures: Vec<(&'static str, SourceError)>,
        /// Commands that do the same by hand.
        manual: String,
    },
}

fn no_source(failures: &[(&'static str, SourceError)], manual: &str) -> String {
    let mut text = "the model could not be fetched:\n".to_owned();
    for (source, error) in failures {
        text.push_str(&format!("  {source}: {}\n", with_causes(error)));
    }
    text.push_str("check the network, or put the file there yourself, on any machine that has one:\n");
    text.push_str(manual);
    text
}

/// Why one source has not given the file.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Python is missing.
    #[error("`{0}` could not be started ({1}); install Python 3 with pip")]
    NoPython(String, std::io::Error),
    /// pip or Python failed.
    #[error("{what} failed: {why}")]
    Python {
        /// The command.
        what: &'static str,
        /// The last lines that it has written.
        why: String,
    },
    /// The hub has not given the file.
    #[error("{url}: {why}")]
    Hub {
        /// The requested address.
        url: String,
        /// What went wrong.
        why: String,
    },
    /// The hub says no, or does not have what was asked for.
    #[error("{url}: {why}")]
    Refused {
        /// The requested address, or the repository's name.
        url: String,
        /// What the hub says or has, and what to do.
        why: String,
    },
    /// The disk has less room than the files need.
    #[error(
        "{} has room for {}, and {} are needed: make room there, or name another folder (--to, or BABELWARD_CACHE)",
        path.display(),
        human_bytes(*free),
        human_bytes(*needed)
    )]
    NoRoom {
        /// The folder.
        path: PathBuf,
        /// Bytes that can be written.
        free: u64,
        /// Bytes that are still to come.
        needed: u64,
    },
    /// There is another file where one is to be.
    #[error("{} is there with another content: remove it, or name another folder by --to", path.display())]
    Occupied {
        /// The file.
        path: PathBuf,
    },
    /// The content does not have the pinned digest.
    #[error("{file} has the digest {found}, expected {expected}; the source may have been tampered with")]
    WrongDigest {
        /// Name of the file.
        file: String,
        /// Its digest.
        found: String,
        /// The pinned digest.
        expected: String,
    },
    /// A file could not be written.
    #[error("cannot read or write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl SourceError {
    /// Whether the same command may succeed once the network is mended.
    pub(super) fn is_of_network(&self) -> bool {
        match self {
            Self::Hub { .. } | Self::WrongDigest { .. } => true,
            Self::NoPython(..)
            | Self::Python { .. }
            | Self::Refused { .. }
            | Self::NoRoom { .. }
            | Self::Occupied { .. }
            | Self::Io { .. } => false,
        }
    }
}
