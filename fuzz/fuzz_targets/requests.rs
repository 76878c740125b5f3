#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| babelward_fuzz::run("requests", input));
