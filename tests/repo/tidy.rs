//! Holds the source to the repository's own rules: which layer may use which, file sizes, where `unsafe` may
//! stand, and what must not be left behind in a text.

use std::path::{Path, PathBuf};

use crate::tidy_support::{
    self,
    circles::{circles, uses_within},
    code_only, crate_paths, known, line_of,
    parameters::crowded,
    uses::uses,
    words,
};

/// Files are cut by subject, not by length: so many lines are an alarm that there may be two subjects.
const MAX_LINES: usize = 800;

/// What each layer of `src/` may use besides itself. `ARCHITECTURE.md` draws the same picture.
const LAYERS: &[(&str, &str)] = &[
    ("proto", ""),
    ("errors", ""),
    ("random", ""),
    ("status_code", ""),
    ("files", ""),
    ("digest", "files"),
    ("gguf", "files"),
    ("calibrator", "digest files random"),
    ("panics", ""),
    ("secret", ""),
    ("reload", ""),
    ("trace_context", ""),
    ("translation_prompt", ""),
    ("tls", "errors files reload secret"),
    ("auth", "engine::Tenant digest files reload secret tls"),
    ("memory", ""),
    ("remote", "errors files secret tls"),
    ("backend", "model gguf files digest random"),
    (
        "config",
        "errors remote::EndpointApi remote::EndpointUrl remote::UrlError calibrator guard::DecisionPolicy guard::DecisionSet guard::GuardKind \
         guard::NotAdded guard::Policy guard::read_decision_policy \
         guard::read_policy model::spec engine::Tenant \
         classifier::EncoderKind memory::human_bytes auth tls",
    ),
    ("telemetry", "config auth tls files engine::Tenant trace_context"),
    ("fetch", "digest errors files memory::human_bytes secret"),
    ("model", "gguf files digest random"),
    ("engine", "backend model panics random"),
    // `fetch` for its tests only: they read the demo's model.
    ("text", "gguf files digest errors engine::StopCondition fetch"),
    (
        "guard",
        "engine backend model text gguf digest errors random calibrator",
    ),
    ("quality", "model text"),
    ("classifier", "engine model text"),
    (
        "registry",
        "guard quality classifier engine backend model text gguf digest errors files config memory panics remote",
    ),
    (
        "rpc",
        "registry guard quality classifier engine backend model text gguf digest errors config telemetry proto calibrator remote \
         memory::human_bytes status_code auth tls trace_context translation_prompt",
    ),
    // `guard` for its tests only: they hold the table of categories against the guards.
    ("http", "rpc config auth proto digest guard::GuardKind"),
    ("client", "proto digest random status_code secret trace_context"),
    ("receipt", "client proto digest"),
    (
        "bench",
        "client proto digest errors files random status_code calibrator translation_prompt",
    ),
    (
        "cli",
        "rpc http registry guard quality classifier engine backend model text gguf digest errors config telemetry proto client bench fetch \
         calibrator receipt remote \
         memory random status_code auth tls reload secret files trace_context",
    ),
];

/// A function with more parameters than this wants a struct for those that travel together.
const MAX_PARAMETERS: usize = 6;

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
    "fuzz/src",
    "fuzz/fuzz_targets",
    "fuzz/seeds.py",
    "clients",
    "docs",
    "proto",
    "scripts",
    ".ci",
    "data",
    "k8s",
    "deploy",
    "Dockerfile",
    "compose.yaml",
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
fn files_do_not_use_each_other_in_circles() {
    let uses = uses(&rust_files(&["src"]));
    assert!(uses.len() > 100, "most files of src are no modules of the crate");
    let found = circles(&uses);
    let new = found
        .iter()
        .filter(|circle| !known::CIRCLES.contains(&names(circle).as_slice()))
        .map(|circle| {
            format!(
                "new: {circle:#?}\n    {}",
                uses_within(&uses, circle).join("\n    ")
            )
        });
    let gone = known::CIRCLES
        .iter()
        .filter(|known| !found.iter().any(|circle| names(circle) == **known))
        .map(|circle| format!("broken, so take it off known::CIRCLES: {circle:?}"));
    report(
        "files use each other in a circle: move what both need to a third",
        gone.chain(new).collect(),
    );
}

fn names(circle: &[String]) -> Vec<&str> {
    circle.iter().map(String::as_str).collect()
}

#[test]
fn parameters_are_few_and_named() {
    let mut found = Vec::new();
    for (name, source) in rust_files(&["src", "tests", "benches"]) {
        let crowded = crowded(&source, MAX_PARAMETERS).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.extend(crowded.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }
    let new = found
        .iter()
        .filter(|wrong| !known::PARAMETERS.contains(&wrong.as_str()))
        .cloned();
    let gone = known::PARAMETERS
        .iter()
        .filter(|known| !found.iter().any(|wrong| wrong == *known))
        .map(|known| format!("mended, so take it off known::PARAMETERS: {known}"));
    report("parameters that want a named struct", gone.chain(new).collect());
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
        &format!("a file has more than {MAX_LINES} lines: does it have two subjects?"),
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

/// Where memory is handled by addresses: the processor's kernels, and cards, whose memory the compiler knows nothing of. And one
/// call of the C library, about what its allocator keeps.
const UNSAFE: [&str; 4] = [
    "src/backend/cpu/kernels/",
    "src/backend/cuda/",
    "src/memory.rs",
    "tests/gpu/",
];

#[test]
fn unsafe_stays_in_the_kernels() {
    let mut broken = Vec::new();
    for (name, source) in rust_files(&["src", "tests", "build.rs"]) {
        let uses = words(&code_only(&source))
            .filter(|(_, word)| *word == "unsafe")
            .count();
        if uses > 0 && !UNSAFE.iter().any(|folder| name.starts_with(folder)) {
            broken.push(format!("{name}: {uses} uses of unsafe"));
        }
    }
    report("unsafe outside of kernels and of calls to drivers", broken);
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

/// Words in backticks, line by line, outside of code blocks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    let mut in_block = false;
    let lines = text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        !in_block && !fence
    });
    lines.flat_map(|line| line.split('`').skip(1).step_by(2))
}

#[test]
fn documents_name_files_that_exist() {
    let folders = [
        "src/", "tests/", "benches/", "fuzz/", "docs/", "proto/", "data/", "scripts/", ".ci/", "k8s/",
        "deploy/", "clients/",
    ];
    let sources = files(&[
        "src", "tests", "benches", "fuzz", "clients", "scripts", ".ci", "build.rs",
    ]);
    let is_end_of_a_path = |word: &str| {
        sources.iter().any(|(name, _)| {
            let before = name.strip_suffix(word);
            before.is_some_and(|before| before.is_empty() || before.ends_with('/'))
        })
    };
    let mut broken = Vec::new();
    for (name, path) in files(&["README.md", "ARCHITECTURE.md", "docs"]) {
        // Dated results name the files of their day.
        if !name.ends_with(".md") || name.starts_with("docs/results/") {
            continue;
        }
        let text = std::fs::read_to_string(path).expect("a document in UTF-8");
        let paths = quoted(&text).filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
        let whole = paths.filter(|path| !path.contains([' ', '*', '{', '<']));
        let gone = whole.filter(|path| !root().join(path).exists());
        // A source file may be named by the end of its path alone.
        let named = quoted(&text).filter(|word| word.ends_with(".rs") || word.ends_with(".py"));
        let unknown = named.filter(|word| !word.contains([' ', '*', '{', '<']) && !is_end_of_a_path(word));
        broken.extend(gone.chain(unknown).map(|path| format!("{name}: {path}")));
    }
    report("a document names a file that does not exist", broken);
}

#[test]
fn the_glossary_names_files_and_types_that_exist() {
    let text = std::fs::read_to_string(root().join("docs/glossary.md")).expect("docs/glossary.md");
    let sources: Vec<String> = rust_files(&["src"])
        .into_iter()
        .map(|(_, source)| source)
        .collect();
    let is_word = |word: &str| {
        sources
            .iter()
            .any(|source| words(source).any(|(_, found)| found == word))
    };
    let mut below = String::new();
    let mut broken = Vec::new();
    for line in text.lines() {
        if line.starts_with("## ") {
            below.clear();
        }
        if let Some((_, rest)) = line.split_once("file below `") {
            below = rest.split('`').next().unwrap_or_default().to_owned();
        }
        if !line.starts_with("| ") || line.starts_with("| Term") {
            continue;
        }
        let last = line
            .trim_end_matches(" |")
            .rsplit(" | ")
            .next()
            .unwrap_or_default();
        for word in quoted(last) {
            let known = if word.contains('/') || word.ends_with(".rs") {
                let places = [format!("src/{word}"), format!("src/{below}{word}")];
                places.iter().any(|place| root().join(place).exists())
            } else {
                word.split("::").all(is_word)
            };
            if !known {
                broken.push(format!("{word}: {line}"));
            }
        }
    }
    report("the glossary names what does not exist", broken);
}
