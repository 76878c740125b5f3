mod adapters;
mod decisions;
mod devices;
mod doors;
mod endpoints;
mod estimators;
mod policies;
mod precision;
mod security;
mod telemetry;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::guard::GuardKind;

/// A configuration file in a folder of its own, with a file that can stand for a model.
pub(super) struct Folder {
    folder: tempfile::TempDir,
}

impl Folder {
    pub(super) fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("babelward.toml"), text).unwrap();
        fs::write(folder.path().join("weights.gguf"), "").unwrap();
        Self { folder }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.folder.path().join("babelward.toml")
    }

    pub(super) fn weights(&self) -> PathBuf {
        self.folder.path().join("weights.gguf")
    }

    pub(super) fn inputs(&self, env: &[(&str, &str)], flags: FlagOverrides) -> Inputs {
        Inputs {
            file: Some(self.file()),
            env: pairs(env),
            folders: Vec::new(),
            flags,
        }
    }
}

fn pairs(env: &[(&str, &str)]) -> Vec<(String, String)> {
    env.iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn from_env(env: &[(&str, &str)]) -> Loaded {
    load(&Inputs {
        env: pairs(env),
        ..Inputs::default()
    })
}

fn problems(loaded: &Loaded) -> Vec<String> {
    match &loaded.config {
        Ok(_) => Vec::new(),
        Err(error) => error.problems.iter().map(ToString::to_string).collect(),
    }
}

fn entry<'a>(loaded: &'a Loaded, key: &str) -> &'a Entry {
    loaded.entries.iter().find(|entry| entry.key == key).unwrap()
}

#[test]
fn defaults_are_valid_and_every_key_has_a_place() {
    let loaded = load(&Inputs::default());
    let config = loaded.config.unwrap();
    assert_eq!(config.server.listen, "127.0.0.1:50051".parse().unwrap());
    assert_eq!(config.server.drain_grace, Duration::from_secs(30));
    assert_eq!((config.engine.kv_memory, config.memory_budget), (None, None));
    // The documented defaults are those that the types have.
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.deadlines.defaults, DefaultDeadlines::default());
    assert!(config.models.is_empty());
    assert_eq!(loaded.entries.len(), KEYS.len());
    assert!(loaded.entries.iter().all(|entry| entry.origin == Origin::Default));
}

#[test]
fn flags_beat_variables_beat_the_file_beats_defaults() {
    let folder = Folder::new(
        "[server]\nlisten = \"127.0.0.1:1001\"\nmetrics_listen = \"127.0.0.1:1002\"\ndrain_grace = \"1s\"\n",
    );
    let env = [
        ("BABELWARD_SERVER__LISTEN", "127.0.0.1:2001"),
        ("BABELWARD_SERVER__METRICS_LISTEN", "127.0.0.1:2002"),
    ];
    let flags = FlagOverrides {
        values: vec![("--listen", "server.listen", "127.0.0.1:3001".to_owned())],
        ..FlagOverrides::default()
    };
    let loaded = load(&folder.inputs(&env, flags));
    let config = loaded.config.clone().unwrap();
    assert_eq!(config.server.listen.port(), 3001);
    assert_eq!(config.server.metrics_listen.unwrap().port(), 2002);
    assert_eq!(config.server.drain_grace, Duration::from_secs(1));
    assert_eq!(config.engine.queue_items, 2048);
    assert_eq!(entry(&loaded, "server.listen").origin, Origin::Flag("--listen"));
    assert_eq!(
        entry(&loaded, "server.metrics_listen").origin,
        Origin::Env("BABELWARD_SERVER__METRICS_LISTEN".to_owned())
    );
    assert_eq!(
        entry(&loaded, "server.drain_grace").origin,
        Origin::File(folder.file())
    );
    assert_eq!(entry(&loaded, "engine.queue_items").origin, Origin::Default);
}

#[test]
fn unknown_keys_name_themselves_their_source_and_a_suggestion() {
    let folder = Folder::new(
        "[server]\nlisen = \"127.0.0.1:1\"\n[models.smol]\npath = \"weights.gguf\"\nrole = [\"guard\"]\n",
    );
    let env = [
        ("BABELWARD_ENGINE__KV_MEMROY", "1GiB"),
        ("BABELWARD_LISTEN", "127.0.0.1:1"),
    ];
    let loaded = load(&folder.inputs(&env, FlagOverrides::default()));
    let file = folder.file().display().to_string();
    let found = problems(&loaded);
    let expected = [
        "BABELWARD_LISTEN (BABELWARD_LISTEN): no such key; did you mean BABELWARD_SERVER__LISTEN?".to_owned(),
        "engine.kv_memroy (BABELWARD_ENGINE__KV_MEMROY): no such key; did you mean \
         BABELWARD_ENGINE__KV_MEMORY?"
            .to_owned(),
        format!("models.smol.role ({file}): no such key; did you mean models.smol.roles?"),
        format!("server.lisen ({file}): no such key; did you mean server.listen?"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_wrong_section_is_unknown_too() {
    let folder = Folder::new("engine = 5\n[sevrer]\nlisten = \"127.0.0.1:1\"\n");
    let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
    let file = folder.file().display().to_string();
    assert_eq!(
        problems(&loaded),
        [
            format!("engine ({file}): a section, not a value; write [engine] and its keys below it"),
            format!("sevrer.listen ({file}): no such key; did you mean server.listen?"),
        ]
    );
}

#[test]
fn all_problems_are_told_at_once_with_field_and_fix() {
    let folder = Folder::new(
        "[server]\nlisten = \"localhost\"\ndrain_grace = 30\n[engine]\nmax_batch_sequences = 0\n\
         kv_memory = \"12 parsecs\"\n[limits]\nsamples = -1\n[telemetry]\nlog_format = \"xml\"\n\
         [models.m]\nroles = [\"judge\"]\n[defaults]\ntarget = \"x\"\n",
    );
    let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
    let error = loaded.config.clone().unwrap_err();
    let mut keys: Vec<_> = error
        .problems
        .iter()
        .map(|problem| problem.key.as_str())
        .collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "defaults.target",
            "engine.kv_memory",
            "engine.max_batch_sequences",
            "limits.samples",
            "models.m.path",
            "models.m.roles",
            "server.drain_grace",
            "server.listen",
            "telemetry.log_format",
        ]
    );
    assert!(error.problems.iter().all(|problem| !problem.fix.is_empty()));
    assert_eq!(error.to_string().lines().count(), 1 + keys.len());
    // The values as written are shown all the same.
    assert_eq!(
        entry(&loaded, "engine.kv_memory").value.as_deref(),
        Some("12 parsecs")
    );
}

#[test]
fn listening_beyond_this_machine_needs_to_be_said() {
    let refused = from_env(&[("BABELWARD_SERVER__LISTEN", "0.0.0.0:50051")]);
    let found = problems(&refused);
    assert_eq!(found.len(), 1);
    assert!(found[0].starts_with("server.listen (BABELWARD_SERVER__LISTEN): 0.0.0.0:50051 can be reached"));
    assert!(found[0].contains("--insecure-no-auth"));
    let refused = from_env(&[("BABELWARD_SERVER__METRICS_LISTEN", "[::]:9464")]);
    let found = problems(&refused);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].starts_with("server.metrics_listen (BABELWARD_SERVER__METRICS_LISTEN): [::]:9464 can be")
    );
    assert!(found[0].contains("--insecure-no-auth"));
    let allowed = from_env(&[
        ("BABELWARD_SERVER__LISTEN", "0.0.0.0:50051"),
        ("BABELWARD_SERVER__METRICS_LISTEN", "0.0.0.0:9464"),
        ("BABELWARD_SERVER__INSECURE_NO_AUTH", "true"),
    ]);
    assert!(allowed.config.is_ok());
}

#[test]
fn models_come_from_the_file_with_paths_beside_it() {
    let folder = Folder::new(
        "[models.\"llama-guard-3.1\"]\npath = \"weights.gguf\"\nroles = [\"guard\"]\n\
         guard_kind = \"llama-guard-3-1b\"\nload = \"lazy\"\npinned = true\n[models.smol]\npath = \"weights.gguf\"\n",
    );
    let config = load(&folder.inputs(&[], FlagOverrides::default()))
        .config
        .unwrap();
    let expected = [
        Model {
            id: "llama-guard-3.1".to_owned(),
            path: folder.weights(),
            endpoint: None,
            roles: vec![Role::Guard],
            guard_kind: Some(GuardKind::LlamaGuard3_1B),
            precision: None,
            device: None,
            load: LoadPolicy::Lazy,
            pinned: true,
            base: None,
        },
        Model {
            id: "smol".to_owned(),
            path: folder.weights(),
            endpoint: None,
            roles: vec![Role::Target],
            guard_kind: None,
            precision: None,
            device: None,
            load: LoadPolicy::Eager,
            pinned: false,
            base: None,
        },
    ];
    assert_eq!(config.models, expected);
    assert_eq!(config.defaults.target.as_deref(), Some("smol"));
    assert_eq!(config.defaults.guard.as_deref(), Some("llama-guard-3.1"));
}

#[test]
fn a_model_can_be_given_by_variables_alone() {
    let folder = Folder::new("");
    let weights = folder.weights().display().to_string();
    let env = [
        ("BABELWARD_MODELS__SMOL__PATH", weights.as_str()),
        ("BABELWARD_MODELS__SMOL__ROLES", "target, guard"),
    ];
    let config = from_env(&env).config.unwrap();
    assert_eq!(config.models.len(), 1);
    assert_eq!(config.models[0].id, "smol");
    assert_eq!(config.models[0].roles, [Role::Target, Role::Guard]);
}

#[test]
fn model_flags_add_models_roles_and_defaults() {
    let folder = Folder::new("[models.other]\npath = \"weights.gguf\"\n[defaults]\ntarget = \"other\"\n");
    let flags = FlagOverrides {
        models: vec![FlagModel {
            id: "smol".to_owned(),
            path: folder.weights(),
        }],
        guards: vec!["smol".to_owned()],
        ..FlagOverrides::default()
    };
    let loaded = load(&folder.inputs(&[], flags));
    let config = loaded.config.clone().unwrap();
    let roles: Vec<_> = config
        .models
        .iter()
        .map(|m| (m.id.as_str(), m.roles.as_slice()))
        .collect();
    assert_eq!(
        roles,
        [
            ("other", [Role::Target].as_slice()),
            ("smol", [Role::Target, Role::Guard].as_slice())
        ]
    );
    assert_eq!(config.defaults.target.as_deref(), Some("smol"));
    assert_eq!(config.defaults.guard.as_deref(), Some("smol"));
    assert_eq!(entry(&loaded, "models.smol.path").origin, Origin::Flag("--model"));
    assert_eq!(
        entry(&loaded, "models.smol.roles").origin,
        Origin::Flag("--guard")
    );
    assert_eq!(entry(&loaded, "models.other.roles").origin, Origin::Default);
}

#[test]
fn an_id_that_flags_give_to_two_models_is_refused() {
    let folder = Folder::new("");
    let weights = folder.weights();
    let model = |path: &Path| FlagModel {
        id: "smol".to_owned(),
        path: path.to_owned(),
    };
    let flags = |models: [FlagModel; 2]| FlagOverrides {
        models: models.to_vec(),
        ..FlagOverrides::default()
    };
    let twice = flags([model(&weights), model(&weights)]);
    assert!(load(&folder.inputs(&[], twice)).config.is_ok());
    let other = weights.with_file_name(".");
    let found = problems(&load(
        &folder.inputs(&[], flags([model(&weights), model(&other)])),
    ));
    assert!(found[0].starts_with("--model: `smol` is "), "{found:?}");
}

#[test]
fn a_guard_flag_takes_a_path_or_an_id_and_suggests_the_id() {
    let folder = Folder::new("[models.smol]\npath = \"weights.gguf\"\n");
    let weights = folder.weights().display().to_string();
    let guard = |text: String| FlagOverrides {
        guards: vec![text],
        ..FlagOverrides::default()
    };
    let by_path = load(&folder.inputs(&[], guard(weights.clone()))).config.unwrap();
    assert_eq!(by_path.defaults.guard.as_deref(), Some("guard"));
    let named = load(&folder.inputs(&[], guard(format!("lg={weights}"))))
        .config
        .unwrap();
    assert_eq!(named.defaults.guard.as_deref(), Some("lg"));
    let found = problems(&load(&folder.inputs(&[], guard("smoll".to_owned()))));
    assert_eq!(
        found,
        [
            "--guard: `smoll` is neither a path that exists nor the id of a configured model; did you mean smol?"
        ]
    );
}

#[test]
fn a_listen_address_may_be_a_name() {
    let listen = |text: &str| from_env(&[("BABELWARD_SERVER__LISTEN", text)]).config;
    let address = listen("localhost:1234").unwrap().server.listen;
    assert!(address.ip().is_loopback(), "{address}");
    assert_eq!(address.port(), 1234);
    for wrong in ["localhost", "localhost:", "no such host:1", "localhost:99999"] {
        let error = listen(wrong).unwrap_err().to_string();
        assert!(error.contains("such as localhost:50051"), "{error}");
    }
}

#[test]
fn only_missing_files_are_told_apart_from_wrong_values() {
    let is_of_files = |text: &str| {
        let folder = Folder::new(text);
        let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
        loaded.config.unwrap_err().is_of_files()
    };
    assert!(is_of_files("[models.m]\npath = \"missing.gguf\"\n"));
    assert!(is_of_files("[policies]\nfiles = [\"missing.toml\"]\n"));
    assert!(!is_of_files("[models.m]\nroles = [\"target\"]\n"));
    assert!(!is_of_files(
        "[models.m]\npath = \"missing.gguf\"\n[engine]\nthreads = \"many\"\n"
    ));
}

#[test]
fn a_named_file_must_exist_and_be_toml() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("no.toml");
    let loaded = load(&Inputs {
        file: Some(missing.clone()),
        ..Inputs::default()
    });
    assert!(problems(&loaded)[0].starts_with(&format!("{} (--config):", missing.display())));
    let broken = Folder::new("[server\n");
    let by_env = from_env(&[("BABELWARD_CONFIG", broken.file().to_str().unwrap())]);
    let found = problems(&by_env);
    assert_eq!(found.len(), 1);
    assert!(
        found[0].contains("(BABELWARD_CONFIG): not valid TOML"),
        "{found:?}"
    );
}

#[test]
fn the_first_folder_with_a_file_wins() {
    let first = Folder::new("[limits]\nsamples = 3\n");
    let second = Folder::new("[limits]\nsamples = 4\n");
    let empty = tempfile::tempdir().unwrap();
    let loaded = load(&Inputs {
        folders: [empty.path(), first.folder.path(), second.folder.path()]
            .map(PathBuf::from)
            .to_vec(),
        ..Inputs::default()
    });
    assert_eq!(loaded.config.unwrap().limits.samples, 3);
    assert_eq!(loaded.file, Some(first.file()));
}

#[test]
fn variables_that_kubernetes_injects_are_not_keys() {
    let env = [
        ("BABELWARD_PORT", "tcp://10.0.0.1:50051"),
        ("BABELWARD_PORT_50051_TCP_ADDR", "10.0.0.1"),
        ("BABELWARD_SERVICE_HOST", "10.0.0.1"),
        ("BABELWARD_CACHE", "/somewhere"),
        ("OTHER_SERVER__LISTEN", "x"),
    ];
    assert_eq!(problems(&from_env(&env)), Vec::<String>::new());
}

#[test]
fn sizes_and_times_are_read_exactly() {
    let config = from_env(&[
        ("BABELWARD_ENGINE__KV_MEMORY", "3GiB"),
        ("BABELWARD_LIMITS__MESSAGE_BYTES", "300000"),
        ("BABELWARD_DEADLINES__MODELS", "250ms"),
        ("BABELWARD_DEADLINES__GUARD_HEARTBEAT", "100ms"),
        ("BABELWARD_ENGINE__THREADS", "3"),
        ("BABELWARD_ENGINE__MAX_CONTEXT", "1024"),
        ("BABELWARD_SERVER__METRICS_LISTEN", "off"),
    ])
    .config
    .unwrap();
    assert_eq!(config.engine.kv_memory, Some(3 << 30));
    assert_eq!(config.limits.message_bytes, 300_000);
    assert_eq!(config.deadlines.defaults.models, Duration::from_millis(250));
    assert_eq!(config.deadlines.guard_heartbeat, Duration::from_millis(100));
    assert_eq!(config.engine.threads.map(|n| n.get()), Some(3));
    assert_eq!(config.engine.max_context.map(|n| n.get()), Some(1024));
    assert_eq!(config.server.metrics_listen, None);
    for (name, value) in [
        ("BABELWARD_ENGINE__KV_MEMORY", "99999999999999999999GiB"),
        ("BABELWARD_ENGINE__KV_MEMORY", "17179869184GiB"),
        ("BABELWARD_ENGINE__THREADS", "0"),
        ("BABELWARD_ENGINE__THREADS", "1.5"),
        ("BABELWARD_DEADLINES__MODELS", "0s"),
        ("BABELWARD_DEADLINES__MODELS", "5"),
        ("BABELWARD_DEADLINES__GUARD_HEARTBEAT", "99ms"),
        ("BABELWARD_DEADLINES__GUARD_HEARTBEAT", "11m"),
        ("BABELWARD_SERVER__LISTEN", ""),
        ("BABELWARD_TELEMETRY__LOG_LEVEL", "a=b=c"),
    ] {
        assert_eq!(problems(&from_env(&[(name, value)])).len(), 1, "{name}={value}");
    }
}

#[test]
fn combinations_that_cannot_work_are_refused() {
    let found = problems(&from_env(&[
        ("BABELWARD_ENGINE__MAX_BATCH_TOKENS", "8"),
        ("BABELWARD_LIMITS__CONTENT_BYTES", "16MiB"),
        ("BABELWARD_LIMITS__DEFAULT_NEW_TOKENS", "5000"),
        ("BABELWARD_SERVER__METRICS_LISTEN", "127.0.0.1:50051"),
    ]));
    let keys: Vec<_> = found
        .iter()
        .map(|line| line.split([' ', ':']).next().unwrap())
        .collect();
    assert_eq!(
        keys,
        [
            "server.metrics_listen",
            "engine.max_batch_sequences",
            "limits.content_bytes",
            "limits.default_new_tokens"
        ]
    );
}

#[test]
fn the_manual_lists_every_key_with_its_default() {
    let manual = include_str!("../../docs/configuration.md");
    for (prefix, keys) in [("", KEYS), ("models.ID.", MODEL_KEYS)] {
        for key in keys {
            let default = key
                .default
                .map_or("–".to_owned(), |default| format!("`{default}`"));
            let row = format!("| `{prefix}{}` | {default} | {} |", key.name, key.about);
            assert!(
                manual.contains(&row),
                "docs/configuration.md lacks the row\n{row}"
            );
        }
    }
}
