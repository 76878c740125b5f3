//! Where traces go, by our own names and by OpenTelemetry's.

use super::*;

/// Variables by name and value.
type Variables<'a> = &'a [(&'a str, &'a str)];

fn endpoint(env: Variables) -> (Option<String>, String) {
    let loaded = from_env(env);
    let origin = entry(&loaded, "telemetry.otlp_endpoint").origin.to_string();
    let traces = loaded.config.unwrap().telemetry.traces;
    (traces.map(|traces| traces.endpoint), origin)
}

#[test]
fn opentelemetrys_variables_say_the_same_unless_ours_say_more() {
    let general = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://general:4317");
    let of_traces = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4317");
    let ours = ("BABELWARD_TELEMETRY__OTLP_ENDPOINT", "http://ours:4317");
    let cases = [
        (vec![ours, of_traces, general], ours),
        (vec![of_traces, general], of_traces),
        (vec![general, ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "")], general),
    ];
    for (env, (name, value)) in cases {
        let (found, origin) = endpoint(&env);
        assert_eq!(found.as_deref(), Some(value));
        assert!(origin.contains(name), "{origin}");
    }
    assert_eq!(endpoint(&[]).0, None);
}

#[test]
fn what_is_wrong_with_traces_is_told_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    let endpoint = |value| ("BABELWARD_TELEMETRY__OTLP_ENDPOINT", value);
    let ca = ("BABELWARD_TELEMETRY__OTLP_CA_FILE", file);
    let cases: [(Variables, &str); 6] = [
        (&[endpoint("otel:4317")], "telemetry.otlp_endpoint"),
        (&[endpoint("ftp://otel:4317")], "telemetry.otlp_endpoint"),
        (&[endpoint("http://")], "telemetry.otlp_endpoint"),
        (&[endpoint("http://otel:4317"), ca], "telemetry.otlp_ca_file"),
        (&[ca], "set telemetry.otlp_endpoint"),
        (
            &[("BABELWARD_TELEMETRY__OTLP_SAMPLE_RATIO", "-0.1")],
            "from 0 to 1",
        ),
    ];
    for (env, said) in cases {
        let problems = problems(&from_env(env));
        assert_eq!(problems.len(), 1, "{env:?}: {problems:?}");
        assert!(problems[0].contains(said), "{problems:?}");
    }
    assert!(problems(&from_env(&[endpoint("https://otel:4317"), ca])).is_empty());
}
