//! Deliberate mistakes, which `.ci/sanitize` runs its tools on: a tool that does not report them watches nothing.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{
    arena::Arena,
    disjoint::DisjointSlices,
    isa::Isa,
    micro::{self, LANES, Tile, TileSize},
    output::Output,
    pool::ThreadPool,
};

#[test]
#[ignore = "a deliberate mistake"]
fn a_read_behind_a_buffer() {
    let buffer = Arena::default().zeros::<u16>(33).unwrap();
    // SAFETY: not safe: it reads behind the buffer, which AddressSanitizer must report.
    let behind = unsafe { buffer.as_ptr().add(33).read_volatile() };
    assert_eq!(behind, 0);
}

#[test]
#[ignore = "a deliberate mistake"]
fn a_vector_read_behind_a_buffer() {
    let (inputs, mut out) = ([1.0; 4], [0.0; LANES]);
    let weights = Arena::default().zeros::<f32>(4 * LANES - 1).unwrap();
    // SAFETY: not safe: the last of four vectors of weights ends behind the buffer, which AddressSanitizer must report.
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
        micro::run(Isa::detect(), TileSize { rows: 1, vectors: 1 }, &tile);
    }
    assert!(out.iter().all(|sum| sum.is_finite()));
}

#[test]
#[ignore = "a deliberate mistake"]
fn two_tasks_write_one_place() {
    let mut element = [0u64];
    let (slices, step) = (DisjointSlices::new(&mut element), AtomicUsize::new(0));
    // Relaxed operations order nothing that the threads do. The threads wait for one another and then write one after
    // the other, because of two writes in the same instant ThreadSanitizer may see neither.
    let wait_for = |wanted| {
        while step.load(Ordering::Relaxed) < wanted {
            std::hint::spin_loop();
        }
    };
    ThreadPool::new(2).unwrap().run(2, &|task| {
        step.fetch_add(1, Ordering::Relaxed);
        wait_for(2 + task);
        // SAFETY: not safe: both tasks write the element, which ThreadSanitizer must report.
        unsafe { slices.pointer(0).write_volatile(task as u64) };
        step.fetch_add(1, Ordering::Relaxed);
    });
}
