//! A collector of traces in this process, which keeps what it gets.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1,
};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    metadata::MetadataMap,
    transport::{Identity, Server, ServerTlsConfig},
};

/// What was exported.
#[derive(Clone, Default)]
pub struct Collector(Arc<Mutex<Vec<(MetadataMap, ExportTraceServiceRequest)>>>);

/// A span, as tests look at it.
#[derive(Debug, Clone)]
pub struct Span {
    pub name: String,
    pub trace: String,
    pub id: String,
    /// Empty for a span without one.
    pub parent: String,
    pub state: String,
    pub began: u64,
    pub ended: u64,
    pub attributes: BTreeMap<String, String>,
    pub is_error: bool,
    pub is_server: bool,
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let metadata = request.metadata().clone();
        self.0.lock().unwrap().push((metadata, request.into_inner()));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// A collector on a free port.
    pub async fn start() -> (Self, SocketAddr) {
        Self::serve(Server::builder()).await
    }

    /// A collector that speaks TLS.
    pub async fn start_with_tls(identity: Identity) -> (Self, SocketAddr) {
        let tls = ServerTlsConfig::new().identity(identity);
        Self::serve(Server::builder().tls_config(tls).unwrap()).await
    }

    async fn serve(mut server: Server) -> (Self, SocketAddr) {
        let collector = Self::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = TraceServiceServer::new(collector.clone());
        let serving = server
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(serving);
        (collector, address)
    }

    /// The spans so far, by the time at which they began.
    pub fn spans(&self) -> Vec<Span> {
        let exports = self.0.lock().unwrap();
        let scopes = exports
            .iter()
            .flat_map(|(_, export)| &export.resource_spans)
            .flat_map(|resource| &resource.scope_spans);
        let mut spans: Vec<_> = scopes.flat_map(|scope| &scope.spans).map(Span::of).collect();
        spans.sort_by_key(|span| (span.began, span.ended));
        spans
    }

    /// What is said of the process that the spans are of.
    pub fn resource(&self) -> BTreeMap<String, String> {
        let exports = self.0.lock().unwrap();
        let resource = exports[0].1.resource_spans[0].resource.as_ref().unwrap();
        attributes(&resource.attributes)
    }

    /// The values of a header, one for each export.
    pub fn headers(&self, name: &str) -> Vec<Option<String>> {
        let exports = self.0.lock().unwrap();
        let value = |metadata: &MetadataMap| Some(metadata.get(name)?.to_str().unwrap().to_owned());
        exports.iter().map(|(metadata, _)| value(metadata)).collect()
    }

    /// Whether a text is anywhere in what was exported.
    pub fn knows(&self, text: &str) -> bool {
        let exports = self.0.lock().unwrap();
        exports.iter().any(|(_, export)| {
            let bytes = export.encode_to_vec();
            bytes.windows(text.len()).any(|part| part == text.as_bytes())
        })
    }
}

impl Span {
    fn of(span: &v1::Span) -> Self {
        let hex = |id: &[u8]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Self {
            name: span.name.clone(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state.clone(),
            began: span.start_time_unix_nano,
            ended: span.end_time_unix_nano,
            attributes: attributes(&span.attributes),
            is_error: span
                .status
                .as_ref()
                .is_some_and(|status| status.code() == v1::status::StatusCode::Error),
            is_server: span.kind() == v1::span::SpanKind::Server,
        }
    }

    /// The children of this span, by the time at which they began.
    pub fn children<'a>(&self, spans: &'a [Self]) -> Vec<&'a Self> {
        spans.iter().filter(|span| span.parent == self.id).collect()
    }

    pub fn attribute(&self, name: &str) -> &str {
        let value = self.attributes.get(name);
        value.unwrap_or_else(|| panic!("{name} is not in {self:#?}"))
    }
}

fn attributes(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |attribute: &KeyValue| match attribute.value.clone().unwrap().value.unwrap() {
        Value::StringValue(text) => text,
        Value::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes
        .iter()
        .map(|attribute| (attribute.key.clone(), text(attribute)))
        .collect()
}
