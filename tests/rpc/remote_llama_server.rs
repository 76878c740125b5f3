//! A guard at llama-server, where somebody has built it.

use std::{
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use babelward::{
    guard::GuardKind,
    proto::{self, RemotePromptForm},
    registry::{ModelRole, RemoteSpec},
    remote::{EndpointApi, EndpointOptions},
};

use crate::{
    common,
    rig::{Rig, Setup, classify},
};

/// The guard's id.
const GUARD_THERE: &str = "far-ward";

/// llama-server on the demo's model, until it is dropped.
struct LlamaServer {
    process: Child,
    port: u16,
}

impl LlamaServer {
    fn start(folder: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let process = Command::new(folder.join("llama-server"))
            .arg("-m")
            .arg(common::smollm2())
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "-c", "8192"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, port }
    }
}

impl Drop for LlamaServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the folder of llama-server in LLAMA_CPP_BIN"]
async fn llama_server_reads_our_prompt_and_lists_the_labels() {
    let folder = std::env::var_os("LLAMA_CPP_BIN").expect("LLAMA_CPP_BIN has the folder of llama-server");
    let peer = LlamaServer::start(Path::new(&folder));
    let remote = RemoteSpec {
        roles: vec![ModelRole::Guard],
        guard_kind: Some(GuardKind::ChatDemo),
        tokenizer: Some(common::smollm2()),
        endpoint: EndpointOptions {
            id: GUARD_THERE.to_owned(),
            url: format!("http://127.0.0.1:{}/v1", peer.port).parse().unwrap(),
            model: "smollm2".to_owned(),
            api: EndpointApi::Both,
            key_file: None,
            ca_file: None,
            concurrency: 4,
            queue: 4,
            stall: Duration::from_secs(60),
        },
    };
    let rig = Rig::with(Setup {
        remotes: vec![remote],
        ..Setup::default()
    })
    .await;
    let began = Instant::now();
    // It refuses requests while it loads the model.
    let verdict = loop {
        let request = proto::ClassifyRequest {
            model: GUARD_THERE.to_owned(),
            ..classify(&["How do I bake bread?"])
        };
        match rig.safety().await.classify(request).await {
            Ok(answer) => break answer.into_inner().verdict.unwrap(),
            Err(error) => assert!(began.elapsed() < Duration::from_secs(120), "{error:?}"),
        }
    };
    let reading = verdict.remote_reading.unwrap();
    assert_eq!(reading.prompt_form(), RemotePromptForm::Tokens);
    assert!(reading.listed_tokens >= 20, "{reading:?}");
    // That it counts as many tokens as it was sent has been checked with the answer.
    assert!(verdict.usage.unwrap().prompt_tokens > 100);
    assert!(verdict.label_mass > 0.1, "{verdict:?}");
    assert!(verdict.unsafe_score.is_some(), "{verdict:?}");
    rig.stop().await;
}
