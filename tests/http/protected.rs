//! Keys, scopes, tenants, quotas and TLS on the HTTP port.

use std::{sync::Arc, time::SystemTime};

use babelward::{
    auth::{QuotaLimits, Quotas, Scope},
    rpc::{Limits, Security, ServerOptions},
    tls::{ClientCertificates, MinVersion, ServerTls, TlsFiles},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::{
    authority::{Authority, Identity},
    credentials::{KeyFile, checked},
    rig::Rig,
    support::{Answer, BREAD, CLASSIFY, Client, RawStream, address, post, protected, with_header},
};

async fn ask(client: &mut Client, key: &str) -> Answer {
    let value = format!("Bearer {key}");
    client
        .send(with_header(post(CLASSIFY, BREAD), "authorization", &value))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_needs_a_key_with_the_scope() {
    let keys = KeyFile::new();
    let (good, other) = (
        keys.add("team", &[Scope::Classify]),
        keys.add("other", &[Scope::Generate]),
    );
    let old = keys.add_expired("former");
    let rig = protected(ServerOptions::default(), checked(&keys.open())).await;
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(ask(&mut client, &good).await.status.as_u16(), 200);
    let missing = client.post(CLASSIFY, BREAD).await;
    assert_eq!(missing.reason(401), "CREDENTIALS_MISSING");
    assert_eq!(missing.header("www-authenticate"), "Bearer");
    assert_eq!(
        ask(&mut client, &format!("{good}x")).await.reason(401),
        "CREDENTIALS_INVALID"
    );
    assert_eq!(ask(&mut client, &old).await.reason(401), "CREDENTIALS_EXPIRED");
    let refused = ask(&mut client, &other).await;
    assert_eq!(refused.reason(403), "SCOPE_MISSING");
    assert_eq!(
        refused.detail("google.rpc.ErrorInfo")["metadata"]["needs"],
        "classify"
    );
    // Health is told to everybody.
    assert_eq!(
        client
            .post("/grpc.health.v1.Health/Check", "{}")
            .await
            .status
            .as_u16(),
        200
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_strangers_body_is_read() {
    let keys = KeyFile::new();
    let rig = protected(ServerOptions::default(), checked(&keys.open())).await;
    let mut stranger = RawStream::connect(&rig).await;
    // A body is announced, and none is sent.
    let head = format!(
        "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 100\r\n\r\n"
    );
    stranger.say(head.as_bytes()).await;
    let said = stranger.rest().await;
    assert!(
        said.starts_with("HTTP/1.1 401") && said.contains("CREDENTIALS_MISSING"),
        "{said}"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tenant_is_the_keys_and_has_one_quota_over_both_ports() {
    let keys = KeyFile::new();
    let key = keys.add("small", &[Scope::Classify]);
    let limits = QuotaLimits {
        requests: Some(2),
        tokens: None,
    };
    let security = Security {
        quotas: Quotas::new(limits, []),
        ..checked(&keys.open())
    };
    let rig = protected(ServerOptions::default(), security).await;
    let over_grpc = crate::credentials::with_key(&key, crate::rig::classify(&["hi"]));
    rig.safety().await.classify(over_grpc).await.unwrap();
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(ask(&mut client, &key).await.status.as_u16(), 200);
    let request = with_header(post(CLASSIFY, BREAD), "authorization", &format!("Bearer {key}"));
    let refused = client
        .send(with_header(request, "x-babelward-tenant", "another"))
        .await;
    assert_eq!(refused.reason(429), "QUOTA_REQUESTS");
    let after: u64 = refused.header("retry-after").parse().unwrap();
    assert!((1..=60).contains(&after), "{after}");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_tenant_leaves_memory_for_requests_to_others() {
    let keys = KeyFile::new();
    let [greedy, modest] = ["greedy", "modest"].map(|tenant| keys.add(tenant, &[Scope::Classify]));
    let limits = Limits {
        message_bytes: 60 << 10,
        request_bytes: 512 << 10,
        ..Limits::default()
    };
    let options = ServerOptions {
        limits,
        ..ServerOptions::default()
    };
    let rig = protected(options, checked(&keys.open())).await;
    // Nine times 55 KiB fit into 512 KiB, and eight into seven eighths of it.
    let mut held = Vec::new();
    for _ in 0..9 {
        let mut stream = RawStream::connect(&rig).await;
        let head = format!(
            "POST {CLASSIFY} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {greedy}\r\ncontent-type: application/json\r\ncontent-length: 61440\r\n\r\n"
        );
        stream.say(head.as_bytes()).await;
        stream.say(&vec![b' '; 55 << 10]).await;
        held.push(Box::pin(async move { stream.answer().await }));
    }
    let (said, _, held) = futures::future::select_all(held).await;
    assert!(said.contains("REQUEST_MEMORY"), "{said}");
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(ask(&mut client, &modest).await.status.as_u16(), 200);
    drop(held);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn admin_calls_are_answered_where_they_are_over_grpc() {
    let options = ServerOptions {
        allow_admin: true,
        ..ServerOptions::default()
    };
    let rig = protected(options.clone(), Security::default()).await;
    let mut client = Client::connect(address(&rig)).await;
    let pin = (
        "/babelward.v1.AdminService/PinModel",
        r#"{"name":"tiny","pinned":true}"#,
    );
    let answer = client.post(pin.0, pin.1).await;
    assert_eq!(
        answer.status.as_u16(),
        200,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    rig.stop().await;
    // With a listener of its own, AdminService is answered there alone.
    let listeners = babelward::rpc::Listeners {
        admin: Some(tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap()),
        ..crate::support::listeners().await
    };
    let setup = crate::rig::Setup {
        options,
        ..Default::default()
    };
    let rig = Rig::on(setup, listeners).await;
    let mut client = Client::connect(address(&rig)).await;
    assert_eq!(client.post(pin.0, pin.1).await.reason(403), "ADMIN_ELSEWHERE");
    rig.stop().await;
}

/// A client that trusts the authority and shows this certificate.
async fn secured(rig: &Rig, authority: &Authority, identity: Option<&Identity>) -> Client {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => {
            let certificate = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(address(rig)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    Client::over(stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_tls_and_knows_clients_by_their_certificates() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = authority.issue(&["localhost"]).write(folder.path(), "server");
    std::fs::write(folder.path().join("ca.pem"), &authority.certificate).unwrap();
    let files = TlsFiles {
        certificate,
        key,
        client_ca: Some(folder.path().join("ca.pem")),
        client_crl: None,
        client_certificates: ClientCertificates::Required,
        min_version: MinVersion::Tls12,
    };
    let keys = KeyFile::new();
    keys.add_certificate("uri = \"spiffe://test/ingest\"", "ingest", "\"classify\"");
    let security = Security {
        tls: Some(Arc::new(ServerTls::open(files, SystemTime::now()).unwrap())),
        ..checked(&keys.open())
    };
    let rig = protected(ServerOptions::default(), security).await;
    let known = authority.issue(&["spiffe://test/ingest"]);
    let mut client = secured(&rig, &authority, Some(&known)).await;
    assert_eq!(client.post(CLASSIFY, BREAD).await.status.as_u16(), 200);
    let unknown = authority.issue(&["spiffe://test/other"]);
    let mut client = secured(&rig, &authority, Some(&unknown)).await;
    assert_eq!(
        client.post(CLASSIFY, BREAD).await.reason(401),
        "CREDENTIALS_INVALID"
    );
    // Without a certificate there is no connection, as on the gRPC port.
    let mut client = secured(&rig, &authority, None).await;
    assert!(client.try_send(post(CLASSIFY, BREAD)).await.is_err());
    // And nobody is answered in clear.
    let mut plain = RawStream::connect(&rig).await;
    plain.say(b"POST / HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    let said = plain.rest().await;
    assert!(!said.contains("HTTP/1.1"), "{said}");
    rig.stop().await;
}
