//! Limits on requests with many texts, before a call is made of them. The calls take fewer, and say how many there may be.

/// Most texts of a request that are read.
pub(super) const MOST_TEXTS: usize = 4096;

/// Most bytes of the name of a guard or policy, which each text gets a copy of. No model and no policy has a longer one.
pub(super) const MOST_NAME_BYTES: usize = 4096;
