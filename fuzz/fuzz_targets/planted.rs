//! A hole that was put here on purpose, see `.ci/fuzz`.
#![no_main]
#![allow(clippy::panic, reason = "it is the hole")]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let [b'h', b'o', b'l', b'e', b'!', ..] = input {
        panic!("the planted hole");
    }
});
