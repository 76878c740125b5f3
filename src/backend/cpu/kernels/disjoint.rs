//! Slices that several workers write at the same time, each its own part.

use std::marker::PhantomData;

/// A mutable slice of which several workers write disjoint parts.
pub(super) struct DisjointSlices<'a, T> {
    start: *mut T,
    len: usize,
    /// Borrows the slice exclusively for `'a`.
    _slice: PhantomData<&'a mut [T]>,
}

// SAFETY: sharing a `DisjointSlices` lets other threads get `&mut [T]` of it, which needs `T: Send`. That no two
// threads get the same element is the contract of `part`, and of writing through the pointers of `pointer` and
// `strided`.
unsafe impl<T: Send> Sync for DisjointSlices<'_, T> {}

impl<'a, T> DisjointSlices<'a, T> {
    pub(super) fn new(slice: &'a mut [T]) -> Self {
        Self {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            _slice: PhantomData,
        }
    }

    /// The part `offset..offset + len`.
    ///
    /// # Safety
    /// While the returned slice is used, no other thread and no other slice or pointer of this `DisjointSlices`
    /// accesses any of its elements.
    ///
    /// # Panics
    /// When the part ends behind the slice.
    #[allow(
        clippy::mut_from_ref,
        reason = "disjoint parts are the purpose; the contract above makes it sound"
    )]
    pub(super) unsafe fn part(&self, offset: usize, len: usize) -> &mut [T] {
        assert!(offset.checked_add(len).is_some_and(|end| end <= self.len));
        // SAFETY: the assertion keeps the part inside of the slice, which is borrowed for `'a`, longer than `&self`.
        // The caller sees to it that nothing else accesses these elements meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(offset), len) }
    }

    /// Pointer to the first of `count` elements that lie `stride` apart, all of them inside of the slice. Who writes
    /// through it must see to it that nobody else accesses those elements meanwhile.
    ///
    /// # Panics
    /// When the last of the elements, or the first where `count` is 0, lies outside of the slice.
    pub(super) fn strided(&self, offset: usize, count: usize, stride: usize) -> *mut T {
        let last = (count.saturating_sub(1) * stride).checked_add(offset);
        assert!(last.is_some_and(|last| last < self.len));
        self.pointer(offset)
    }

    /// Pointer to an element, or to the slice's end, for kernels that write rectangles of outputs. Who writes through
    /// it must see to it that the elements are inside of the slice and that nobody else accesses them meanwhile.
    ///
    /// # Panics
    /// When the offset lies behind the slice's end.
    pub(super) fn pointer(&self, offset: usize) -> *mut T {
        assert!(offset <= self.len);
        // SAFETY: the assertion keeps the pointer inside of the slice's allocation, or one past its end.
        unsafe { self.start.add(offset) }
    }
}
