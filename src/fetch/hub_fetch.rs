//! Fetches a model of a Hugging Face hub: a GGUF file, or a folder with safetensors, at one commit of its repository.

use std::path::{Path, PathBuf};

use super::{
    error::{FetchError, SourceError},
    listing::{Gate, Sibling, is_inside},
    model_files::{Choice, INDEX, ModelForm, choose, weights},
    model_name::{ModelName, Revision},
    progress::{Progress, Reporter},
    repository::{Commit, Fetch, Offer, Repository, RepositoryKind},
    sources::{HubAddress, NamedHub, Sources},
};
use crate::{files, secret::Secret};

/// Most bytes of an index of shards that is read. One of a model with 100,000 tensors has 10 MB.
const MAX_INDEX_BYTES: u64 = 64 << 20;

/// The folder that remembers, in a folder of the user's, what was fetched into it.
const HOME_IN_FOLDER: &str = ".babelward";

/// A model that is to be fetched.
#[derive(Debug, Clone)]
pub struct ModelFetch {
    /// Its repository, and which of its files.
    pub name: ModelName,
    /// The state of the repository.
    pub revision: Revision,
    /// Where its files are to be; in the cache if absent.
    pub to: Option<PathBuf>,
    /// The hub, if it is another than the environment names.
    pub endpoint: Option<HubAddress>,
    /// The token, if it is another than the environment has.
    pub token: Option<Secret>,
}

/// A model that is on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedModel {
    /// What `serve` is given: the GGUF file, or the folder.
    pub path: PathBuf,
    /// What that is.
    pub form: ModelForm,
    /// The commit of its repository.
    pub commit: String,
    /// Its files, the weights last.
    pub files: Vec<PathBuf>,
    /// Bytes of all its files.
    pub bytes: u64,
    /// The licence that its model card states.
    pub licence: Option<String>,
    /// Who may fetch it.
    pub gate: Gate,
}

/// Where a model comes from, and where what is known of it is kept.
pub(super) struct Place<'a> {
    pub(super) hub: &'a NamedHub,
    /// Folder of fetched models; needed if no folder of the user's is named.
    pub(super) cache: Option<&'a Path>,
}

impl ModelFetch {
    /// The newest state of a model, for the cache, from the hub that the environment names.
    pub fn new(name: ModelName) -> Self {
        Self {
            name,
            revision: Revision::default(),
            to: None,
            endpoint: None,
            token: None,
        }
    }

    /// Fetches its files that are not there yet. The hub is asked which commit the revision is; where no hub answers, what is
    /// there already is taken. Each file appears complete and checked, or not at all. Blocks; a second process waits for the first.
    ///
    /// # Errors
    /// [`FetchError::Model`], or [`FetchError::NoCacheFolder`].
    pub fn run(&self, progress: Progress) -> Result<FetchedModel, FetchError> {
        let mut hub = NamedHub::of_process();
        if let Some(endpoint) = &self.endpoint {
            hub.address = endpoint.to_string();
        }
        if let Some(token) = &self.token {
            hub.token = Some(token.clone());
        }
        // A folder of the user's needs no cache, nor a home in which it could be.
        let cache = match self.to {
            Some(_) => None,
            None => Some(Sources::of_process()?.cache),
        };
        let place = Place {
            hub: &hub,
            cache: cache.as_deref(),
        };
        let fetched = self.run_at(&place, &Reporter::new(progress, self.name.repository()));
        fetched.map_err(|error| FetchError::Model {
            name: self.name.to_string(),
            error,
        })
    }

    /// The same from a given hub into a given cache.
    pub(super) fn run_at(&self, place: &Place<'_>, reporter: &Reporter) -> Result<FetchedModel, SourceError> {
        let to = self.to.as_ref();
        let to = to.map(|to| std::path::absolute(to).unwrap_or_else(|_| to.clone()));
        let fetch = self.fetch(place, to.as_deref(), reporter);
        let commit = fetch.open()?;
        let (licence, gate) = (commit.listing.licence(), commit.listing.gate());
        reporter.note(&terms(licence.as_deref(), gate, &fetch.page()));
        let choice = choose(&commit.listing.siblings, self.name.file());
        let (form, chosen) = match choice.map_err(|why| fetch.refused(why))? {
            Choice::Gguf(file) => (ModelForm::Gguf, vec![file]),
            Choice::Folder { form, settings } => {
                // Settings first: what is wrong with them is known before the weights have come.
                commit.get(&settings)?;
                let weights = weights_of(&commit, form).map_err(|why| fetch.refused(why))?;
                (form, [settings, weights].concat())
            }
        };
        let files = commit.get(&chosen)?;
        let path = match (form, files.as_slice()) {
            (ModelForm::Gguf, [file]) => file.clone(),
            _ => commit.folder.clone(),
        };
        Ok(FetchedModel {
            path,
            form,
            commit: commit.name().to_owned(),
            bytes: bytes_of(&chosen),
            files,
            licence,
            gate,
        })
    }

    /// What the hub has of it for the cache. Nothing is fetched.
    pub(super) fn offer_at(&self, place: &Place<'_>, reporter: &Reporter) -> Result<Offer, SourceError> {
        self.fetch(place, None, reporter)
            .offer(|siblings| match choose(siblings, self.name.file())? {
                Choice::Gguf(file) => Ok(vec![file]),
                Choice::Folder { form, settings } => Ok([settings, likely_weights(siblings, form)?].concat()),
            })
    }

    fn fetch<'a>(&'a self, place: &Place<'a>, to: Option<&'a Path>, reporter: &'a Reporter) -> Fetch<'a> {
        let cached = || {
            let folder = self.name.repository().replace('/', "--");
            place.cache.unwrap_or(Path::new("")).join(folder)
        };
        Fetch {
            repository: Repository {
                kind: RepositoryKind::Model,
                name: self.name.repository(),
                revision: self.revision.as_str(),
            },
            home: to.map_or_else(cached, |to| to.join(HOME_IN_FOLDER)),
            to,
            hub: place.hub,
            reporter,
        }
    }
}

/// The weights of a folder whose settings are there.
fn weights_of(commit: &Commit<'_>, form: ModelForm) -> Result<Vec<Sibling>, String> {
    let siblings = &commit.listing.siblings;
    if !siblings.iter().any(|sibling| sibling.rfilename == INDEX) {
        return weights(siblings, form, None);
    }
    let index = files::read(&commit.folder.join(INDEX), MAX_INDEX_BYTES);
    let index = index.map_err(|error| format!("{INDEX}: {error}"))?;
    weights(siblings, form, Some(&index))
}

/// The weights of a folder by their names, before its index is there.
fn likely_weights(siblings: &[Sibling], form: ModelForm) -> Result<Vec<Sibling>, String> {
    if !siblings.iter().any(|sibling| sibling.rfilename == INDEX) {
        return weights(siblings, form, None);
    }
    let is_beside = |name: &str| is_inside(name) && !name.contains('/');
    let is_shard =
        |name: &str| is_beside(name) && name.starts_with("model-") && name.ends_with(".safetensors");
    let shards = siblings.iter().filter(|sibling| is_shard(&sibling.rfilename));
    Ok(shards.cloned().collect())
}

fn bytes_of(files: &[Sibling]) -> u64 {
    let sizes = files.iter().map(|file| file.size.unwrap_or_default());
    sizes.fold(0, u64::saturating_add)
}

/// Under which terms a model is had.
fn terms(licence: Option<&str>, gate: Gate, page: &str) -> String {
    let licence = match licence {
        Some(licence) => format!("its model card states the licence {licence} ({page})"),
        None => format!("its model card states no licence: read {page} before you use it"),
    };
    match gate {
        Gate::Open => licence,
        Gate::Agreement => format!("{licence}; its makers ask for an agreement to their terms first"),
        Gate::Review => {
            format!(
                "{licence}; its makers ask for an agreement to their terms first, and look at each request"
            )
        }
    }
}
