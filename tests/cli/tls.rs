//! Client commands against a server behind TLS, as a proxy gives it.

use std::{fs, net::SocketAddr, path::Path, thread};

use babelward::proto::safety_service_server::SafetyServiceServer;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::{
    authority::Authority,
    client::{Scripted, scripted},
    support::{Outcome, command, run},
};

/// A server whose certificate is for these names; it lives as long as the test's process.
fn serve(authority: &Authority, names: &[&str]) -> SocketAddr {
    let identity = authority.issue(names);
    let identity = Identity::from_pem(identity.certificate, identity.key);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let serving = Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))
            .unwrap()
            .add_service(SafetyServiceServer::new(Scripted))
            .serve_with_incoming(TcpListenerStream::new(listener));
        runtime.block_on(serving).unwrap();
    });
    address
}

/// Variables by name and value.
type Environment<'a> = &'a [(&'a str, &'a str)];

fn classify(folder: &Path, environment: Environment, arguments: &[&str]) -> Outcome {
    let mut command = command(folder);
    command.env_remove("SSL_CERT_FILE").env_remove("SSL_CERT_DIR");
    run(command
        .envs(environment.iter().copied())
        .args(["classify", "safe a", "--timeout", "20s"])
        .args(arguments))
}

#[test]
fn a_server_behind_tls_is_called_when_its_authority_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let address = serve(&authority, &["localhost", "127.0.0.1"]);
    let trusted = authority.write(folder.path(), "ca.pem");
    let by_address = format!("https://{address}");
    let by_name = format!("https://localhost:{}", address.port());
    let ways: [(Environment, &[&str]); 4] = [
        (&[], &["--server", &by_address, "--ca-file", &trusted]),
        (&[], &["--server", &by_name, "--ca-file", &trusted]),
        (&[("BABELWARD_CA_FILE", &trusted)], &["--server", &by_address]),
        // What the system trusts.
        (&[("SSL_CERT_FILE", &trusted)], &["--server", &by_address]),
    ];
    for (environment, arguments) in ways {
        let outcome = classify(folder.path(), environment, arguments);
        assert_eq!(outcome.code, 0, "{arguments:?}: {}", outcome.stderr);
        assert!(outcome.stdout.starts_with("SAFE"), "{}", outcome.stdout);
    }
}

#[test]
fn servers_that_are_found_by_their_name_must_have_its_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let trusted = authority.write(folder.path(), "ca.pem");
    let named = |names: &[&str]| format!("dns+https:///localhost:{}", serve(&authority, names).port());
    // The certificate has the name alone, and not the addresses behind it.
    let server = named(&["localhost"]);
    let outcome = classify(folder.path(), &[], &["--server", &server, "--ca-file", &trusted]);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let server = named(&["127.0.0.1"]);
    let outcome = classify(folder.path(), &[], &["--server", &server, "--ca-file", &trusted]);
    assert_eq!(outcome.code, 6, "{}", outcome.stderr);
}

#[test]
fn a_certificate_that_is_not_trusted_ends_the_command_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(), Authority::new());
    let trusted = authority.write(folder.path(), "ca.pem");
    let stranger = other.write(folder.path(), "other.pem");
    let server = format!("https://{}", serve(&authority, &["127.0.0.1"]));
    let misnamed = format!("https://{}", serve(&authority, &["guard.example"]));
    let plain = scripted().replace("http://", "https://");
    let no_certificate = folder.path().join("no.pem");
    fs::write(&no_certificate, "words").unwrap();
    let no_certificate = no_certificate.to_str().unwrap();
    let cases: [(&str, &str, i32, &str); 5] = [
        (&server, &stranger, 6, "certificate is not accepted"),
        (&misnamed, &trusted, 6, "certificate is not accepted"),
        (&plain, &trusted, 6, "does not speak TLS"),
        (&server, no_certificate, 7, "BEGIN CERTIFICATE"),
        (&server, "missing.pem", 7, "missing.pem"),
    ];
    for (server, authorities, code, says) in cases {
        let outcome = classify(
            folder.path(),
            &[],
            &["--server", server, "--ca-file", authorities],
        );
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
    }
    let doctors: [(&str, &str, &str); 2] = [
        (&server, &stranger, "host name that the certificate is for"),
        (&plain, &trusted, "say http://"),
    ];
    for (server, authorities, fix) in doctors {
        let outcome =
            run(command(folder.path()).args(["doctor", "--server", server, "--ca-file", authorities]));
        assert_eq!(outcome.code, 1, "{}", outcome.stdout);
        assert!(outcome.stdout.contains(fix), "{}", outcome.stdout);
    }
    // The system does not know this authority, if it knows any.
    let outcome = classify(folder.path(), &[], &["--server", &server]);
    assert_eq!(outcome.code, 6, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--ca-file"), "{}", outcome.stderr);
}
