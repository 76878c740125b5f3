//! Beginnings of sequences.

use std::sync::Arc;

use super::Tenant;
use crate::backend::AdapterIndex;

/// Who finds in the cache what a sequence has computed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// All sequences: it is a prefix that is pinned or will be, so no caller's words are in it.
    Everyone,
    /// Only sequences of this tenant. Neither the count of cached tokens nor the time to an answer tells a tenant
    /// what another one has sent.
    Tenant(Tenant),
}

impl Owner {
    /// Whether sequences of `reader` find it.
    pub fn is_found_by(&self, reader: &Self) -> bool {
        *self == Self::Everyone || self == reader
    }
}

/// The beginning of a sequence as far as keys and values go: they depend on its tokens and on the adapter that
/// computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix<T = Arc<[u32]>> {
    /// The adapter; `None` is the model itself.
    pub adapter: Option<AdapterIndex>,
    /// The tokens.
    pub tokens: T,
}

impl<T: AsRef<[u32]>> Prefix<T> {
    /// Full blocks that it has in common with another.
    pub fn common_blocks<U: AsRef<[u32]>>(&self, other: &Prefix<U>, block_size: usize) -> usize {
        if self.adapter != other.adapter {
            return 0;
        }
        let blocks = self.tokens.as_ref().chunks_exact(block_size);
        let pairs = blocks.zip(other.tokens.as_ref().chunks_exact(block_size));
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// A copy of its own.
    pub fn to_owned(&self) -> Prefix {
        Prefix {
            adapter: self.adapter,
            tokens: self.tokens.as_ref().into(),
        }
    }
}
