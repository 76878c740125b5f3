//! Asking the processor to load memory before it is read.

/// Bytes in a line of the cache.
pub(super) const CACHE_LINE: usize = 64;

/// Asks for values to be loaded into the first-level cache, on processors where this can be asked for.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = values.as_ptr().cast::<i8>();
        for line in 0..size_of_val(values).div_ceil(CACHE_LINE) {
            // SAFETY: `prefetcht0` is a hint that never faults and changes no memory, whatever the address is, and
            // every x86-64 processor has it.
            unsafe { _mm_prefetch(start.wrapping_add(CACHE_LINE * line), _MM_HINT_T0) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
