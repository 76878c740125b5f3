//! Holds the source to the repository's own rules: which layer may use which, file sizes, where `unsafe` may
//! stand, and what must not be left behind in a text.

use std::path::{Path, PathBuf};

use crate::tidy_support::{self, code_only, crate_paths, line_of, words};

/// A file is one subject; beyond this many lines it is two.
const MAX_LINES: usize = 500;

/// What each layer of `src/` may use besides itself. `ARCHITECTURE.md` draws the same picture.
const LAYERS: &[(&str, &str)] = &[
    ("proto", ""),
    ("errors", ""),
    ("random", ""),
    ("files", ""),
    ("digest", "files"),
    ("gguf", "files"),
    ("memory", ""),
    ("backend", "model gguf files digest"),
    (
        "config",
        "errors guard::GuardKind guard::Policy guard::read_policy model::spec::PrecisionChoice model::spec::Precision engine::Tenant \
         quality::EstimatorKind memory::human_bytes",
    ),
    ("telemetry", "config"),
    ("fetch", "digest errors"),
    ("model", "backend gguf files digest"),
    ("engine", "model backend random"),
    // `fetch` for its tests only: they read the demo's model.
    ("text", "gguf files digest errors engine::StopCondition fetch"),
    ("guard", "engine model backend text gguf digest errors"),
    ("quality", "model backend text"),
    (
        "registry",
        "guard quality engine model backend text gguf digest errors config memory",
    ),
    (
        "rpc",
        "registry guard quality engine model backend text gguf digest errors config telemetry proto memory::human_bytes",
    ),
    ("client", "proto digest"),
    ("bench", "client proto digest random"),
    (
        "cli",
        "rpc registry guard quality engine model backend text gguf digest errors config telemetry proto client bench fetch random memory",
    ),
];

/// Marks of unfinished work, and paths of somebody's machine. Split, so that this file does not contain them.
const FORBIDDEN: &[&str] = &[
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X:"),
    concat!("/home", "/"),
    concat!("/root", "/"),
    concat!("/Users", "/"),
    concat!("/work", "/"),
    concat!("/tmp", "/w/"),
];

const TEXT_ROOTS: &[&str] = &[
    "src",
    "tests",
    "benches",
    "docs",
    "proto",
    "scripts",
    ".ci",
    "data",
    "build.rs",
    "Cargo.toml",
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below these places, with its path relative to the repository, sorted.
fn files(places: &[&str]) -> Vec<(String, PathBuf)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        if path.is_dir() {
            let entries = std::fs::read_dir(path).expect("a readable folder");
            for entry in entries {
                walk(&entry.expect("a folder entry").path(), found);
            }
        } else if path.is_file() {
            found.push(path.to_path_buf());
        }
    }
    let mut found = Vec::new();
    for place in places {
        walk(&root().join(place), &mut found);
    }
    found.sort();
    let relative = |path: &PathBuf| {
        path.strip_prefix(root())
            .expect("below the root")
            .display()
            .to_string()
    };
    found.iter().map(|path| (relative(path), path.clone())).collect()
}

fn rust_files(places: &[&str]) -> Vec<(String, String)> {
    let rust = files(places)
        .into_iter()
        .filter(|(name, _)| name.ends_with(".rs"));
    let found: Vec<_> = rust
        .map(|(name, path)| (name, std::fs::read_to_string(path).expect("a UTF-8 source file")))
        .collect();
    assert!(!found.is_empty(), "no Rust files below {places:?}");
    found
}

fn report(rule: &str, broken: Vec<String>) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

/// The layer a source file belongs to: `src/text/stream.rs` and `src/text.rs` are both `text`.
fn layer_of(name: &str) -> Option<&str> {
    let first = name.strip_prefix("src/")?.split('/').next()?;
    let layer = first.strip_suffix(".rs").unwrap_or(first);
    (!matches!(layer, "lib" | "main")).then_some(layer)
}

/// Uses that point up, as `line: path` texts.
fn upward_uses(name: &str, source: &str) -> Vec<String> {
    let Some(layer) = layer_of(name) else {
        return Vec::new();
    };
    let Some((_, allowed)) = LAYERS.iter().find(|(known, _)| *known == layer) else {
        return vec![format!("{name}: `{layer}` is not in the table of layers")];
    };
    let depth = name.trim_end_matches("/mod.rs").matches('/').count();
    let permits = |used: &str| {
        used == layer
            || used.starts_with(&format!("{layer}::"))
            || allowed
                .split(' ')
                .any(|path| used == path || used.starts_with(&format!("{path}::")))
    };
    crate_paths(&code_only(source), depth)
        .into_iter()
        .filter(|(_, used)| {
            let top = used.split("::").next().unwrap_or(used);
            LAYERS.iter().any(|(known, _)| *known == top) && !permits(used)
        })
        .map(|(offset, used)| format!("{name}:{}: {layer} must not use {used}", line_of(source, offset)))
        .collect()
}

#[test]
fn layers_use_only_what_is_below_them() {
    let broken = rust_files(&["src"])
        .iter()
        .flat_map(|(name, source)| upward_uses(name, source))
        .collect();
    report("a layer uses one above or beside it", broken);
}

#[test]
fn an_arrow_that_points_up_is_found() {
    let source = "// use crate::cli;\nuse crate::{\n    engine::{Event, StopCondition},\n    gguf::Gguf,\n};\n\
                  fn f() { let _ = \"crate::rpc\"; crate::guard::g(); super::super::registry::h(); }\n";
    let found = upward_uses("src/text/stream.rs", source);
    let expected = [
        "src/text/stream.rs:2: text must not use engine::Event",
        "src/text/stream.rs:6: text must not use guard::g",
        "src/text/stream.rs:6: text must not use registry::h",
    ];
    assert_eq!(found, expected);
    assert_eq!(upward_uses("src/surprise.rs", "").len(), 1);
}

#[test]
fn every_module_has_a_layer() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("src/lib.rs");
    let modules: Vec<_> = lib
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    assert!(!modules.is_empty());
    let missing = modules
        .iter()
        .filter(|module| LAYERS.iter().all(|(known, _)| known != *module));
    report(
        "a module of src/lib.rs is missing in LAYERS",
        missing.map(ToString::to_string).collect(),
    );
}

#[test]
fn files_stay_small() {
    let long = rust_files(&["src", "tests"])
        .into_iter()
        .filter_map(|(name, source)| {
            let lines = source.lines().count();
            (lines > MAX_LINES).then(|| format!("{name}: {lines} lines"))
        });
    report(
        &format!("a file has more than {MAX_LINES} lines: split it by subject"),
        long.collect(),
    );
}

#[test]
fn errors_show_their_source_or_expose_it() {
    let broken = rust_files(&["src"]).into_iter().flat_map(|(name, source)| {
        let doubled = tidy_support::doubled_sources(&source).into_iter();
        doubled.map(move |(line, shown)| {
            format!("{name}:{line}: the message has {{{shown}}}, which is the source")
        })
    });
    report("an error shows its source and exposes it, too", broken.collect());
}

/// Support for tests that has tests in it: a simulator, and mistakes for the sanitizers to find.
const TEST_SUPPORT: [&str; 2] = ["src/engine/simulation.rs", "src/backend/cpu/kernels/planted.rs"];

#[test]
fn unit_tests_stand_at_the_end_or_in_a_file_of_their_own() {
    let mut broken = Vec::new();
    for (name, source) in rust_files(&["src"]) {
        let own_file = name.ends_with("tests.rs") || name.contains("/tests/");
        if own_file || TEST_SUPPORT.contains(&name.as_str()) {
            continue;
        }
        let code = code_only(&source);
        let (before, tests) = code.split_once("\nmod tests {\n").unwrap_or((&code, ""));
        if before.contains("#[test]") || before.contains("#[tokio::test") {
            broken.push(format!("{name}: a test stands outside of `mod tests`"));
        }
        if tests
            .split_once("\n}\n")
            .is_some_and(|(_, after)| !after.trim().is_empty())
        {
            broken.push(format!("{name}: `mod tests` is not the end of the file"));
        }
    }
    report("unit tests are out of their place", broken);
}

#[test]
fn unsafe_stays_in_the_kernels() {
    let mut broken = Vec::new();
    for (name, source) in rust_files(&["src", "tests", "build.rs"]) {
        let uses = words(&code_only(&source))
            .filter(|(_, word)| *word == "unsafe")
            .count();
        if uses > 0 && !name.starts_with("src/backend/cpu/kernels/") {
            broken.push(format!("{name}: {uses} uses of unsafe"));
        }
    }
    report("unsafe outside src/backend/cpu/kernels", broken);
}

#[test]
fn nothing_is_left_behind() {
    let mut broken = Vec::new();
    for (name, path) in files(TEXT_ROOTS) {
        // Data files are not ours to word, and need not be text.
        let Ok(text) = std::fs::read_to_string(path) else {
            continue;
        };
        for (index, line) in text.lines().enumerate() {
            for word in FORBIDDEN.iter().filter(|word| line.contains(**word)) {
                broken.push(format!("{name}:{}: {word}", index + 1));
            }
        }
    }
    report("unfinished work or a path of somebody's machine", broken);
}

#[test]
fn readme_has_exactly_two_setup_commands() {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("README.md");
    let setup = tidy_support::section(&readme, "Set-up").expect("a section `## Set-up`");
    let commands: Vec<_> = tidy_support::code_lines(setup).collect();
    assert_eq!(commands, ["cargo run --release -- demo", "cargo test --release"]);
}
