//! Where CUDA's libraries are found: with libraries that are none of CUDA's but have their names.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::library::compiler;

/// What the search calls: a driver that is too old, so that nothing else is called, and a compiler of CUDA 13.7.
const SOURCE: &str = r#"
extern "C" int cuDriverGetVersion(int* version) {
    *version = 12040;
    return 0;
}
extern "C" int nvrtcVersion(int* major, int* minor) {
    *major = 13;
    *minor = 7;
    return 0;
}
"#;

fn build(folder: &Path) {
    let source = folder.join("library.cpp");
    fs::write(&source, SOURCE).unwrap();
    let compiler = compiler();
    let built = folder.join("library.so");
    let mut command = Command::new(&compiler[0]);
    command
        .args(&compiler[1..])
        .args(["-shared", "-fPIC"])
        .arg(&source)
        .arg("-o")
        .arg(&built)
        .stdin(Stdio::null());
    let done = command.output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for name in [
        "libcuda.so.1",
        "libnvrtc.so.13",
        "libnvrtc-builtins.so.13.6",
        "libnvrtc-builtins.so.13.7",
        "libcublasLt.so.13",
    ] {
        fs::copy(&built, folder.join(name)).unwrap();
    }
}

/// What `doctor` says of each library and of the cards.
fn doctor(folder: &Path) -> Vec<Value> {
    let outcome = Command::new(env!("CARGO_BIN_EXE_babelward"))
        .args(["--format", "json", "doctor", "--metrics-listen", "off"])
        .env("LD_LIBRARY_PATH", folder)
        .env("BABELWARD_CACHE", folder.join("cache"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    serde_json::from_slice(&outcome.stdout).unwrap()
}

#[test]
fn the_parts_of_the_compiler_are_found_where_the_loader_finds_them() {
    let folder = tempfile::tempdir().unwrap();
    build(folder.path());
    let checks = doctor(folder.path());
    let found = |name: &str| {
        let check = checks
            .iter()
            .find(|check| check["check"].as_str().unwrap().contains(name));
        check.unwrap_or_else(|| panic!("{name}: {checks:?}")).clone()
    };
    // All libraries are there, and so the driver's version is what is wrong.
    let cards = found("NVIDIA cards");
    assert!(cards["found"].as_str().unwrap().contains("CUDA 12.4"), "{cards}");
    let parts = found("libnvrtc-builtins");
    assert_eq!(parts["status"], "ok", "{parts}");
    // Those of this compiler, and not those of another version that are there as well.
    assert!(
        parts["found"]
            .as_str()
            .unwrap()
            .contains("libnvrtc-builtins.so.13.7"),
        "{parts}"
    );
}
