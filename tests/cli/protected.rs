//! A server with TLS and authentication as operators run it, from `keys new` to a rotation, and what it never logs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    sync::Arc,
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

use crate::{
    authority::Authority,
    common::smollm2,
    serve::serve,
    support::{Server, command, run},
};

/// Makes a key and returns it.
fn new_key(folder: &Path, tenant: &str, scopes: &str) -> String {
    let made = run(command(folder).args(["keys", "new", "--tenant", tenant, "--scopes", scopes]));
    assert_eq!(made.code, 0, "{}", made.stderr);
    made.stdout.trim().to_owned()
}

/// Asks the port of the metrics, over TLS, for this path. The status line and the body.
fn ask_metrics_port(address: &str, authority: &Authority, path: &str, header: &str) -> String {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(address).unwrap());
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n{header}connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
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
    assert!(server.wait_for("  callers").contains("need a key"));
    let address = |line: String| {
        line.split("https://")
            .nth(1)
            .unwrap()
            .split(['/', ' '])
            .next()
            .unwrap()
            .to_owned()
    };
    let url = format!("https://{}", address(server.wait_for("  gRPC")));
    let admin = format!("https://{}", address(server.wait_for("  admin")));
    // As kubelets and Prometheus ask.
    let metrics = address(server.wait_for("  metrics"));
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
    let cases: [(&[&str], i32, &str); 6] = [
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
