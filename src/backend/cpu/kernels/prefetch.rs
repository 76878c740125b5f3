//! Fetching what is read next.

/// Has values fetched into the first-level cache, where the processor can be asked to.
#[inline(always)]
pub(super) fn prefetch<T>(values: &[T]) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = values.as_ptr().cast::<i8>();
        for line in 0..size_of_val(values).div_ceil(64) {
            // SAFETY: a hint, whatever the address.
            unsafe { _mm_prefetch(start.wrapping_add(64 * line), _MM_HINT_T0) };
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}
