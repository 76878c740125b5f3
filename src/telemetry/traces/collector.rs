//! Connects to the collector that the configuration names.

use std::{fmt, net::IpAddr, path::Path};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::{Resource, trace::SpanExporter as _};
use rand::RngExt as _;
use tokio::sync::mpsc;
use tonic::{
    metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap},
    transport::{Certificate, ClientTlsConfig, Uri},
};

use super::{
    export::{QUEUE, TraceExport},
    tracer::Tracer,
};
use crate::files;

/// Most bytes of the file with headers.
const HEADER_BYTES: u64 = 64 << 10;

/// A collector of traces.
#[derive(Clone)]
pub struct Collector {
    /// Its address: `http://` or `https://`, host and port.
    pub endpoint: String,
    /// What is sent with each export, such as a key. Secret.
    pub headers: MetadataMap,
    /// Authorities, in PEM form, that may have issued its certificate; those that the system trusts if absent.
    pub authorities: Option<Vec<u8>>,
    /// The share of the traces that are recorded, from 0 to 1, where the caller has not decided.
    pub sample_ratio: f64,
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of headers are secret.
        let headers: Vec<_> = self.headers.keys().collect();
        f.debug_struct("Collector")
            .field("endpoint", &self.endpoint)
            .field("headers", &headers)
            .field("sample_ratio", &self.sample_ratio)
            .finish_non_exhaustive()
    }
}

/// Why traces cannot be exported.
#[derive(Debug, thiserror::Error)]
#[error("spans cannot be exported to telemetry.otlp_endpoint {endpoint}; correct it or leave it out")]
pub struct TraceError {
    /// The address of the collector.
    endpoint: String,
    source: ExporterBuildError,
}

/// Begins to export traces. It needs a tokio runtime. The collector is connected to with the first export, so it need not be
/// there yet.
///
/// # Errors
/// When the address or the authorities cannot be used.
pub fn start_traces(collector: Collector) -> Result<(Tracer, TraceExport), TraceError> {
    let Collector {
        endpoint,
        headers,
        authorities,
        sample_ratio,
    } = collector;
    if !headers.is_empty() && is_open(&endpoint) {
        tracing::warn!(
            "the headers of telemetry.otlp_headers_file are sent without encryption; say https:// to a collector on another machine"
        );
    }
    let builder = SpanExporter::builder().with_tonic().with_endpoint(&endpoint);
    let builder = builder.with_metadata(headers);
    let builder = if endpoint.starts_with("https:") {
        let tls = ClientTlsConfig::new();
        builder.with_tls_config(match authorities {
            Some(authorities) => tls.ca_certificate(Certificate::from_pem(authorities)),
            None => tls.with_native_roots(),
        })
    } else {
        builder
    };
    let mut exporter = builder
        .build()
        .map_err(|source| TraceError { endpoint, source })?;
    exporter.set_resource(&resource());
    let (queue, spans) = mpsc::channel(QUEUE);
    let export = TraceExport::spawn(spans, exporter);
    Ok((Tracer::recording(queue, sample_ratio), export))
}

/// What the spans are of: this program, its version, and this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`
/// come before that, as everywhere.
fn resource() -> Resource {
    let instance = format!("{:032x}", rand::rng().random::<u128>());
    let own = Resource::builder_empty().with_attributes([
        KeyValue::new("service.name", "babelward"),
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance),
    ]);
    let named = Resource::builder().build();
    let is_made_up = |key: &str, value: &str| key == "service.name" && value.starts_with("unknown_service");
    let named = named
        .iter()
        .filter(|(key, value)| !is_made_up(key.as_str(), &value.as_str()))
        .map(|(key, value)| KeyValue::new(key.clone(), value.clone()));
    own.with_attributes(named).build()
}

/// Whether others on the way can read what is sent to this address.
fn is_open(endpoint: &str) -> bool {
    let Ok(address) = endpoint.parse::<Uri>() else {
        return true;
    };
    let host = address.host().unwrap_or_default();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    let is_here = host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback());
    !is_here && address.scheme_str() != Some("https")
}

/// Why a file of headers cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// It cannot be read.
    #[error("it cannot be read")]
    Read(#[source] std::io::Error),
    /// A line is no header. Its text is secret and not repeated.
    #[error(
        "line {0} is no header; write `name: value`, with a name in small letters and a value of visible ASCII characters"
    )]
    Line(usize),
}

/// Reads a file of headers: `name: value` lines; empty ones and those that begin with `#` are left out.
///
/// # Errors
/// [`HeadersError`].
pub fn read_headers(path: &Path) -> Result<MetadataMap, HeadersError> {
    let text = files::read_text(path, HEADER_BYTES).map_err(HeadersError::Read)?;
    let mut headers = MetadataMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let wrong = || HeadersError::Line(number);
        let (name, value) = line.split_once(':').ok_or_else(wrong)?;
        let name: AsciiMetadataKey = name.trim().parse().map_err(|_| wrong())?;
        let mut value: AsciiMetadataValue = value.trim().parse().map_err(|_| wrong())?;
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn headers_are_lines_and_a_wrong_one_is_named_without_its_text() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        fs::write(
            &path,
            "# of the collector\nauthorization: Bearer open: sesame\n\nx-scope:one\n",
        )
        .unwrap();
        let headers = read_headers(&path).unwrap();
        assert_eq!(headers.get("authorization").unwrap(), "Bearer open: sesame");
        assert_eq!(headers.get("x-scope").unwrap(), "one");
        let collector = Collector {
            endpoint: "http://127.0.0.1:4317".to_owned(),
            headers,
            authorities: None,
            sample_ratio: 1.0,
        };
        assert!(!format!("{collector:?}").contains("sesame"));
        for wrong in ["\nsesame", "\nsesa me: 1", "\nname: ses\u{1}ame"] {
            fs::write(&path, wrong).unwrap();
            let error = read_headers(&path).unwrap_err().to_string();
            assert!(error.starts_with("line 2 "), "{error}");
            assert!(!error.contains("sesame"), "{error}");
        }
        assert!(matches!(read_headers(folder.path()), Err(HeadersError::Read(_))));
    }

    #[test]
    fn only_addresses_of_this_machine_and_those_with_tls_are_safe_for_keys() {
        for safe in [
            "http://127.0.0.1:4317",
            "http://localhost:4317",
            "http://[::1]:4317",
            "https://otel:4317",
        ] {
            assert!(!is_open(safe), "{safe}");
        }
        for open in ["http://otel:4317", "http://10.0.0.7:4317", "not an address"] {
            assert!(is_open(open), "{open}");
        }
    }

    #[test]
    fn spans_are_those_of_this_program_and_process() {
        let resource = resource();
        let of = |name: &'static str| resource.get(&name.into()).map(|value| value.to_string());
        assert_eq!(of("service.name").as_deref(), Some("babelward"));
        assert_eq!(of("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(of("service.instance.id").map(|id| id.len()), Some(32));
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_an_error_that_names_it() {
        let collector = Collector {
            endpoint: "http://".to_owned(),
            headers: MetadataMap::new(),
            authorities: None,
            sample_ratio: 1.0,
        };
        let error = start_traces(collector).err().unwrap().to_string();
        assert!(error.contains("telemetry.otlp_endpoint"), "{error}");
    }
}
