//! The memory of the programs that fuzz: one piece of it has a limit, so that a length which a file only claims is found out when
//! memory is asked for it.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    io::Write as _,
    process,
};

/// Most bytes of one piece.
const MOST: usize = 64 << 20;

/// The system's allocator with that limit. A piece beyond it ends the process by a signal, as libFuzzer expects of a finding.
struct Limited;

fn check(bytes: usize) {
    if bytes > MOST {
        // Nothing here may ask for memory.
        let _ = std::io::stderr().write_all(b"one piece of memory has more than 64 MiB\n");
        process::abort();
    }
}

// SAFETY: every call is passed on to the system's allocator with what it was given.
unsafe impl GlobalAlloc for Limited {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: the caller keeps this method's own conditions, which are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        check(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        check(bytes);
        // SAFETY: as in `alloc`.
        unsafe { System.realloc(place, layout, bytes) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: as in `alloc`.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static MEMORY: Limited = Limited;
