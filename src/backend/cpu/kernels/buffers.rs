//! Buffers that grow to their largest use and stay.

/// The first `len` elements, of which none is defined.
pub(super) fn sized<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if cfg!(exact_memory) {
        // What lies behind the last element belongs to nobody: a tool that watches memory sees who reads it.
        *buffer = Vec::with_capacity(len);
    }
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}
