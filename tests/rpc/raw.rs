//! A client without a timer: bare HTTP/2. tonic's own client looks at `grpc-timeout` too and may speak before
//! the server's answer arrives; with this one, what arrives is what the server said.

use std::net::SocketAddr;

use h2::{SendStream, client::SendRequest};
use prost::Message;
use tokio::net::TcpStream;
use tonic::{
    Status,
    codegen::{Bytes, http},
};

/// One connection; cheap to clone.
#[derive(Clone)]
pub struct Raw(SendRequest<Bytes>);

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self(send)
    }

    /// Calls a method with one message and waits for its status.
    pub async fn call(&self, method: &str, timeout: &str, message: impl Message) -> Status {
        let (mut body, response) = self.open(method, timeout).await;
        let encoded = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend(u32::try_from(encoded.len()).unwrap().to_be_bytes());
        frame.extend(encoded);
        body.send_data(frame.into(), true).unwrap();
        status(response).await
    }

    /// Calls a method, keeps its requests open, sends none, and waits for its status.
    pub async fn say_nothing(&self, method: &str, timeout: &str) -> Status {
        let (_body, response) = self.open(method, timeout).await;
        status(response).await
    }

    async fn open(&self, method: &str, timeout: &str) -> (SendStream<Bytes>, h2::client::ResponseFuture) {
        let request = http::Request::post(format!("http://localhost/babelward.v1.{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", timeout)
            .body(())
            .unwrap();
        let mut send = self.0.clone().ready().await.unwrap();
        let (response, body) = send.send_request(request, false).unwrap();
        (body, response)
    }
}

/// The status in the headers, or after all messages in the trailers.
async fn status(response: h2::client::ResponseFuture) -> Status {
    let response = response.await.unwrap();
    if let Some(status) = Status::from_header_map(response.headers()) {
        return status;
    }
    let mut body = response.into_body();
    while let Some(data) = body.data().await {
        body.flow_control().release_capacity(data.unwrap().len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    Status::from_header_map(&trailers).unwrap()
}
