//! A server with TLS and authentication as operators run it, from `keys new` to a rotation, and what it never logs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::process::ExitStatusExt as _,
    process::Command,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};

use crate::{
    authority::{Authority, Identity},
    common::smollm2,
    serve::{TLS_AND_KEYS, new_key, serve},
    support::{Server, command, run},
};

/// Asks the port of the metrics, over TLS, for this path. The status line and the body.
fn ask_metrics_port(url: &str, authority: &Authority, path: &str, header: &str) -> String {
    ask_metrics_port_as(None, url, authority, path, header)
}

/// The same of a client that shows this certificate.
fn ask_metrics_port_as(
    identity: Option<&Identity>,
    url: &str,
    authority: &Authority,
    path: &str,
    header: &str,
) -> String {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => config.with_no_client_auth(),
        Some(identity) => {
            let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap()];
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            config.with_client_auth_cert(chain, key).unwrap()
        }
    };
    let address = url.trim_start_matches("https://").trim_end_matches("/metrics");
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\n\r\n");
    // A server that does not accept the client may have closed already.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    // A peer that closes without saying so over TLS is an error after the answer.
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn a_protected_server_is_called_rotated_and_logs_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let trusted = authority.write(folder.path(), "ca.pem");
    authority.issue(&["127.0.0.1"]).write(folder.path(), "server");
    let first = new_key(folder.path(), "first", "classify");
    let reader = new_key(folder.path(), "prometheus", "metrics");
    let mut server = Server::start(
        serve(
            folder.path(),
            &[
                "--tls-certificate",
                "server.pem",
                "--tls-key",
                "server.key",
                "--keys-file",
                "keys.toml",
                "--admin-listen",
                "127.0.0.1:0",
                "--allow-admin",
                "--log-level",
                "trace",
            ],
        )
        // It looks when it is told to.
        .env("BABELWARD_SERVER__RELOAD_INTERVAL", "1h"),
    );
    // The test's own file has the mode that files get by default.
    assert!(
        server
            .wait_for("other users of this machine may read")
            .contains("server.key")
    );
    assert!(server.wait_for("  callers").contains("need a key"));
    let (url, admin) = (server.url("  gRPC"), server.url("  admin"));
    // As kubelets and Prometheus ask.
    let metrics = server.url("  metrics");
    for (path, header, status) in [
        ("/healthz", String::new(), "200"),
        (
            "/healthz?service=babelward.v1.SafetyService",
            String::new(),
            "200",
        ),
        (
            "/healthz?service=babelward.v1.QualityService",
            String::new(),
            "503",
        ),
        ("/healthz?service=babelward.v1.NoService", String::new(), "404"),
        ("/livez", String::new(), "200"),
        ("/metrics", String::new(), "401"),
        ("/metrics", format!("authorization: Bearer {first}\r\n"), "403"),
    ] {
        let answer = ask_metrics_port(&metrics, &authority, path, &header);
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{path}: {answer}"
        );
    }
    let header = format!("authorization: Bearer {reader}\r\n");
    let answer = ask_metrics_port(&metrics, &authority, "/metrics", &header);
    assert!(answer.contains("babelward_"), "{answer}");
    let left = answer
        .lines()
        .find_map(|line| line.strip_prefix("babelward_tls_certificate_seconds_left "));
    assert!(left.unwrap().parse::<f64>().unwrap() > 3600.0, "{left:?}");
    assert!(
        answer.contains("babelward_auth_refused_total{reason=\"missing\"} 1"),
        "{answer}"
    );
    assert!(
        answer.contains("babelward_auth_refused_total{reason=\"scope\"} 1"),
        "{answer}"
    );

    let classify = |variables: &[(&str, &str)], arguments: &[&str]| {
        run(command(folder.path())
            .envs(variables.iter().copied())
            .args(["classify", "hi", "--server", &url, "--ca-file", &trusted])
            .args(arguments))
    };
    let outcome = classify(&[("BABELWARD_TOKEN", &first)], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    fs::write(folder.path().join("token"), format!("{first}\n")).unwrap();
    let outcome = classify(&[], &["--token-file", "token"]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let outcome = classify(&[("BABELWARD_TOKEN_FILE", "token")], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let outcome = classify(&[], &[]);
    assert!(outcome.stderr.contains("CREDENTIALS_MISSING") && outcome.stderr.contains("--token-file"));
    let outcome = classify(&[("BABELWARD_TOKEN", "bw_wrong-canary")], &[]);
    assert!(
        outcome.stderr.contains("CREDENTIALS_INVALID"),
        "{}",
        outcome.stderr
    );
    assert!(!outcome.stderr.contains("wrong-canary"));

    // A second key, and the first one revoked, without a restart.
    let second = new_key(folder.path(), "second", "classify,admin");
    assert_eq!(
        run(command(folder.path()).args(["keys", "revoke", "first"])).code,
        0
    );
    server.signal("HUP");
    server.wait_for("its new content is in force");
    let outcome = classify(&[("BABELWARD_TOKEN", &second)], &[]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let outcome = classify(&[("BABELWARD_TOKEN", &first)], &[]);
    assert!(
        outcome.stderr.contains("CREDENTIALS_INVALID"),
        "{}",
        outcome.stderr
    );
    fs::write(folder.path().join("keys.toml"), "not a file of keys").unwrap();
    server.signal("HUP");
    server.wait_for("the earlier content stays in force");

    let estimate = |url: &str| {
        run(command(folder.path()).env("BABELWARD_TOKEN", &second).args([
            "models",
            "estimate",
            "smol",
            "--server",
            url,
            "--ca-file",
            &trusted,
        ]))
    };
    let outcome = estimate(&admin);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(estimate(&url).stderr.contains("ADMIN_ELSEWHERE"));

    server.signal("TERM");
    let (status, stderr, stdout) = server.end();
    assert_eq!(status.code(), Some(0), "{stderr}");
    assert_eq!(stdout, "");
    for secret in [first.as_str(), &second, &reader, "wrong-canary", "PRIVATE KEY"] {
        assert!(!stderr.contains(secret), "the log has a secret");
    }
}

#[test]
fn a_server_does_not_start_with_files_that_protect_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    authority.issue(&["127.0.0.1"]).write(folder.path(), "server");
    other.issue(&["127.0.0.1"]).write(folder.path(), "other");
    new_key(folder.path(), "team", "classify");
    fs::write(folder.path().join("bad.toml"), "[[keys]]\nid = \"x\"\n").unwrap();
    authority
        .issue_for(&["127.0.0.1"], 2000, 2020)
        .write(folder.path(), "old");
    let cases: [(&[&str], i32, &str); 10] = [
        (
            &["--tls-certificate", "old.pem", "--tls-key", "old.key"],
            7,
            "ended at 2020-01-01",
        ),
        (
            &["--admin-listen", "0.0.0.0:0", "--allow-admin"],
            2,
            "server.admin_listen",
        ),
        (
            &[
                "--admin-listen",
                "0.0.0.0:0",
                "--allow-admin",
                "--keys-file",
                "keys.toml",
            ],
            2,
            "keys and tokens are not encrypted",
        ),
        (
            // It says that nobody encrypts, and not that nobody needs to be known.
            &["--listen", "0.0.0.0:0", "--insecure-no-tls"],
            2,
            "without authentication",
        ),
        (&["--listen", "0.0.0.0:0"], 2, "without authentication"),
        (
            &["--listen", "0.0.0.0:0", "--keys-file", "keys.toml"],
            2,
            "keys and tokens are not encrypted",
        ),
        (&["--keys-file", "missing.toml"], 7, "missing.toml does not exist"),
        (&["--keys-file", "bad.toml"], 7, "bad.toml"),
        (
            &["--tls-certificate", "server.pem", "--tls-key", "other.key"],
            7,
            "other.key cannot be used",
        ),
        (&["--admin-listen", "127.0.0.1:0"], 2, "--allow-admin"),
    ];
    for (arguments, code, says) in cases {
        let model = format!("smol={}", smollm2().display());
        let outcome = run(command(folder.path())
            .args(["serve", "--metrics-listen", "off", "--model", &model])
            .args(arguments));
        assert_eq!(outcome.code, code, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{arguments:?}: {}", outcome.stderr);
    }
}

/// Opening a pipe would wait for a writer for ever, and a file may be larger than the memory.
#[test]
fn files_that_are_no_plain_files_or_too_large_are_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.issue(&["127.0.0.1"]).write(folder.path(), "server");
    new_key(folder.path(), "team", "classify");
    let made = Command::new("mkfifo").arg(folder.path().join("pipe")).status();
    assert!(made.unwrap().success());
    let large = fs::File::create(folder.path().join("large")).unwrap();
    // It takes no room on the disk.
    large.set_len(1 << 40).unwrap();
    let model = format!("smol={}", smollm2().display());
    let server: [&[&str]; 6] = [
        &["--keys-file", "FILE"],
        &["--tls-certificate", "FILE", "--tls-key", "server.key"],
        &["--tls-certificate", "server.pem", "--tls-key", "FILE"],
        &TLS_AND_KEYS,
        &TLS_AND_KEYS,
        &[],
    ];
    let variables: [&[(&str, &str)]; 6] = [
        &[],
        &[],
        &[],
        &[("BABELWARD_TLS__CLIENT_CA", "FILE")],
        &[
            ("BABELWARD_TLS__CLIENT_CA", "server.pem"),
            ("BABELWARD_TLS__CLIENT_CRL", "FILE"),
        ],
        &[
            ("BABELWARD_AUTH__JWKS_FILE", "FILE"),
            ("BABELWARD_AUTH__JWT_ISSUER", "i"),
            ("BABELWARD_AUTH__JWT_AUDIENCE", "a"),
        ],
    ];
    for (file, says) in [
        ("pipe", "it is not a regular file"),
        ("large", "bytes, which is the limit"),
    ] {
        let named = |word: &'static str| if word == "FILE" { file } else { word };
        for (arguments, variables) in server.iter().zip(variables) {
            let outcome = run(command(folder.path())
                .args([
                    "serve",
                    "--listen",
                    "127.0.0.1:0",
                    "--metrics-listen",
                    "off",
                    "--model",
                    &model,
                ])
                .args(arguments.iter().map(|word| named(word)))
                .envs(variables.iter().map(|(name, value)| (*name, named(value)))));
            assert_eq!(outcome.code, 7, "{file} {arguments:?}: {}", outcome.stderr);
            assert!(
                outcome.stderr.contains(says),
                "{file} {arguments:?}: {}",
                outcome.stderr
            );
        }
        for arguments in [
            ["--token-file", file].as_slice(),
            &["--ca-file", file],
            &["--client-cert", file, "--client-key", "server.key"],
            &["--client-cert", "server.pem", "--client-key", file],
        ] {
            let outcome = run(command(folder.path())
                .args(["classify", "hi", "--server", "https://127.0.0.1:1"])
                .args(arguments));
            assert_eq!(outcome.code, 7, "{arguments:?}: {}", outcome.stderr);
            assert!(outcome.stderr.contains(says), "{arguments:?}: {}", outcome.stderr);
        }
    }
}

/// 0.0.0.0 is this machine, and looks as another machine's address does.
#[test]
fn a_key_is_sent_to_other_machines_in_clear_only_when_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let key = new_key(folder.path(), "team", "classify");
    let mut server = Server::start(&mut serve(folder.path(), &["--keys-file", "keys.toml"]));
    let here = server.url("  gRPC");
    let elsewhere = here.replace("127.0.0.1", "0.0.0.0");
    let classify = |url: &str, variables: &[(&str, &str)], arguments: &[&str]| {
        run(command(folder.path())
            .env("BABELWARD_TOKEN", &key)
            .envs(variables.iter().copied())
            .args(["classify", "hi", "--server", url])
            .args(arguments))
    };
    server.wait_for("  try ");
    let flag = "--insecure-plaintext-token";
    let variable = "BABELWARD_INSECURE_PLAINTEXT_TOKEN";
    assert_eq!(classify(&here, &[], &[]).code, 0);
    for url in [&elsewhere, &format!("{here},{elsewhere}")] {
        for variables in [&[][..], &[(variable, "")], &[(variable, "false")]] {
            let refused = classify(url, variables, &[]);
            assert_eq!(refused.code, 2, "{}", refused.stderr);
            assert!(
                refused.stderr.contains("https://") && refused.stderr.contains(flag),
                "{}",
                refused.stderr
            );
            assert!(!refused.stderr.contains(&key));
        }
        assert_eq!(classify(url, &[], &[flag]).code, 0);
        assert_eq!(classify(url, &[(variable, "true")], &[]).code, 0);
    }
    let wrong = classify(&elsewhere, &[(variable, "perhaps")], &[]);
    assert!(
        wrong.code == 2 && wrong.stderr.contains("write true or false"),
        "{}",
        wrong.stderr
    );
    // Without a key there is nothing to hide.
    let plain = run(command(folder.path()).args(["classify", "hi", "--server", &elsewhere]));
    assert!(plain.stderr.contains("CREDENTIALS_MISSING"), "{}", plain.stderr);
    let doctor = run(command(folder.path())
        .env("BABELWARD_TOKEN", &key)
        .args(["doctor", "--server", &elsewhere]));
    assert!(
        doctor.code == 1 && doctor.stdout.contains("say https://"),
        "{}",
        doctor.stdout
    );
}

/// The command in a process that hanging up ends, whatever this one does.
fn with_default_hang_up(command: &Command) -> Command {
    let mut wrapped = Command::new("env");
    wrapped
        .arg("--default-signal=HUP")
        .arg(command.get_program())
        .args(command.get_args());
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    wrapped
}

#[test]
fn closing_the_terminal_ends_a_server_that_has_no_files_to_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = serve(folder.path(), &["--allow-admin", "--insecure-no-auth"]);
    // Other machines reach one of its listeners only, which is told all the same.
    command.env("BABELWARD_SERVER__ADMIN_LISTEN", "0.0.0.0:0");
    // Also where these tests themselves do not end with their terminal.
    let mut server = Server::start(&mut with_default_hang_up(&command));
    server.wait_for("WARNING   other machines can reach this server");
    server.wait_for("  try ");
    server.signal("HUP");
    // If that did nothing, this would end it in order.
    server.signal("TERM");
    let (status, stderr, _) = server.end();
    assert_eq!(status.signal(), Some(1), "{status}: {stderr}");
}

#[test]
fn the_metrics_are_read_with_a_certificate_and_probes_need_none() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, of_clients) = (Authority::new(), Authority::new());
    authority.issue(&["127.0.0.1"]).write(folder.path(), "server");
    of_clients.write(folder.path(), "clients.pem");
    let entry = |id: &str, scope: &str| {
        format!(
            "[[certificates]]\nid = \"{id}\"\ndns = \"{id}\"\ntenant = \"{id}\"\nscopes = [\"{scope}\"]\n"
        )
    };
    let text = entry("prometheus", "metrics") + &entry("caller", "classify");
    fs::write(folder.path().join("keys.toml"), text).unwrap();
    let mut server =
        Server::start(serve(folder.path(), &TLS_AND_KEYS).env("BABELWARD_TLS__CLIENT_CA", "clients.pem"));
    let metrics = server.url("  metrics");
    let ask = |identity: Option<&Identity>, path: &str| {
        let answer = ask_metrics_port_as(identity, &metrics, &authority, path, "");
        answer.split(' ').nth(1).map(str::to_owned)
    };
    let [prometheus, caller] = ["prometheus", "caller"].map(|name| of_clients.issue(&[name]));
    let stranger = Authority::new().issue(&["prometheus"]);
    assert_eq!(ask(Some(&prometheus), "/metrics").as_deref(), Some("200"));
    assert_eq!(ask(Some(&caller), "/metrics").as_deref(), Some("403"));
    assert_eq!(ask(None, "/metrics").as_deref(), Some("401"));
    assert_eq!(ask(None, "/livez").as_deref(), Some("200"));
    assert_eq!(ask(Some(&stranger), "/metrics"), None);
}
