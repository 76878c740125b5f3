//! The configuration in k8s/base starts what its probes and Prometheus ask.

use babelward::client::{Client, ClientOptions};

use crate::{
    common::smollm2,
    serve::get,
    support::{Server, command, run},
};

#[test]
fn the_configuration_for_clusters_serves_what_its_probes_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    // What the Secret babelward-keys has.
    let made = run(command(folder.path()).args(["keys", "new", "--tenant", "team", "--scopes", "classify"]));
    let key = made.stdout.trim();
    let keys = folder.path().join("keys.toml");
    // On this machine, on free ports, with a model that is there.
    let mut config = include_str!("../../k8s/base/babelward.toml").to_owned();
    for (there, here) in [
        ("0.0.0.0:50051", "localhost:0"),
        ("0.0.0.0:9464", "localhost:0"),
        ("/models/guard.gguf", smollm2().to_str().unwrap()),
        ("/etc/babelward-keys/keys.toml", keys.to_str().unwrap()),
        // The banner tells where the ports are.
        ("log_format = \"json\"", "log_format = \"human\""),
    ] {
        assert!(config.contains(there), "{there}");
        config = config.replace(there, here);
    }
    let path = folder.path().join("babelward.toml");
    std::fs::write(&path, config).unwrap();
    let mut server = Server::start(command(folder.path()).args([
        "serve",
        "--config",
        path.to_str().unwrap(),
        "--kv-memory",
        "256MiB",
    ]));
    let url = server.url("  gRPC");
    let metrics = server.url("  metrics");
    server.wait_for("  try ");

    let classify = |token: &str| {
        let mut command = command(folder.path());
        command.args(["classify", "How do I bake bread?", "--server", &url]);
        run(command.env("BABELWARD_TOKEN", token))
    };
    let judged = classify(key);
    assert_eq!(judged.code, 0, "{}", judged.stderr);
    let refused = classify("bw_other");
    assert!(
        refused.stderr.contains("CREDENTIALS_INVALID"),
        "{}",
        refused.stderr
    );
    assert!(get(&metrics).contains("babelward_verdicts_total"));

    let probed: Vec<_> = include_str!("../../k8s/base/deployment.yaml")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("service: "))
        .collect();
    assert_eq!(probed.len(), 3, "{probed:?}");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let client = Client::connect(&url, ClientOptions::default()).await.unwrap();
        for service in probed {
            assert!(client.is_serving(service).await.unwrap(), "{service}");
        }
    });
}
