//! Fuzzes one door, see `babelward_fuzz::TARGETS`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| babelward_fuzz::fuzz("bodies", input));
