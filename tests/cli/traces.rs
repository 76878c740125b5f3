//! Traces from a command to a collector: the command passes on the span that it was started for, and the server exports its
//! own below it.

use std::fs;

use crate::{
    collector::Collector,
    serve::serve,
    support::{Server, command, run},
};

/// The caller's span in the example of the W3C's recommendation.
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Ends of variables' names, with their values.
type Variables<'a> = &'a [(&'a str, &'a str)];

#[tokio::test(flavor = "multi_thread")]
async fn a_commands_calls_are_part_of_the_trace_that_it_was_started_for() {
    let (collector, address) = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("headers"), "x-team: seven\n").unwrap();
    let mut server = serve(folder.path(), &[]);
    server
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{address}"))
        .env("OTEL_SERVICE_NAME", "our-guard")
        .env("BABELWARD_TELEMETRY__OTLP_HEADERS_FILE", "headers")
        .env("BABELWARD_TELEMETRY__OTLP_SAMPLE_RATIO", "0");
    let mut server = Server::start(&mut server);
    let url = server.url("  gRPC");
    assert!(server.wait_for("  traces").contains(&address.to_string()));
    let ask = |parent: Option<&str>| {
        let mut ask = command(folder.path());
        ask.args(["classify", "hello", "--server", &url]);
        if let Some(parent) = parent {
            ask.env("TRACEPARENT", parent).env("TRACESTATE", "vendor=7");
        }
        let outcome = run(&mut ask);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        outcome.stderr
    };
    let warned = |stderr: String| stderr.contains("TRACEPARENT is left out");
    assert!(!warned(ask(Some(PARENT))));
    assert!(!warned(ask(None)), "nothing to leave out");
    assert!(warned(ask(Some("00-none"))));
    server.signal("TERM");
    let (status, log, _) = server.end();
    assert!(status.success(), "{log}");

    let spans = collector.spans();
    let call: Vec<_> = spans.iter().filter(|span| span.is_server).collect();
    assert_eq!(call.len(), 1, "{spans:#?}");
    assert_eq!(call[0].trace, PARENT[3..35]);
    assert_eq!(call[0].parent, PARENT[36..52]);
    assert_eq!(call[0].state, "vendor=7");
    assert_eq!(call[0].children(&spans).len(), 5);
    assert_eq!(collector.resource()["service.name"], "our-guard");
    assert!(
        collector
            .headers("x-team")
            .iter()
            .all(|value| value.as_deref() == Some("seven"))
    );
    let line = log.lines().find(|line| line.contains("call ended")).unwrap();
    assert!(line.contains(&format!("trace_id={}", &PARENT[3..35])), "{line}");
}

#[test]
fn a_wrong_collector_is_told_before_the_server_starts() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("wrong"), "sesame\n").unwrap();
    let cases: [(Variables, i32, &str); 4] = [
        (&[("ENDPOINT", "127.0.0.1:4317")], 2, "telemetry.otlp_endpoint"),
        (
            &[("ENDPOINT", "http://a:1"), ("SAMPLE_RATIO", "2")],
            2,
            "a number from 0 to 1",
        ),
        (&[("HEADERS_FILE", "wrong")], 2, "set telemetry.otlp_endpoint"),
        (
            &[("ENDPOINT", "http://a:1"), ("HEADERS_FILE", "wrong")],
            7,
            "line 1 is no header",
        ),
    ];
    for (variables, code, text) in cases {
        let mut server = serve(folder.path(), &[]);
        for (name, value) in variables {
            server.env(format!("BABELWARD_TELEMETRY__OTLP_{name}"), value);
        }
        let outcome = run(&mut server);
        assert_eq!(outcome.code, code, "{variables:?}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(text), "{variables:?}: {}", outcome.stderr);
        assert!(!outcome.stderr.contains("sesame"), "{}", outcome.stderr);
    }
}
