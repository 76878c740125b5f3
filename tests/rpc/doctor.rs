//! `babelward doctor --server`: what is wrong with a server, as its user finds out.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    process::Command,
};

use babelward::registry::{LoadPolicy, ModelRole, ModelSpec};
use serde_json::Value;
use tonic::{Status, transport::Server};
use tonic_health::{pb::health_server::HealthServer, server::HealthService};

use crate::{
    fleet::Fleet,
    rig::{self, Rig},
};

/// Exit code, and status, what was found and the fix, by check.
struct Told(i32, Vec<Value>);

impl Told {
    fn status(&self, check: &str) -> &str {
        self.field(check, "status")
    }

    fn field(&self, check: &str, field: &str) -> &str {
        let found = self.1.iter().find(|value| value["check"] == check);
        let found = found.unwrap_or_else(|| panic!("no `{check}` in {:?}", self.1));
        found[field].as_str().unwrap_or_default()
    }
}

async fn doctor(server: String, more: &'static [&'static str]) -> Told {
    let output = tokio::task::spawn_blocking(move || {
        Command::new(env!("CARGO_BIN_EXE_babelward"))
            .args(["--server", &server, "doctor", "--format", "json"])
            .args(more)
            .output()
            .unwrap()
    });
    let output = output.await.unwrap();
    let code = output.status.code().unwrap();
    let told = match output.stdout.is_empty() {
        true => Vec::new(),
        false => serde_json::from_slice(&output.stdout).unwrap(),
    };
    Told(code, told)
}

fn url(rig: &Rig) -> String {
    format!("http://{}", rig.address)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_well_is_told_so() {
    let rig = Rig::start().await;
    let told = doctor(url(&rig), &[]).await;
    assert_eq!(told.0, 0, "{:?}", told.1);
    assert!(told.1.iter().all(|check| check["status"] == "ok"), "{:?}", told.1);
    for check in [
        "server",
        "encryption",
        "authentication",
        "version",
        "health",
        "model tiny",
    ] {
        told.status(check);
    }
    assert!(
        told.1.iter().all(|check| check["check"] != "processor"),
        "that is this machine's"
    );
    // Its own flags are for another machine.
    assert_eq!(doctor(url(&rig), &["--threads", "1"]).await.0, 2);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_loads_or_failed_is_told_with_the_fix() {
    let manual = ModelSpec {
        load: LoadPolicy::Manual,
        ..rig::spec("manual", ModelRole::Target)
    };
    let models = vec![vec![rig::spec("eager", ModelRole::Target)], vec![manual]];
    let fleet = Fleet::starting(models, 2, true).await;
    fleet.probe("eager").loading.close();
    let loading = fleet.load_eager();
    let told = doctor(url(&fleet.rig), &[]).await;
    assert_eq!(told.0, 0, "{:?}", told.1);
    assert_eq!(told.status("health"), "warn");
    assert!(told.field("health", "found").contains("NOT_SERVING"));
    assert!(told.field("health", "fix").contains("wait"));
    assert_eq!(told.field("model eager", "found"), "loading");
    assert_eq!(told.status("models that judge"), "warn");
    assert!(told.field("model manual", "fix").contains("models load manual"));
    fleet.probe("eager").loading.open();
    loading.await.unwrap().unwrap();

    fleet
        .probe("manual")
        .broken
        .store(true, std::sync::atomic::Ordering::Release);
    fleet.load("manual").await.unwrap_err();
    let told = doctor(url(&fleet.rig), &[]).await;
    assert_eq!((told.0, told.status("model manual")), (1, "fail"), "{:?}", told.1);
    fleet.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_our_server_is_told_apart() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    for scheme in ["http", "https"] {
        let nobody = doctor(format!("{scheme}://{address}"), &[]).await;
        assert_eq!((nobody.0, nobody.status("server")), (1, "fail"), "{scheme}");
        assert!(
            nobody.field("server", "fix").contains("babelward serve"),
            "{scheme}"
        );
    }

    // A web server: it answers the connection's first bytes with an error of its own and hangs up.
    let web = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = web.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 16]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let told = doctor(format!("http://{address}"), &[]).await;
    assert_eq!((told.0, told.status("server")), (1, "fail"), "{:?}", told.1);
    assert!(
        told.field("server", "fix").contains("does not speak gRPC"),
        "{:?}",
        told.1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gate_in_front_of_a_server_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = HealthService::from_health_reporter(Default::default());
    let gate = |_| Err(Status::unauthenticated("who are you?"));
    let server = Server::builder()
        .add_service(HealthServer::with_interceptor(health, gate))
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    tokio::spawn(server);
    let told = doctor(format!("http://{address}"), &[]).await;
    assert_eq!(
        (told.0, told.status("authentication")),
        (1, "fail"),
        "{:?}",
        told.1
    );
    assert!(told.field("authentication", "fix").contains("credentials"));
}
