//! A server with an HTTP port, and a client of HTTP/1.1.

use std::net::SocketAddr;

use axum::body::{Body, to_bytes};
use babelward::{
    config::DoorSettings,
    proto::FILE_DESCRIPTOR_SET,
    rpc::{HttpListener, Listeners, Security, ServerOptions},
};
use http::{HeaderMap, Method, Request, StatusCode, header::CONTENT_TYPE};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use prost_reflect::{DescriptorPool, DynamicMessage};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use crate::rig::{Rig, Setup, local};

/// The path of Classify.
pub const CLASSIFY: &str = "/babelward.v1.SafetyService/Classify";

/// A request that the scripted guard calls safe.
pub const BREAD: &str =
    r#"{"conversation":{"messages":[{"role":"ROLE_USER","content":"How do I bake bread?"}]}}"#;

/// The types of the proto files.
pub fn types() -> DescriptorPool {
    DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap()
}

/// A message as canonical JSON.
pub fn as_json(kind: &str, message: &impl prost::Message) -> String {
    let kind = types()
        .get_message_by_name(&format!("babelward.v1.{kind}"))
        .unwrap();
    let message = DynamicMessage::decode(kind, message.encode_to_vec().as_slice()).unwrap();
    serde_json::to_string(&message).unwrap()
}

/// A message that was canonical JSON.
pub fn from_json<M: prost::Message + Default>(kind: &str, text: &[u8]) -> M {
    let kind = types()
        .get_message_by_name(&format!("babelward.v1.{kind}"))
        .unwrap();
    let mut json = serde_json::Deserializer::from_slice(text);
    let message = DynamicMessage::deserialize(kind, &mut json).unwrap();
    message.transcode_to().unwrap()
}

/// Listeners with an HTTP port.
pub async fn listeners() -> Listeners {
    listeners_with(DoorSettings::default()).await
}

/// The same with these settings of the doors.
pub async fn listeners_with(settings: DoorSettings) -> Listeners {
    let http = HttpListener {
        listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        router: babelward::http::router(settings).unwrap(),
    };
    Listeners {
        http: Some(http),
        ..local().await
    }
}

/// A server with an HTTP port.
pub async fn start() -> Rig {
    with(ServerOptions::default()).await
}

/// The same with these options.
pub async fn with(options: ServerOptions) -> Rig {
    protected(options, Security::default()).await
}

/// The same with TLS, authentication or quotas.
pub async fn protected(options: ServerOptions, security: Security) -> Rig {
    let listeners = Listeners {
        security,
        ..listeners().await
    };
    let setup = Setup {
        options,
        ..Setup::default()
    };
    Rig::on(setup, listeners).await
}

/// The address of the HTTP port.
pub fn address(rig: &Rig) -> SocketAddr {
    rig.http_address.unwrap()
}

/// A connection to an HTTP port.
pub struct Client {
    sender: SendRequest<Body>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    /// Over a stream, such as one with TLS.
    pub async fn over<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T) -> Self {
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// Sends JSON, and waits for the answer.
    pub async fn post(&mut self, path: &str, json: &str) -> Answer {
        self.send(post(path, json)).await
    }

    /// Sends a request, and waits for the answer.
    pub async fn send(&mut self, request: Request<Body>) -> Answer {
        self.try_send(request).await.unwrap()
    }

    /// The same where the connection may be closed.
    pub async fn try_send(&mut self, request: Request<Body>) -> Result<Answer, hyper::Error> {
        self.sender.ready().await?;
        let response = self.sender.send_request(request).await?;
        let (head, body) = response.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.unwrap();
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_vec(),
        })
    }
}

/// A request with a JSON body.
pub fn post(path: &str, json: &str) -> Request<Body> {
    Request::builder()
        .method(Method::POST)
        .uri(path)
        .header("host", "localhost")
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(json.to_owned()))
        .unwrap()
}

/// The same with one more header.
pub fn with_header(mut request: Request<Body>, name: &'static str, value: &str) -> Request<Body> {
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

/// An answer, which has arrived as a whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// The reason of an error, which must have this status.
    pub fn reason(&self, status: u16) -> String {
        assert_eq!(
            self.status.as_u16(),
            status,
            "{}",
            String::from_utf8_lossy(&self.body)
        );
        assert_eq!(self.header("content-type"), "application/json");
        self.detail("google.rpc.ErrorInfo")["reason"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    /// A detail of an error, as people read it.
    pub fn detail(&self, kind: &str) -> Value {
        let body = self.json();
        let details = body["details"].as_array().unwrap();
        let found = details.iter().find(|detail| detail["type"] == kind);
        found.unwrap_or_else(|| panic!("no {kind} in {body}"))["debug"].clone()
    }

    /// The fields that an error names.
    pub fn fields(&self) -> Vec<String> {
        let violations = self.detail("google.rpc.BadRequest")["fieldViolations"].clone();
        let violations = violations.as_array().unwrap().iter();
        violations
            .map(|violation| violation["field"].as_str().unwrap_or_default().to_owned())
            .collect()
    }
}

/// A connection on which bytes are sent as they are.
pub struct RawStream(pub TcpStream);

impl RawStream {
    pub async fn connect(rig: &Rig) -> Self {
        Self(TcpStream::connect(address(rig)).await.unwrap())
    }

    pub async fn say(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next answer, whose body has a length.
    pub async fn answer(&mut self) -> String {
        let mut said = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&said);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.unwrap().parse().unwrap() {
                    return text.into_owned();
                }
            }
            assert!(self.0.read_buf(&mut said).await.unwrap() > 0, "{said:?}");
        }
    }

    /// All that the server says until it closes the connection.
    pub async fn rest(&mut self) -> String {
        let mut said = Vec::new();
        // An end or a reset: both are closed.
        let _ = self.0.read_to_end(&mut said).await;
        String::from_utf8_lossy(&said).into_owned()
    }
}
