//! Shows that a row belongs to a run without the run's other rows: the row, and the hashes by which the root of the run's Merkle tree
//! follows from it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
};

use serde::{Deserialize, Serialize};

use crate::{
    bench::{
        results::{
            FolderError, ItemRecord, ResultsTree, RowHash, RunFolder, audit_path, root_from, row_hash,
        },
        scores::validation::item_name,
    },
    digest,
};

/// The file with the rows.
const RESULTS: &str = "results.jsonl";

/// The version of the format.
const FORMAT: &str = "babelward-row-proof/1";

/// A row of a run with its place in the run's Merkle tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowProof {
    /// The version of the format.
    format: String,
    /// The row's name: the prompt's id, the language and the seed.
    pub item: String,
    /// The row exactly as it stands in `results.jsonl`, without its line break.
    pub row: String,
    /// Its place in the file, from 0.
    pub index: u64,
    /// The tree that it is in.
    pub tree: ResultsTree,
    /// `sha256:<hex>` of the nodes beside the way from the row to the root, the nearest first.
    pub path: Vec<String>,
}

/// Why there is no proof of a row.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The run cannot be read.
    #[error(transparent)]
    Run(#[from] FolderError),
    /// The run has no such row.
    #[error(
        "the run has no row `{0}`: a row is named by its prompt's id, its language and its seed, such as 17/de/0"
    )]
    NoSuchRow(String),
    /// The run's root is not that of its rows.
    #[error(
        "the root in run.json is not that of the rows of results.jsonl: it was changed after the run wrote it"
    )]
    OtherRoot,
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProofRefusal {
    /// It was made by another version of this program.
    #[error("the format is `{0}`, this program reads `{FORMAT}`")]
    Format(String),
    /// The row is no row of results.
    #[error("the row is no record of a run")]
    NoRecord,
    /// The row is another one than the proof says.
    #[error("the row is that of {has}, not of {item}")]
    OtherItem {
        /// The name in the proof.
        item: String,
        /// The name in the row.
        has: String,
    },
    /// The path does not lead from the row to the proof's own root.
    #[error("the path does not lead from the row to the root: the row, its place or the path was changed")]
    OtherRow,
    /// The proof is of another run.
    #[error("the root is {has}, not {wanted}: the proof is of another run, or of other results of it")]
    OtherTree {
        /// The root that was asked for.
        wanted: String,
        /// The proof's.
        has: String,
    },
}

impl RowProof {
    /// Makes the proof of a row of a complete run.
    ///
    /// # Errors
    /// [`ProofError`].
    pub fn of(folder: &RunFolder, item: &str) -> Result<Self, ProofError> {
        let info = folder.complete_info()?;
        let mut leaves: Vec<RowHash> = Vec::new();
        let mut found = None;
        let unreadable = |source| FolderError::Io {
            path: folder.file(RESULTS),
            source,
        };
        let file = File::open(folder.file(RESULTS)).map_err(unreadable)?;
        for line in BufReader::new(file).lines() {
            let line = line.map_err(unreadable)?;
            leaves.push(row_hash(line.as_bytes()));
            let record: ItemRecord = serde_json::from_str(&line)
                .map_err(|error| folder.invalid(RESULTS, leaves.len(), error.to_string()))?;
            if item_name(&record) == item {
                found = Some((leaves.len() - 1, line));
            }
        }
        let (index, row) = found.ok_or_else(|| ProofError::NoSuchRow(item.to_owned()))?;
        let path = audit_path(&leaves, index);
        let root = leaves
            .get(index)
            .and_then(|leaf| root_from(*leaf, index as u64, leaves.len() as u64, &path))
            .ok_or(ProofError::OtherRoot)?;
        let tree = ResultsTree {
            root: digest::of_hash(&root),
            rows: leaves.len() as u64,
        };
        if info.results_tree.as_ref().is_some_and(|written| *written != tree) {
            return Err(ProofError::OtherRoot);
        }
        Ok(Self {
            format: FORMAT.to_owned(),
            item: item.to_owned(),
            row,
            index: index as u64,
            tree,
            path: path.iter().map(digest::of_hash).collect(),
        })
    }

    /// Checks that the row belongs to the tree with this root, which must come from somebody who is trusted to know it. A root does
    /// not state the number of rows (RFC 6962 signs both), so the number and the place are only as good as the proof's word.
    ///
    /// # Errors
    /// [`ProofRefusal`].
    pub fn verify(&self, root: &str) -> Result<ItemRecord, ProofRefusal> {
        if self.format != FORMAT {
            return Err(ProofRefusal::Format(self.format.clone()));
        }
        let record: ItemRecord = serde_json::from_str(&self.row).map_err(|_| ProofRefusal::NoRecord)?;
        let has = item_name(&record);
        if has != self.item {
            return Err(ProofRefusal::OtherItem {
                item: self.item.clone(),
                has,
            });
        }
        let path: Option<Vec<RowHash>> = self.path.iter().map(|node| digest::hash_of(node)).collect();
        let found = path
            .and_then(|path| root_from(row_hash(self.row.as_bytes()), self.index, self.tree.rows, &path))
            .map(|root| digest::of_hash(&root));
        if found.as_ref() != Some(&self.tree.root) {
            return Err(ProofRefusal::OtherRow);
        }
        if self.tree.root != root {
            return Err(ProofRefusal::OtherTree {
                wanted: root.to_owned(),
                has: self.tree.root.clone(),
            });
        }
        Ok(record)
    }
}
