//! The Merkle tree over the rows of `results.jsonl`, as RFC 6962 (section 2.1) has it: one row can be shown to belong to a run by a
//! few hashes, without the other rows.
//!
//! A leaf is SHA-256 of a zero byte and the row's line without its line break, and a node is SHA-256 of a byte 1 and its two
//! children, so that no row can pass for a node. Rows are in the order of the file.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::digest;

/// Starts what is hashed of a row.
const LEAF: [u8; 1] = [0];
/// Starts what is hashed of two children.
const NODE: [u8; 1] = [1];

/// The hash of a row or of a node.
pub(crate) type RowHash = [u8; 32];

/// What `run.json` says of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultsTree {
    /// `sha256:<hex>` of the root.
    pub root: String,
    /// Number of rows.
    pub rows: u64,
}

/// What was written as `results.jsonl`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrittenResults {
    /// `sha256:<hex>` of the file.
    pub digest: String,
    /// The Merkle tree over its rows.
    pub tree: ResultsTree,
}

/// The hash of a row; `line` is without its line break.
pub(crate) fn row_hash(line: &[u8]) -> RowHash {
    Sha256::new()
        .chain_update(LEAF)
        .chain_update(line)
        .finalize()
        .into()
}

fn node(left: &RowHash, right: &RowHash) -> RowHash {
    let hasher = Sha256::new().chain_update(NODE);
    hasher.chain_update(left).chain_update(right).finalize().into()
}

/// Computes a root while rows come, in memory for the logarithm of their number.
#[derive(Debug, Clone, Default)]
pub(crate) struct TreeHasher {
    rows: u64,
    /// The roots of the whole trees that the rows are cut into, the largest first.
    roots: Vec<RowHash>,
}

impl TreeHasher {
    /// Adds the next row.
    pub(crate) fn push(&mut self, line: &[u8]) {
        let mut hash = row_hash(line);
        // As many trees are complete now as the number of rows before has ones at its end.
        for _ in 0..self.rows.trailing_ones() {
            if let Some(left) = self.roots.pop() {
                hash = node(&left, &hash);
            }
        }
        self.roots.push(hash);
        self.rows += 1;
    }

    /// The tree of all rows.
    pub(crate) fn finish(mut self) -> ResultsTree {
        let smallest = self.roots.pop().unwrap_or_else(|| Sha256::digest(b"").into());
        let root = self
            .roots
            .iter()
            .rev()
            .fold(smallest, |right, left| node(left, &right));
        ResultsTree {
            root: digest::of_hash(&root),
            rows: self.rows,
        }
    }
}

/// The audit path of the leaf with this index: the hashes by which the root follows from it, the nearest first.
pub(crate) fn audit_path(leaves: &[RowHash], index: usize) -> Vec<RowHash> {
    if leaves.len() <= 1 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(left_rows(leaves.len()));
    let (mut path, other) = match index.checked_sub(left.len()) {
        None => (audit_path(left, index), right),
        Some(index) => (audit_path(right, index), left),
    };
    path.push(root_of(other));
    path
}

fn root_of(leaves: &[RowHash]) -> RowHash {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [only] => *only,
        _ => {
            let (left, right) = leaves.split_at(left_rows(leaves.len()));
            node(&root_of(left), &root_of(right))
        }
    }
}

/// The largest power of two below a number of rows, which is at least 2.
fn left_rows(rows: usize) -> usize {
    rows.next_power_of_two() / 2
}

/// The root that follows from a leaf of a tree with so many rows (RFC 9162, section 2.1.3.2); `None` where the path does not
/// have the length that such a leaf's has.
pub(crate) fn root_from(leaf: RowHash, index: u64, rows: u64, path: &[RowHash]) -> Option<RowHash> {
    let (mut at, mut last) = (index, rows.checked_sub(1)?);
    if at > last {
        return None;
    }
    let mut hash = leaf;
    for other in path {
        if last == 0 {
            return None;
        }
        if at % 2 == 1 || at == last {
            hash = node(other, &hash);
            while at % 2 == 0 && at != 0 {
                at /= 2;
                last /= 2;
            }
        } else {
            hash = node(&hash, other);
        }
        at /= 2;
        last /= 2;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(count: usize) -> Vec<Vec<u8>> {
        (0..count).map(|row| format!("row {row}").into_bytes()).collect()
    }

    fn tree(rows: &[Vec<u8>]) -> ResultsTree {
        let mut hasher = TreeHasher::default();
        rows.iter().for_each(|row| hasher.push(row));
        hasher.finish()
    }

    /// The inputs and roots of the reference implementation of RFC 6962 (google/certificate-transparency,
    /// `cpp/merkletree/merkle_tree_test.cc`).
    #[test]
    fn roots_are_those_of_the_reference() {
        let inputs: [&[u8]; 8] = [
            &[],
            &[0x00],
            &[0x10],
            &[0x20, 0x21],
            &[0x30, 0x31],
            &[0x40, 0x41, 0x42, 0x43],
            &[0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57],
            &[
                0x60, 0x61, 0x62, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68, 0x69, 0x6a, 0x6b, 0x6c, 0x6d, 0x6e,
                0x6f,
            ],
        ];
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (count, root) in roots.into_iter().enumerate() {
            let rows: Vec<Vec<u8>> = inputs[..count].iter().map(|input| input.to_vec()).collect();
            assert_eq!(tree(&rows).root, format!("sha256:{root}"), "{count}");
        }
    }

    #[test]
    fn every_row_of_every_tree_has_a_path_and_no_other_row_has_it() {
        for count in 1..=40 {
            let rows = rows(count);
            let leaves: Vec<RowHash> = rows.iter().map(|row| row_hash(row)).collect();
            let root = digest::hash_of(&tree(&rows).root).unwrap();
            assert_eq!(root, root_of(&leaves));
            for index in 0..count {
                let path = audit_path(&leaves, index);
                let from = |leaf: RowHash, index: usize, rows: usize, path: &[RowHash]| {
                    root_from(leaf, index as u64, rows as u64, path)
                };
                assert_eq!(from(leaves[index], index, count, &path), Some(root));
                let other = row_hash(b"another row");
                assert_ne!(from(other, index, count, &path), Some(root));
                let neighbour = (index + 1) % count;
                if neighbour != index {
                    assert_ne!(from(leaves[index], neighbour, count, &path), Some(root));
                    assert_ne!(from(leaves[index], index, count, &path[1..]), Some(root));
                }
                assert_eq!(from(leaves[index], count, count, &path), None);
                let longer: Vec<RowHash> = path.iter().copied().chain([root]).collect();
                assert_eq!(from(leaves[index], index, count, &longer), None);
            }
        }
    }

    /// A node's children, written as a row, are another leaf than the node.
    #[test]
    fn no_row_passes_for_a_node() {
        let [a, b] = [row_hash(b"a"), row_hash(b"b")];
        let children: Vec<u8> = a.iter().chain(&b).copied().collect();
        assert_ne!(row_hash(&children), node(&a, &b));
    }
}
