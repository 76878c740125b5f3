//! The kept inputs of fuzzing, among them one for each defect that it has found, with the compiler that everybody has.

use std::{collections::BTreeSet, fs, path::Path};

use crate::fuzz_targets::{TARGETS, run};

/// Most bytes of all inputs together: they are part of the repository.
const CORPUS_BYTES: u64 = 1 << 20;

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap().map(Result::unwrap);
    entries
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect()
}

#[test]
fn every_kept_input_passes_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut bytes = 0;
    for target in TARGETS {
        let folder = corpus.join(target.name);
        let inputs = names(&folder);
        assert!(inputs.contains("seed-00"), "{} has no seeds", target.name);
        for name in inputs {
            let input = fs::read(folder.join(&name)).unwrap();
            bytes += input.len() as u64;
            // The name of an input that panics is above the panic's message.
            println!("{}/{name}", target.name);
            run(target.name, &input);
        }
    }
    assert!(bytes <= CORPUS_BYTES, "the corpus has {bytes} bytes");
}

#[test]
fn each_target_has_a_program_and_a_folder() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let targets: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(names(&fuzz.join("corpus")), targets);
    let programs = names(&fuzz.join("fuzz_targets"));
    let planted = ["planted".to_owned()];
    let expected = targets.iter().chain(&planted).map(|name| format!("{name}.rs"));
    assert_eq!(programs, expected.collect());
}
