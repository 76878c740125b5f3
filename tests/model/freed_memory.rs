//! Memory that was freed is given back to the system. In a process of its own, because the memory of the whole process is
//! measured.

use std::{fs, thread};

use babelward::memory::give_back_freed;

use crate::alone::alone;

/// Threads, each of which has a pool of memory of its own, and what each of them takes.
const THREADS: usize = 6;
const BLOCKS: usize = 16 << 10;
const BLOCK: usize = 2 << 10;

/// Bytes of this process that are in memory.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

/// Blocks of which each is written, so that it is in memory.
fn fill() -> Vec<Vec<u8>> {
    (0..BLOCKS).map(|_| vec![1; BLOCK]).collect()
}

#[test]
fn what_threads_have_left_is_given_back() {
    alone("freed_memory::what_threads_have_left_is_given_back", || {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            return;
        }
        let taken = THREADS * BLOCKS * BLOCK;
        let before = resident();
        // All are there at once, so that they cannot share a pool.
        let threads: Vec<_> = (0..THREADS).map(|_| thread::spawn(fill)).collect();
        let mut all: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert!(resident() - before > taken * 9 / 10);
        // Few blocks are kept, the last of each thread among them, and hold all that was allocated before them.
        for blocks in &mut all {
            let mut number = 0;
            blocks.retain(|_| {
                number += 1;
                number % 1024 == 0
            });
        }
        let kept = resident() - before;
        assert!(
            kept > taken / 2,
            "nothing was left behind: {kept} of {taken} bytes"
        );
        give_back_freed();
        let left = resident() - before;
        assert!(left < taken / 10, "{left} of {taken} bytes are still there");
        assert_eq!(all.len(), THREADS);
    });
}
