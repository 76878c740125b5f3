//! Scratch buffers: each thread keeps its own, and they grow to their largest use and stay.

/// The first `len` elements of a scratch buffer, which grows when it is shorter. Their values are whatever an earlier
/// use has left: write them before you read them.
pub(super) fn scratch_slice<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if cfg!(exact_memory) {
        // A new allocation that ends with the last element: sanitizers report whoever reads beyond it.
        *buffer = Vec::with_capacity(len);
    }
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}
