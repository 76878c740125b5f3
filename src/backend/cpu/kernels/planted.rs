//! Mistakes for `.ci/sanitize` to find: one that is not reported means that the tool watches nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    Arena, Isa, Output, ThreadPool,
    micro::{self, LANES, Tile},
    pool::DisjointSlices,
};

#[test]
#[ignore = "a mistake"]
fn a_read_behind_a_buffer() {
    let buffer = Arena::default().zeros::<u16>(33).unwrap();
    // SAFETY: none, and that is to be seen.
    let behind = unsafe { buffer.as_ptr().add(33).read_volatile() };
    assert_eq!(behind, 0);
}

#[test]
#[ignore = "a mistake"]
fn a_vector_read_behind_a_buffer() {
    let (inputs, mut out) = ([1.0; 4], [0.0; LANES]);
    let weights = Arena::default().zeros::<f32>(4 * LANES - 1).unwrap();
    // SAFETY: none: the last of four vectors of weights is not whole.
    unsafe {
        let tile = Tile {
            a: inputs.as_ptr(),
            a_stride: 4,
            w: weights.as_ptr(),
            w_stride: LANES,
            c: out.as_mut_ptr(),
            c_stride: LANES,
            output: Output::Replace,
            k: 4,
        };
        micro::run(Isa::detect(), 1, 1, &tile);
    }
    assert!(out.iter().all(|sum| sum.is_finite()));
}

#[test]
#[ignore = "a mistake"]
fn two_tasks_write_one_place() {
    let mut place = [0u64];
    let (slices, step) = (DisjointSlices::new(&mut place), AtomicUsize::new(0));
    // Relaxed, so that nothing orders what the threads do. Both are here at once, and then they write one after the
    // other: of two writes in the same instant ThreadSanitizer may see neither.
    let wait_for = |wanted| {
        while step.load(Ordering::Relaxed) < wanted {
            std::hint::spin_loop();
        }
    };
    ThreadPool::new(2).unwrap().run(2, &|task| {
        step.fetch_add(1, Ordering::Relaxed);
        wait_for(2 + task);
        // SAFETY: none: both tasks write.
        unsafe { slices.pointer(0).write_volatile(task as u64) };
        step.fetch_add(1, Ordering::Relaxed);
    });
}
