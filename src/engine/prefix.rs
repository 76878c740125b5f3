//! Prefixes of sequences, and which sequences may find them in the prefix cache.

use std::sync::Arc;

use super::tenant::Tenant;
use crate::backend::AdapterIndex;

/// Which sequences find a cached block.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum CacheOwner {
    /// All sequences. The block belongs to a prefix that is pinned or will be, so it contains no caller's text.
    Everyone,
    /// Only sequences of this tenant. So neither the count of cached tokens nor the time to an answer shows a tenant
    /// what another one has sent.
    Tenant(Tenant),
}

impl CacheOwner {
    /// Whether sequences of `reader` find the block.
    pub(crate) fn is_found_by(&self, reader: &Self) -> bool {
        *self == Self::Everyone || self == reader
    }
}

/// The beginning of a sequence, with everything that its keys and values depend on: its tokens and the adapter that
/// computes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix<T = Arc<[u32]>> {
    /// The adapter; `None` is the model without one.
    pub adapter: Option<AdapterIndex>,
    /// Ids of the tokens from the first on.
    pub tokens: T,
}

impl<T: AsRef<[u32]>> Prefix<T> {
    /// Number of leading full blocks that it has in common with another prefix.
    pub(crate) fn common_blocks<U: AsRef<[u32]>>(&self, other: &Prefix<U>, block_size: usize) -> usize {
        if self.adapter != other.adapter {
            return 0;
        }
        let blocks = self.tokens.as_ref().chunks_exact(block_size);
        let pairs = blocks.zip(other.tokens.as_ref().chunks_exact(block_size));
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// A copy that owns its tokens.
    pub(crate) fn to_owned(&self) -> Prefix {
        Prefix {
            adapter: self.adapter,
            tokens: self.tokens.as_ref().into(),
        }
    }
}
