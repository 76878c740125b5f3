//! `config` and `doctor`, and how wrong command lines and configurations end.

use std::{fs, path::Path};

use serde_json::Value;

use crate::support::{Outcome, command, run};

#[test]
fn help_is_data_and_a_wrong_command_line_is_not() {
    let folder = tempfile::tempdir().unwrap();
    for flag in ["--help", "--version"] {
        let outcome = run(command(folder.path()).arg(flag));
        assert_eq!(outcome.code, 0, "{flag}");
        assert!(outcome.stdout.contains("babelward") && outcome.stderr.is_empty());
    }
    for wrong in [
        &["--nonsense"][..],
        &["servee"],
        &["models"],
        &["classify", "--timeout", "5"],
        &[],
    ] {
        let outcome = run(command(folder.path()).args(wrong));
        assert_eq!(outcome.code, 2, "{wrong:?}");
        assert!(outcome.stdout.is_empty() && !outcome.stderr.is_empty());
    }
}

#[test]
fn every_value_is_shown_with_its_origin() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("babelward.toml"),
        "[engine]\nkv_memory = \"1GiB\"\nqueue_items = 7\n",
    )
    .unwrap();
    let outcome = run(command(folder.path())
        .env("BABELWARD_ENGINE__QUEUE_ITEMS", "8")
        .env("BABELWARD_SERVER__LISTEN", "127.0.0.1:1")
        .args(["config", "show", "--listen", "127.0.0.1:2"]));
    assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""));
    let shown = |key: &str| {
        let line = outcome
            .stdout
            .lines()
            .find(|line| line.split(' ').next() == Some(key))
            .unwrap();
        line.split_whitespace()
            .skip(1)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(shown("engine.kv_memory"), ["1GiB", "./babelward.toml"]);
    assert_eq!(
        shown("engine.queue_items"),
        ["8", "BABELWARD_ENGINE__QUEUE_ITEMS"]
    );
    assert_eq!(shown("server.listen"), ["127.0.0.1:2", "--listen"]);
    assert_eq!(shown("limits.samples"), ["16", "default"]);
}

#[test]
fn the_users_folder_is_the_last_place_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join(".config/babelward");
    fs::create_dir_all(&users).unwrap();
    fs::write(users.join("babelward.toml"), "[limits]\nsamples = 3\n").unwrap();
    let samples = || {
        let outcome = run(command(folder.path()).args(["config", "show", "--format", "jsonl"]));
        let lines = outcome
            .stdout
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .into_iter()
            .find(|entry| entry["key"] == "limits.samples")
            .unwrap()
    };
    assert_eq!(
        (samples()["value"].as_str(), samples()["source"].as_str()),
        (Some("3"), Some("file"))
    );
    fs::write(folder.path().join("babelward.toml"), "[limits]\nsamples = 4\n").unwrap();
    assert_eq!(samples()["value"], "4");
}

#[test]
fn a_wrong_configuration_ends_every_server_command_with_2() {
    let folder = tempfile::tempdir().unwrap();
    let problems = |arguments: &[&str]| {
        let outcome = run(command(folder.path())
            .env("BABELWARD_ENGINE__KV_MEMROY", "1GiB")
            .args(arguments)
            .args(["--listen", "0.0.0.0:50051", "--kv-memory", "much"]));
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        outcome
    };
    for arguments in [["config", "check"].as_slice(), &["config", "show"], &["serve"]] {
        let stderr = problems(arguments).stderr;
        assert!(stderr.contains("has 3 problems"), "{stderr}");
        assert!(
            stderr.contains("did you mean BABELWARD_ENGINE__KV_MEMORY?"),
            "{stderr}"
        );
        assert!(stderr.contains("--insecure-no-auth"), "{stderr}");
        assert!(stderr.contains("engine.kv_memory (--kv-memory)"), "{stderr}");
    }
    let checked: Value =
        serde_json::from_str(&problems(&["--format", "json", "config", "check"]).stdout).unwrap();
    assert_eq!(checked["valid"], false);
    assert_eq!(checked["problems"].as_array().map(Vec::len), Some(3));
}

#[test]
fn a_valid_configuration_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = run(command(folder.path()).args(["config", "check"]));
    assert_eq!(outcome.code, 0);
    assert_eq!(outcome.stdout, "the configuration is valid (no file, 0 models)\n");
}

#[test]
fn the_doctor_gives_every_check_a_status_and_a_fix() {
    let folder = tempfile::tempdir().unwrap();
    let doctor = |arguments: &[&str]| {
        let outcome = run(command(folder.path())
            .args(["doctor", "--format", "json"])
            .args(arguments));
        (
            outcome.code,
            serde_json::from_str::<Vec<Value>>(&outcome.stdout).unwrap(),
        )
    };
    let (code, checks) = doctor(&["--listen", "127.0.0.1:0", "--metrics-listen", "off"]);
    assert_eq!(code, 0, "{checks:?}");
    for check in &checks {
        let ok = check["status"] == "ok";
        assert!(
            ok || check["fix"].as_str().is_some_and(|fix| !fix.is_empty()),
            "{check}"
        );
    }
    let model = checks
        .iter()
        .find(|check| check["check"] == "demo model")
        .unwrap();
    assert_eq!(
        (model["status"].as_str(), model["fix"].as_str()),
        (Some("warn"), Some("run `babelward models fetch`"))
    );

    fs::write(folder.path().join("broken.gguf"), "not a model").unwrap();
    let (code, checks) = doctor(&["--model", "m=broken.gguf"]);
    assert_eq!(code, 1);
    let model = checks.iter().find(|check| check["check"] == "model m").unwrap();
    assert_eq!(model["status"], "fail");
    let (code, checks) = doctor(&["--threads", "many"]);
    assert_eq!(code, 1);
    assert!(
        checks
            .iter()
            .any(|check| check["check"] == "configuration" && check["status"] == "fail")
    );
}

/// The checks of `doctor` on this machine, and its exit code.
fn doctor(folder: &Path, arguments: &[&str]) -> (i32, Vec<Value>) {
    let addresses = ["--listen", "127.0.0.1:0", "--metrics-listen", "off"];
    let outcome = run(command(folder)
        .args(["doctor", "--format", "json"])
        .args(addresses)
        .args(arguments));
    (outcome.code, serde_json::from_str(&outcome.stdout).unwrap())
}

#[test]
fn the_doctor_tests_the_devices_that_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (code, checks) = doctor(folder.path(), &["--device", "cpu"]);
    assert_eq!(code, 0, "{checks:?}");
    let named = |part: &str| {
        let found = checks
            .iter()
            .filter(|check| check["check"].as_str().unwrap().contains(part));
        found
            .map(|check| check["status"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(named("self-test of cpu"), ["ok"; 6]);
    assert_eq!(named("device cpu"), ["ok"]);
    assert_eq!(named("NVIDIA cards").len(), 1);

    // A card with a number that no machine has.
    let (code, checks) = doctor(folder.path(), &["--device", "cuda:4000"]);
    assert_eq!(code, 1, "{checks:?}");
    let refused: Vec<_> = checks
        .iter()
        .filter(|check| check["check"] == "device cuda:4000")
        .collect();
    assert_eq!(refused.len(), 1, "{checks:?}");
    assert_eq!(refused[0]["status"], "fail");
    assert!(!refused[0]["fix"].as_str().unwrap().is_empty());
}

/// Each device tests itself; that no configuration could have both is no concern of a test.
#[test]
fn several_devices_that_are_named_are_all_tested() {
    let folder = tempfile::tempdir().unwrap();
    let (code, checks) = doctor(folder.path(), &["--device", "cpu", "--device", "cuda:4000"]);
    assert_eq!(code, 1, "{checks:?}");
    let status = |name: &str| {
        let check = checks.iter().find(|check| check["check"] == name);
        check.map(|check| check["status"].as_str().unwrap())
    };
    assert_eq!(status("configuration"), Some("ok"), "{checks:?}");
    assert_eq!(status("self-test of cpu: a made-up model in f32"), Some("ok"));
    assert_eq!(status("device cpu"), Some("ok"));
    assert_eq!(status("device cuda:4000"), Some("fail"));
}

#[test]
fn a_device_that_cannot_be_used_ends_the_command_with_2_and_the_fix() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("weights.gguf"), "not read before the device").unwrap();
    let refused = |arguments: &[&str], parts: &[&str]| {
        let outcome = run(command(folder.path()).args(arguments));
        assert_eq!(outcome.code, 2, "{arguments:?}: {}", outcome.stderr);
        for part in parts {
            assert!(
                outcome.stderr.contains(part),
                "{part} is not in {}",
                outcome.stderr
            );
        }
    };
    let serve = |device| {
        let addresses = ["serve", "--listen", "127.0.0.1:0", "--metrics-listen", "off"];
        [&addresses[..], &["--model", "m=weights.gguf", "--device", device]].concat()
    };
    let absent = ["device cuda:4000", ": "];
    refused(&serve("cuda:4000"), &absent);
    refused(&serve("m=cuda:4000"), &absent);
    refused(&serve("gpu"), &["there are auto, cpu, cuda:N"]);
    refused(&serve("x=cpu"), &["`x` is not the id of a configured model"]);
    let bench = ["engine-bench", "--model", "dummy:tiny", "--device"];
    refused(&[&bench[..], &["cuda:4000"]].concat(), &absent);
    refused(&[&bench[..], &["auto"]].concat(), &["there are cpu, cuda:N"]);
    refused(&["demo", "--device", "cuda:4000"], &absent);
}

#[test]
fn engine_bench_says_which_device_it_measured() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "engine-bench",
        "--model",
        "dummy:tiny",
        "--prompt-tokens",
        "8",
        "--decode-tokens",
        "2",
        "--device",
        "cpu",
    ];
    let outcome = run(command(folder.path()).args(arguments));
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["device"], "cpu");
}

/// `engine-bench` with a tiny model.
fn engine_bench(arguments: &[&str]) -> Outcome {
    let folder = tempfile::tempdir().unwrap();
    let fixed = ["engine-bench", "--model", "dummy:tiny", "--prompt-tokens", "40"];
    run(command(folder.path()).args(fixed).args(arguments))
}

#[test]
fn engine_bench_measures_several_numbers_of_sequences_with_a_pool_for_the_most() {
    let outcome = engine_bench(&[
        "--decode-tokens",
        "3",
        "--sequences",
        "1,4",
        "--shared-tokens",
        "32",
        "--max-batch-tokens",
        "64",
    ]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let reports: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let sequences: Vec<_> = reports
        .iter()
        .map(|report| report["sequences"].as_u64().unwrap())
        .collect();
    assert_eq!(sequences, [1, 4]);
    for report in &reports {
        assert_eq!(report["shared_tokens"], 32);
        assert_eq!(report["window"], 8192);
        assert!(
            report["prefill_tok_s"].as_f64().unwrap() > 0.0 && report["decode_tok_s"].as_f64().unwrap() > 0.0
        );
        assert_eq!(report["load_s"], reports[0]["load_s"]);
        assert_eq!(report["device_bytes"], Value::Null);
        // Two blocks that are shared, and one of each sequence: 16 tokens of 2 layers, 2 heads of 16 dimensions, in f16.
        assert_eq!(report["kv_bytes"], 6 * 16 * 2 * 2 * (2 * 16) * 2);
        assert!(report["resident_bytes"].as_u64() > report["kv_bytes"].as_u64());
    }
}

#[test]
fn engine_bench_says_in_which_precision_it_computed() {
    let computed_in = |precision| {
        let outcome = engine_bench(&["--decode-tokens", "2", "--precision", precision]);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        report["precision"].as_str().unwrap().to_owned()
    };
    for precision in ["mixed", "int8", "bf16", "f32"] {
        assert_eq!(computed_in(precision), precision);
    }
    let chosen = computed_in("auto");
    assert!(["mixed", "int8"].contains(&chosen.as_str()), "{chosen}");
}

#[test]
fn engine_bench_prints_where_the_time_goes() {
    let outcome = engine_bench(&["--decode-tokens", "2", "--precision", "mixed", "--profile"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<Value> = outcome
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let phases: Vec<_> = lines.iter().map(|line| line["profile"].as_str()).collect();
    assert_eq!(phases, [None, Some("prefill"), Some("decode")]);
    for line in &lines[1..] {
        let operations = line["operations"].as_array().unwrap();
        let shares: f64 = operations.iter().map(|one| one["share"].as_f64().unwrap()).sum();
        assert!((shares - 1.0).abs() < 1e-9, "{line}");
        assert!(
            operations.iter().any(|one| one["operation"] == "attention"),
            "{line}"
        );
    }
}

#[test]
fn engine_bench_refuses_what_it_cannot_measure_with_the_reason() {
    let refused = |arguments: &[&str], part: &str| {
        let outcome = engine_bench(arguments);
        assert_ne!(outcome.code, 0, "{arguments:?}");
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    };
    refused(
        &["--shared-tokens", "20"],
        "20 shared tokens are no whole number of KV blocks: this device's have 16",
    );
    refused(
        &["--shared-tokens", "48"],
        "48 shared tokens leave nothing of prompts of 40 tokens",
    );
    refused(&["--shared-tokens", "16", "--adapter", "dummy:4"], "--adapter");
    refused(&["--sequences", "1,0"], "it has to be at least 1");
    refused(
        &["--sequences", "1000000", "--decode-tokens", "8000"],
        "bytes of memory are available, and this takes",
    );
    refused(
        &["--sequences", "18446744073709551615"],
        "it has to be at most 1048576",
    );
    refused(
        &["--decode-tokens", "9000"],
        "9040 tokens, prompt and answer together, and the window of the model has 8192",
    );
    refused(
        &["--no-graphs"],
        "only NVIDIA cards record decode steps, and the device is cpu",
    );
    let folder = tempfile::tempdir().unwrap();
    for (window, part) in [
        (
            "64",
            "104 tokens, prompt and answer together, and the window of the model has 64",
        ),
        (
            "none",
            "dummy window `none` is no number of tokens from 1 to 1048576",
        ),
    ] {
        let model = format!("dummy:tiny:f32:{window}");
        let counts = ["--prompt-tokens", "40", "--decode-tokens", "64"];
        let outcome = run(command(folder.path())
            .args(["engine-bench", "--model", &model])
            .args(counts));
        assert_ne!(outcome.code, 0);
        assert!(outcome.stderr.contains(part), "{}", outcome.stderr);
    }
    let outcome = run(command(folder.path()).args(["engine-bench", "--model", "dummy:tiny", "--ceilings"]));
    assert_ne!(outcome.code, 0);
    assert!(
        outcome
            .stderr
            .contains("the limits of cpu cannot be measured: only those of NVIDIA cards"),
        "{}",
        outcome.stderr
    );
}
