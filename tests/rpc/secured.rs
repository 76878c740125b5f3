//! TLS and clients' certificates, on a real server.

use std::{
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use babelward::{
    auth::Scope,
    proto,
    reload::{Reload as _, Reloaded},
    rpc::{Security, ServerOptions, TimeLimits},
    tls::{ClientCertificates, MinVersion, ServerTls, TlsFiles},
};
use rustls::{
    ClientConfig, HandshakeKind, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tonic::{
    Code, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Identity as ClientIdentity},
};

use crate::{
    authority::{Authority, Identity},
    credentials::{KeyFile, checked, with_key},
    rig::{Rig, Setup, classify, reason},
};

fn files(folder: &Path, authority: &Authority) -> TlsFiles {
    let (certificate, key) = authority
        .issue(&["localhost", "127.0.0.1"])
        .write(folder, "server");
    TlsFiles {
        certificate,
        key,
        client_ca: None,
        client_crl: None,
        client_certificates: ClientCertificates::Required,
        min_version: MinVersion::Tls12,
    }
}

fn opened(files: TlsFiles) -> Arc<ServerTls> {
    Arc::new(ServerTls::open(files, SystemTime::now()).unwrap())
}

fn secured(tls: &Arc<ServerTls>) -> Security {
    Security {
        tls: Some(Arc::clone(tls)),
        ..Security::default()
    }
}

/// A channel of a client that trusts the authority and shows this certificate.
async fn channel(
    address: SocketAddr,
    authority: &Authority,
    identity: Option<&Identity>,
) -> Result<Channel, tonic::transport::Error> {
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&authority.certificate));
    let tls = match identity {
        Some(identity) => tls.identity(ClientIdentity::from_pem(&identity.certificate, &identity.key)),
        None => tls,
    };
    let endpoint = Channel::from_shared(format!("https://{address}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

/// The status of a Classify with this channel, or that there is no connection.
async fn judged(channel: Result<Channel, tonic::transport::Error>) -> Option<Status> {
    let mut safety = proto::safety_service_client::SafetyServiceClient::new(channel.ok()?);
    match safety.classify(classify(&["hi"])).await {
        Ok(_) => Some(Status::ok("")),
        // What the server has answered has no cause on this side.
        Err(status) => std::error::Error::source(&status).is_none().then_some(status),
    }
}

/// A bare client that trusts the authority.
fn bare(authority: &Authority, versions: &[&'static rustls::SupportedProtocolVersion]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(authority.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// Connects with this configuration. The certificate of the server, and whether HTTP/2 was agreed on.
async fn handshake(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Vec<u8>)> {
    let stream = secured_stream(address, &Arc::new(config)).await?;
    let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
    Ok((stream, certificate))
}

async fn secured_stream(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::clone(config)).connect(name, stream).await
}

const BOTH: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_over_tls_and_not_beside_it() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let rig = Rig::protected(
        Setup::default(),
        secured(&opened(files(folder.path(), &authority))),
    )
    .await;
    let status = judged(channel(rig.address, &authority, None).await).await;
    assert_eq!(status.unwrap().code(), Code::Ok);
    let other = Authority::new();
    assert!(
        judged(channel(rig.address, &other, None).await).await.is_none(),
        "an authority that it does not trust"
    );
    // Whoever speaks no TLS, or TLS without naming HTTP/2, is closed.
    let mut plain = TcpStream::connect(rig.address).await.unwrap();
    plain
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said).await;
    assert!(
        !said.windows(3).any(|part| part == b"\0\0\0"),
        "no HTTP/2 frame: {said:?}"
    );
    let (mut stream, _) = handshake(rig.address, bare(&authority, BOTH)).await.unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said).await;
    assert!(said.is_empty());
    let mut http1 = bare(&authority, BOTH);
    http1.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(handshake(rig.address, http1).await.is_err());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_below_the_oldest_allowed_are_refused() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    for (min_version, old_is_served) in [(MinVersion::Tls12, true), (MinVersion::Tls13, false)] {
        let files = TlsFiles {
            min_version,
            ..files(folder.path(), &authority)
        };
        let rig = Rig::protected(Setup::default(), secured(&opened(files))).await;
        for (versions, served) in [
            (&[&rustls::version::TLS12], old_is_served),
            (&[&rustls::version::TLS13], true),
        ] {
            let mut config = bare(&authority, versions);
            config.alpn_protocols = vec![b"h2".to_vec()];
            assert_eq!(handshake(rig.address, config).await.is_ok(), served);
        }
        rig.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_does_not_finish_the_tls_handshake_in_time_is_closed() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let setup = Setup {
        options: ServerOptions {
            times: TimeLimits {
                handshake: Duration::from_millis(50),
                ..Default::default()
            },
            ..Default::default()
        },
        ..Default::default()
    };
    let rig = Rig::protected(setup, secured(&opened(files(folder.path(), &authority)))).await;
    // Nothing, the beginning of a hello, and an announced record of 16 KiB of which nothing comes.
    for said in [&b""[..], &[0x16, 3, 1], &[0x16, 3, 1, 0x40, 0]] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(said).await.unwrap();
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_shown_to_new_connections_and_a_bad_one_is_not() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let tls = opened(files(folder.path(), &authority));
    let rig = Rig::protected(Setup::default(), secured(&tls)).await;
    let shown = async || {
        let mut config = bare(&authority, BOTH);
        config.alpn_protocols = vec![b"h2".to_vec()];
        handshake(rig.address, config).await.unwrap().1
    };
    let before = shown().await;
    let open = channel(rig.address, &authority, None).await.unwrap();
    let new = authority.issue(&["localhost", "127.0.0.1"]);
    new.write(folder.path(), "server");
    assert_eq!(shown().await, before, "not before the files are looked at");
    assert_eq!(tls.reload(), Reloaded::Replaced);
    assert_eq!(shown().await, new.der);
    // One that ended, one that has not begun, and none.
    for (from, to) in [(2000, 2020), (2080, 2090)] {
        authority
            .issue_for(&["localhost", "127.0.0.1"], from, to)
            .write(folder.path(), "server");
        assert!(matches!(tls.reload(), Reloaded::Kept(reason) if reason.contains("server.pem")));
        assert_eq!(shown().await, new.der);
    }
    std::fs::write(folder.path().join("server.pem"), "words").unwrap();
    assert!(matches!(tls.reload(), Reloaded::Kept(reason) if reason.contains("server.pem")));
    assert_eq!(shown().await, new.der);
    // Connections that were open before are not disturbed.
    assert_eq!(judged(Ok(open)).await.unwrap().code(), Code::Ok);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_says_who_it_is() {
    let (folder, authority) = (tempfile::tempdir().unwrap(), Authority::new());
    let (of_clients, stranger) = (Authority::new(), Authority::new());
    let client_ca = of_clients.write(folder.path(), "clients.pem").into();
    let files = TlsFiles {
        client_ca: Some(client_ca),
        ..files(folder.path(), &authority)
    };
    let keys = KeyFile::new();
    keys.add_certificate("uri = \"spiffe://example/judge\"", "judge", "\"classify\"");
    keys.add_certificate("dns = \"writer.example\"", "writer", "\"generate\"");
    let key = keys.add("by-key", &[Scope::Classify]);
    let authenticator = keys.open();
    let security = |files: TlsFiles| Security {
        tls: Some(opened(files)),
        ..checked(&authenticator)
    };
    let rig = Rig::protected(Setup::default(), security(files.clone())).await;
    let with =
        async |identity: Option<&Identity>| judged(channel(rig.address, &authority, identity).await).await;
    let judge = of_clients.issue(&["spiffe://example/judge"]);
    assert_eq!(with(Some(&judge)).await.unwrap().code(), Code::Ok);
    let writer = of_clients.issue(&["writer.example"]);
    let status = with(Some(&writer)).await.unwrap();
    assert_eq!(reason(&status, Code::PermissionDenied).0, "SCOPE_MISSING");
    let unlisted = of_clients.issue(&["spiffe://example/other"]);
    let status = with(Some(&unlisted)).await.unwrap();
    assert_eq!(reason(&status, Code::Unauthenticated).0, "CREDENTIALS_INVALID");
    // The same name from an authority that nobody named, and none at all.
    assert!(
        with(Some(&stranger.issue(&["spiffe://example/judge"])))
            .await
            .is_none()
    );
    assert!(with(None).await.is_none());
    rig.stop().await;

    let optional = TlsFiles {
        client_certificates: ClientCertificates::Optional,
        ..files
    };
    let rig = Rig::protected(Setup::default(), security(optional)).await;
    let plain = channel(rig.address, &authority, None).await.unwrap();
    let status = judged(Ok(plain.clone())).await.unwrap();
    assert_eq!(reason(&status, Code::Unauthenticated).0, "CREDENTIALS_MISSING");
    let mut safety = proto::safety_service_client::SafetyServiceClient::new(plain);
    safety.classify(with_key(&key, classify(&["hi"]))).await.unwrap();
    let status = judged(channel(rig.address, &authority, Some(&judge)).await).await;
    assert_eq!(status.unwrap().code(), Code::Ok);
    rig.stop().await;
}

/// A server that asks clients for certificates of this authority, of which one says that its client is `judge`.
struct WithClients {
    folder: tempfile::TempDir,
    authority: Authority,
    of_clients: Authority,
    keys: KeyFile,
    tls: Arc<ServerTls>,
    authenticator: Arc<babelward::auth::Authenticator>,
    rig: Rig,
}

impl WithClients {
    async fn start(with: impl FnOnce(&Path, &Authority, TlsFiles) -> TlsFiles) -> Self {
        let (folder, authority, of_clients) =
            (tempfile::tempdir().unwrap(), Authority::new(), Authority::new());
        let client_ca = of_clients.write(folder.path(), "clients.pem").into();
        let files = TlsFiles {
            client_ca: Some(client_ca),
            ..files(folder.path(), &authority)
        };
        let keys = KeyFile::new();
        keys.add_certificate("dns = \"judge\"", "judge", "\"classify\"");
        let tls = opened(with(folder.path(), &of_clients, files));
        let authenticator = keys.open();
        let security = Security {
            tls: Some(Arc::clone(&tls)),
            ..checked(&authenticator)
        };
        Self {
            rig: Rig::protected(Setup::default(), security).await,
            folder,
            authority,
            of_clients,
            keys,
            tls,
            authenticator,
        }
    }

    /// The status of a Classify by a client that shows this certificate; `None` without a connection.
    async fn judged(&self, identity: &Identity) -> Option<Code> {
        let channel = channel(self.rig.address, &self.authority, Some(identity)).await;
        judged(channel).await.map(|status| status.code())
    }
}

/// Otherwise a client would be known by the certificate of its first handshake, also once that has ended or is revoked.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_is_verified_in_every_handshake() {
    let server = WithClients::start(|_, _, files| files).await;
    let judge = server.of_clients.issue(&["judge"]);
    for version in BOTH.iter().copied() {
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(server.authority.certificate.as_bytes()).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(judge.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(judge.key.as_bytes()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Both connections share the sessions that the client keeps.
        let config = Arc::new(config);
        for _ in 0..2 {
            let mut stream = secured_stream(server.rig.address, &config).await.unwrap();
            // With TLS 1.3, tickets for later sessions come before the first bytes.
            stream.read_u8().await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
        }
    }
    server.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_certificate_has_ended_gets_no_connection() {
    let server = WithClients::start(|_, _, files| files).await;
    assert_eq!(
        server.judged(&server.of_clients.issue(&["judge"])).await,
        Some(Code::Ok)
    );
    for (from, to) in [(2000, 2020), (2080, 2090)] {
        let other = server.of_clients.issue_for(&["judge"], from, to);
        assert_eq!(server.judged(&other).await, None);
    }
    server.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_certificate_gets_no_connection_once_the_list_is_read() {
    let server = WithClients::start(|folder, of_clients, files| {
        let list = folder.join("clients.crl");
        std::fs::write(&list, of_clients.revocation_list(&[])).unwrap();
        TlsFiles {
            client_crl: Some(list),
            ..files
        }
    })
    .await;
    let list = server.folder.path().join("clients.crl");
    let [judge, other] = [(); 2].map(|()| server.of_clients.issue(&["judge"]));
    assert_eq!(server.judged(&judge).await, Some(Code::Ok));
    std::fs::write(&list, server.of_clients.revocation_list(&[&judge])).unwrap();
    assert_eq!(server.tls.reload(), Reloaded::Replaced);
    assert_eq!(server.judged(&judge).await, None);
    assert_eq!(server.judged(&other).await, Some(Code::Ok));
    // A list that cannot be read revokes nothing anew, and what was revoked stays so.
    for bad in [
        "",
        "words",
        "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
    ] {
        std::fs::write(&list, bad).unwrap();
        let kept = server.tls.reload();
        assert!(
            matches!(&kept, Reloaded::Kept(reason) if reason.contains("clients.crl")),
            "{kept:?}"
        );
        assert_eq!(server.judged(&judge).await, None);
    }
    // A list of another authority says nothing of this one's certificates, so that none of them is known to be good.
    std::fs::write(&list, Authority::new().revocation_list(&[])).unwrap();
    assert_eq!(server.tls.reload(), Reloaded::Replaced);
    assert_eq!(server.judged(&other).await, None);
    server.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_clients_are_replaced_while_the_server_runs() {
    let server = WithClients::start(|_, _, files| files).await;
    let next = Authority::new();
    let (before, after) = (server.of_clients.issue(&["judge"]), next.issue(&["judge"]));
    let both = format!("{}{}", server.of_clients.certificate, next.certificate);
    for (authorities, old, new) in [
        (None, Some(Code::Ok), None),
        (Some(&both), Some(Code::Ok), Some(Code::Ok)),
        (Some(&next.certificate), None, Some(Code::Ok)),
    ] {
        if let Some(authorities) = authorities {
            std::fs::write(server.folder.path().join("clients.pem"), authorities).unwrap();
            assert_eq!(server.tls.reload(), Reloaded::Replaced);
        }
        assert_eq!(server.judged(&before).await, old);
        assert_eq!(server.judged(&after).await, new);
    }
    server.rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_entry_is_removed_is_refused_on_its_open_connection() {
    let server = WithClients::start(|_, _, files| files).await;
    let judge = server.of_clients.issue(&["judge"]);
    let open = channel(server.rig.address, &server.authority, Some(&judge))
        .await
        .unwrap();
    assert_eq!(judged(Ok(open.clone())).await.unwrap().code(), Code::Ok);
    server.keys.revoke("judge");
    assert_eq!(server.authenticator.reload(), Reloaded::Replaced);
    let status = judged(Ok(open)).await.unwrap();
    assert_eq!(reason(&status, Code::Unauthenticated).0, "CREDENTIALS_INVALID");
    server.rig.stop().await;
}
