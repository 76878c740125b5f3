//! The manifest of docs/deployment.md starts what it says: a guard that judges, does nothing else, and can be probed and
//! scraped.

use babelward::client::{Client, ClientOptions};

use crate::{
    common::smollm2,
    serve::get,
    support::{Server, command, run},
};

/// The manifest, and the container's arguments in it.
fn manifest() -> (String, Vec<String>) {
    let text = include_str!("../../docs/deployment.md");
    let (_, rest) = text.split_once("```yaml\n").unwrap();
    let (yaml, _) = rest.split_once("```").unwrap();
    let mut lines = yaml.lines().map(str::trim);
    let arguments = lines.find_map(|line| line.strip_prefix("args: ")).unwrap();
    (yaml.to_owned(), serde_json::from_str(arguments).unwrap())
}

#[test]
fn the_manifest_makes_a_guard_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (yaml, arguments) = manifest();
    // On this machine, on free ports, with a model that is there.
    let arguments: Vec<_> = arguments
        .iter()
        .map(|argument| match argument.as_str() {
            "guard=/models/guard.gguf" => format!("guard={}", smollm2().display()),
            "0.0.0.0:50051" | "0.0.0.0:9464" => "localhost:0".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    assert_eq!(
        arguments
            .iter()
            .filter(|argument| *argument == "localhost:0")
            .count(),
        2
    );
    let mut server = Server::start(
        command(folder.path())
            .args(&arguments)
            .args(["--kv-memory", "256MiB"]),
    );
    let url = server.url("  gRPC");
    let metrics = server.url("  metrics");
    server.wait_for("  try ");

    let call = |arguments: &[&str]| run(command(folder.path()).args(arguments).args(["--server", &url]));
    let judged = call(&["classify", "How do I bake bread?"]);
    assert_eq!(judged.code, 0, "{}", judged.stderr);
    for refused in [["generate", "hi"], ["score", "hi"]] {
        let outcome = call(&refused);
        assert_eq!(outcome.code, 1, "{refused:?}");
        assert!(outcome.stderr.contains("NO_DEFAULT_MODEL"), "{}", outcome.stderr);
    }
    assert!(get(&metrics).contains("babelward_verdicts_total"));

    let probed: Vec<_> = yaml
        .lines()
        .filter_map(|line| line.split_once("service: ")?.1.strip_suffix('}'))
        .collect();
    assert_eq!(probed.len(), 2, "{probed:?}");
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
