//! A client without a timer: bare HTTP/2. tonic's own client looks at `grpc-timeout` too and may speak before
//! the server's answer arrives; with this one, what arrives is what the server said.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Buf as _, Bytes, BytesMut};
use h2::{SendStream, client::SendRequest};
use prost::Message;
use tokio::{net::TcpStream, task::JoinHandle};
use tonic::{Status, codegen::http};

/// One connection; cheap to clone.
#[derive(Clone)]
pub struct Raw {
    send: SendRequest<Bytes>,
    /// The value of `authorization`, if it is sent.
    authorization: Option<String>,
}

/// A call whose request is not sent to its end.
pub struct Unfinished {
    body: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::watched(address).await.0
    }

    /// The same, and how the connection ends.
    pub async fn watched(address: SocketAddr) -> (Self, JoinHandle<Result<(), h2::Error>>) {
        let stream = TcpStream::connect(address).await.unwrap();
        let mut builder = h2::client::Builder::new();
        // Answers may be small, and this client slow.
        builder.data_frame_budget(1 << 26);
        let (send, connection) = builder.handshake(stream).await.unwrap();
        (Self::of(send), tokio::spawn(connection))
    }

    /// A connection that is there already.
    pub fn of(send: SendRequest<Bytes>) -> Self {
        Self {
            send,
            authorization: None,
        }
    }

    /// The same connection, with a key in each call.
    pub fn with_key(self, key: &str) -> Self {
        Self {
            authorization: Some(format!("Bearer {key}")),
            ..self
        }
    }

    /// Calls a method with one message and waits for its status.
    pub async fn call(&self, method: &str, timeout: &str, message: impl Message) -> Status {
        self.call_bytes(method, timeout, message.encode_to_vec()).await
    }

    /// The same with a message that is encoded already.
    pub async fn call_bytes(&self, method: &str, timeout: &str, message: Vec<u8>) -> Status {
        let mut call = self.begin(method, timeout).await;
        call.send(&framed(&message)).await;
        // A request that was refused has ended already.
        let _refused = call.body.send_data(Bytes::new(), true);
        status(call.response).await
    }

    /// Calls a method, keeps its requests open, sends none, and waits for its status.
    pub async fn say_nothing(&self, method: &str, timeout: &str) -> Status {
        self.begin(method, timeout).await.status().await
    }

    /// The HTTP status of a call that is refused below gRPC.
    pub async fn refused(&self, method: &str) -> u16 {
        let call = self.begin(method, "").await;
        call.response.await.unwrap().status().as_u16()
    }

    /// Begins a call and sends nothing yet.
    pub async fn begin(&self, method: &str, timeout: &str) -> Unfinished {
        self.begin_path(&format!("babelward.v1.{method}"), timeout).await
    }

    /// The same with the whole name of the method.
    pub async fn begin_path(&self, path: &str, timeout: &str) -> Unfinished {
        let headers = [("grpc-timeout", timeout)];
        let headers = headers.iter().filter(|_| !timeout.is_empty()).copied().collect();
        self.begin_headers(path, headers).await
    }

    /// Begins a call with these headers too.
    pub async fn begin_with(&self, method: &str, headers: &[(&str, &str)]) -> Unfinished {
        self.begin_headers(&format!("babelward.v1.{method}"), headers.to_vec())
            .await
    }

    async fn begin_headers(&self, path: &str, headers: Vec<(&str, &str)>) -> Unfinished {
        let mut request = http::Request::post(format!("http://localhost/{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(value) = &self.authorization {
            request = request.header("authorization", value);
        }
        let mut send = self.send.clone().ready().await.unwrap();
        let (response, body) = send.send_request(request.body(()).unwrap(), false).unwrap();
        Unfinished { body, response }
    }

    /// Sends messages to a stream as fast as its window allows, each in a frame of its own, and half-closes. `sent` counts
    /// those that the window has taken. All answers, and the status at the end.
    pub async fn push<M: Message, A: Message + Default>(
        &self,
        method: &str,
        messages: impl IntoIterator<Item = M>,
        sent: &Arc<AtomicUsize>,
    ) -> (Vec<A>, Status) {
        let Unfinished { mut body, response } = self.begin(method, "").await;
        let pushing = async {
            for message in messages {
                write(&mut body, framed(&message.encode_to_vec())).await;
                sent.fetch_add(1, Ordering::AcqRel);
            }
            body.send_data(Bytes::new(), true).unwrap();
        };
        let reading = async {
            let mut body = response.await.unwrap().into_body();
            let (mut bytes, mut answers) = (BytesMut::new(), Vec::new());
            while let Some(data) = body.data().await {
                let data = data.unwrap();
                body.flow_control().release_capacity(data.len()).unwrap();
                bytes.extend_from_slice(&data);
                while bytes.len() >= 5 {
                    let length = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
                    if bytes.len() < 5 + length {
                        break;
                    }
                    bytes.advance(5);
                    answers.push(A::decode(bytes.split_to(length)).unwrap());
                }
            }
            let trailers = body.trailers().await.unwrap().unwrap();
            (answers, Status::from_header_map(&trailers).unwrap())
        };
        tokio::join!(pushing, reading).1
    }
}

impl Unfinished {
    /// Sends these bytes as the window allows.
    pub async fn send(&mut self, bytes: &[u8]) {
        write(&mut self.body, Bytes::copy_from_slice(bytes)).await;
    }

    /// Sends the beginning of a message that says it has `length` bytes.
    pub async fn send_part(&mut self, length: usize, content: usize) {
        let mut part = vec![0];
        part.extend(u32::try_from(length).unwrap().to_be_bytes());
        part.resize(5 + content, 0);
        self.send(&part).await;
    }

    /// Ends the request. The call's status, and the headers of the response.
    pub async fn finish(mut self) -> (Status, http::HeaderMap) {
        // A request that was refused has ended already.
        let _refused = self.body.send_data(Bytes::new(), true);
        let response = self.response.await.unwrap();
        let headers = response.headers().clone();
        (Status::from_header_map(&headers).unwrap(), headers)
    }

    /// Ends the request and reads no answer. The reason for which the server resets the call.
    pub async fn reset(mut self) -> Option<h2::Reason> {
        self.body.send_data(Bytes::new(), true).unwrap();
        let mut body = match self.response.await {
            Ok(response) => response.into_body(),
            Err(error) => return error.reason(),
        };
        body.data().await?.err()?.reason()
    }

    /// Keeps the request open and waits for the call's status.
    pub async fn status(self) -> Status {
        let Self { body, response } = self;
        let status = status(response).await;
        drop(body);
        status
    }
}

/// A message with its prefix.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame.into()
}

/// Sends bytes as the window allows; stops when the server wants no more.
async fn write(body: &mut SendStream<Bytes>, mut bytes: Bytes) {
    while !bytes.is_empty() {
        body.reserve_capacity(bytes.len());
        while body.capacity() == 0 {
            match std::future::poll_fn(|context| body.poll_capacity(context)).await {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return,
            }
        }
        let part = bytes.split_to(body.capacity().min(bytes.len()));
        if body.send_data(part, false).is_err() {
            return;
        }
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
