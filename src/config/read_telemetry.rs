//! Types and checks the keys about logs and traces.

use http::Uri;
use tracing_subscriber::EnvFilter;

use super::{LogFormat, Telemetry, Traces, read::Reader, value::Ratio};

impl Reader<'_> {
    pub(super) fn telemetry(&mut self) -> Telemetry {
        let telemetry = Telemetry {
            log_format: self.optional("telemetry.log_format").unwrap_or(LogFormat::Human),
            log_level: self.get("telemetry.log_level"),
            access_log: self.get("telemetry.access_log"),
            traces: self.traces(),
        };
        if let Err(error) = EnvFilter::try_new(&telemetry.log_level) {
            let fix = "write error, warn, info, debug, trace, or directives such as info,babelward=debug";
            self.problem("telemetry.log_level", error.to_string(), fix);
        }
        telemetry
    }

    fn traces(&mut self) -> Option<Traces> {
        const ENDPOINT: &str = "telemetry.otlp_endpoint";
        let [headers_file, ca_file] =
            ["telemetry.otlp_headers_file", "telemetry.otlp_ca_file"].map(|name| (name, self.file(name)));
        let Ratio(sample_ratio) = self.get("telemetry.otlp_sample_ratio");
        let Some(endpoint) = self.optional::<String>(ENDPOINT) else {
            for (name, _) in [headers_file, ca_file]
                .into_iter()
                .filter(|(_, file)| file.is_some())
            {
                self.problem(
                    name,
                    "no traces are sent",
                    "set telemetry.otlp_endpoint, or remove it",
                );
            }
            return None;
        };
        let address = endpoint.parse::<Uri>().ok();
        let scheme = address.as_ref().and_then(Uri::scheme_str);
        let has_host = address
            .as_ref()
            .and_then(Uri::host)
            .is_some_and(|host| !host.is_empty());
        if !matches!(scheme, Some("http" | "https")) || !has_host {
            let reason = format!("`{endpoint}` is no address of a collector");
            self.problem(
                ENDPOINT,
                reason,
                "write http:// or https://, a host and a port, such as http://127.0.0.1:4317",
            );
        }
        if ca_file.1.is_some() && scheme == Some("http") {
            let reason = "a collector with http:// has no certificate";
            self.problem(
                ca_file.0,
                reason,
                "write https:// in telemetry.otlp_endpoint, or remove it",
            );
        }
        Some(Traces {
            endpoint,
            headers_file: headers_file.1,
            ca_file: ca_file.1,
            sample_ratio,
        })
    }
}
