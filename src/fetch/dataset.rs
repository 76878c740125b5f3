//! Fetches a prompt set from a Hugging Face hub: each of its files at one revision, once.

use std::path::PathBuf;

use super::{
    error::{FetchError, SourceError},
    listing::{Sibling, is_inside},
    progress::{Progress, Reporter},
    repository::{Fetch, Repository, RepositoryKind},
    sources::Sources,
};

/// File name extensions of prompt sets.
const ENDINGS: [&str; 5] = ["parquet", "jsonl", "json", "csv", "tsv"];

/// JSON files that describe a prompt set and contain no prompts.
const NOT_DATA: [&str; 4] = [
    "dataset_infos.json",
    "dataset_info.json",
    "state.json",
    "croissant.json",
];

/// The name of a prompt set on a hub: `OWNER/NAME`, optionally followed by `@REVISION`, `/FILE` or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubDataset {
    repository: String,
    revision: String,
    /// The file; if absent, the only file of the set, or all its parts.
    file: Option<String>,
}

impl HubDataset {
    /// Parses a name.
    ///
    /// # Errors
    /// Describes what a name looks like.
    pub fn parse(name: &str) -> Result<Self, String> {
        let expected = "expected OWNER/NAME, such as felfri/M-ALERT, and after it @REVISION, /FILE or both";
        let mut parts = name.splitn(3, '/');
        let (Some(owner), Some(name), file) = (parts.next(), parts.next(), parts.next()) else {
            return Err(expected.to_owned());
        };
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        let plain = |text: &str| {
            let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            !text.is_empty() && !text.starts_with('.') && text.chars().all(known)
        };
        let file_is_plain = file.is_none_or(is_inside);
        if !plain(owner) || !plain(name) || !plain(revision) || !file_is_plain {
            return Err(expected.to_owned());
        }
        Ok(Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            file: file.map(ToOwned::to_owned),
        })
    }
}

/// A prompt set in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedDataset {
    /// `OWNER/NAME@COMMIT`, with the file if one was named.
    pub name: String,
    /// Paths of its files, in order.
    pub files: Vec<PathBuf>,
}

/// Fetches the files of a prompt set that are not in the cache.
///
/// # Errors
/// [`FetchError::Dataset`], or [`FetchError::NoCacheFolder`].
pub fn fetch_dataset(wanted: &HubDataset, progress: Progress) -> Result<FetchedDataset, FetchError> {
    fetch(wanted, &Sources::of_process()?, progress)
}

/// The same from given sources.
pub(super) fn fetch(
    wanted: &HubDataset,
    sources: &Sources,
    progress: Progress,
) -> Result<FetchedDataset, FetchError> {
    let reporter = Reporter::new(progress, &wanted.repository);
    fetch_all(wanted, sources, &reporter).map_err(|error| FetchError::Dataset {
        name: wanted.repository.clone(),
        error,
    })
}

fn fetch_all(
    wanted: &HubDataset,
    sources: &Sources,
    reporter: &Reporter,
) -> Result<FetchedDataset, SourceError> {
    let HubDataset {
        repository,
        revision,
        file,
    } = wanted;
    let fetch = Fetch {
        repository: Repository {
            kind: RepositoryKind::Dataset,
            name: repository,
            revision,
        },
        home: sources.datasets.join(repository.replace('/', "--")),
        to: None,
        hub: &sources.hub,
        reporter,
    };
    let choose = |siblings: &[Sibling]| choose(siblings, file.as_deref());
    let fetched = fetch.run(choose)?;
    let suffix = file.as_ref().map(|file| format!("/{file}")).unwrap_or_default();
    Ok(FetchedDataset {
        name: format!("{repository}@{}{suffix}", fetched.commit),
        files: fetched.files,
    })
}

/// The named file, or the only file of the set, or all its parts.
fn choose(siblings: &[Sibling], file: Option<&str>) -> Result<Vec<Sibling>, String> {
    let mut data: Vec<&Sibling> = siblings
        .iter()
        .filter(|sibling| is_data(&sibling.rfilename) && is_inside(&sibling.rfilename))
        .collect();
    data.sort_by(|a, b| a.rfilename.cmp(&b.rfilename));
    let names = || {
        let names: Vec<_> = data.iter().map(|sibling| sibling.rfilename.as_str()).collect();
        names.join(", ")
    };
    if let Some(file) = file {
        let found = data.iter().find(|sibling| sibling.rfilename == file);
        return match found {
            Some(found) => Ok(vec![(*found).clone()]),
            None => Err(format!("there is no file {file}; there are {}", names())),
        };
    }
    let stems: Vec<_> = data.iter().map(|sibling| part_stem(&sibling.rfilename)).collect();
    let one_set = stems
        .first()
        .is_some_and(|first| first.is_some() && stems.iter().all(|stem| stem == first));
    match data.as_slice() {
        [] => Err("there is no file of prompts (.parquet, .jsonl, .json, .csv, .tsv)".to_owned()),
        [_] => Ok(data.into_iter().cloned().collect()),
        _ if one_set => Ok(data.into_iter().cloned().collect()),
        _ => Err(format!(
            "there are several files, name one as OWNER/NAME/FILE: {}",
            names()
        )),
    }
}

fn is_data(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let ending = file.rsplit_once('.').map(|(_, ending)| ending);
    !NOT_DATA.contains(&file) && ending.is_some_and(|ending| ENDINGS.contains(&ending))
}

/// The name and extension without the part number: `data/train` and `parquet` for
/// `data/train-00000-of-00002.parquet`.
fn part_stem(name: &str) -> Option<(&str, &str)> {
    let (stem, ending) = name.rsplit_once('.')?;
    let (rest, count) = stem.rsplit_once("-of-")?;
    let (stem, part) = rest.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (digits(count) && digits(part)).then_some((stem, ending))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn siblings(names: &[&str]) -> Vec<Sibling> {
        let sibling = |name: &&str| Sibling {
            rfilename: (*name).to_owned(),
            size: Some(1),
            blob: None,
            lfs: None,
        };
        names.iter().map(sibling).collect()
    }

    fn chosen(names: &[&str], file: Option<&str>) -> Result<Vec<String>, String> {
        let chosen = choose(&siblings(names), file)?;
        Ok(chosen.into_iter().map(|sibling| sibling.rfilename).collect())
    }

    #[test]
    fn names_are_parsed() {
        let name = HubDataset::parse("felfri/M-ALERT@abc/data/train.parquet").unwrap();
        assert_eq!(name.repository, "felfri/M-ALERT");
        assert_eq!(name.revision, "abc");
        assert_eq!(name.file.as_deref(), Some("data/train.parquet"));
        assert_eq!(HubDataset::parse("a/b").unwrap().revision, "main");
        for wrong in [
            "a",
            "a/",
            "a/b/../../c",
            "a/b//c",
            "a/../b",
            "a b/c",
            "a/b/c?d",
            "a/b@",
        ] {
            assert!(HubDataset::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_files_of_a_set_are_found_or_named_in_the_error() {
        let alert = [
            "README.md",
            "alert.jsonl",
            "alert_adversarial.jsonl",
            "dataset_infos.json",
        ];
        assert!(
            chosen(&alert, None)
                .unwrap_err()
                .contains("alert.jsonl, alert_adversarial.jsonl")
        );
        assert_eq!(chosen(&alert, Some("alert.jsonl")).unwrap(), ["alert.jsonl"]);
        assert!(
            chosen(&alert, Some("alert.csv"))
                .unwrap_err()
                .contains("no file alert.csv")
        );
        let parts = [
            "data/train-00001-of-00002.parquet",
            "data/train-00000-of-00002.parquet",
            ".gitattributes",
        ];
        assert_eq!(chosen(&parts, None).unwrap(), [parts[1], parts[0]]);
        assert_eq!(chosen(&["README.md", "x.csv"], None).unwrap(), ["x.csv"]);
        assert!(chosen(&["README.md"], None).is_err());
        assert!(
            chosen(&["../x.csv"], None).is_err(),
            "a hub cannot write outside the cache"
        );
    }
}
