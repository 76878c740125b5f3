//! An OpenAI-compatible endpoint that answers by script: honestly, or with lies, stalls, broken connections and floods.
//!
//! A script is a function from a request to a [`Reply`]: a status, headers, and a body in [`Piece`]s. It answers every path, so a
//! test decides what `/v1/models`, `/props` or `/version` say as well; [`undescribed`] answers these for scripts that do not care.

#![allow(dead_code, reason = "each test binary uses its own part of it")]

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

/// A request that has been received as a whole.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: Method,
    /// With its query, such as `/v1/completions`.
    pub path: String,
    pub headers: HeaderMap,
    /// The body as JSON; null where there is none.
    pub body: Value,
    /// Requests to this path before it.
    pub before: usize,
}

impl Asked {
    /// Whether it asks what the endpoint is, and not for text.
    pub fn is_description(&self) -> bool {
        self.method == Method::GET
    }

    /// A header's value; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A part of an answer's body.
#[derive(Clone)]
pub enum Piece {
    /// A server-sent event with this data.
    Event(String),
    /// Bytes as they are.
    Bytes(Bytes),
    /// Nothing more, for ever.
    Stall,
    /// The connection breaks.
    Break,
    /// These bytes again and again, for ever.
    Flood(Bytes),
    /// Waits until the value is true.
    Until(watch::Receiver<bool>),
}

impl Piece {
    /// An event with a JSON object.
    pub fn json(value: &Value) -> Self {
        Self::Event(value.to_string())
    }

    /// The event that ends a stream.
    pub fn done() -> Self {
        Self::Event("[DONE]".to_owned())
    }

    /// Bytes of a text.
    pub fn text(text: &str) -> Self {
        Self::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// An answer to a request.
#[derive(Clone)]
pub enum Reply {
    /// A head and a body.
    Answer(Answer),
    /// No head comes, for ever.
    Silence,
    /// The connection is closed before there is a head.
    Hangup,
}

/// A head and a body.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<Piece>,
}

impl Reply {
    /// A JSON object with status 200.
    pub fn json(value: &Value) -> Self {
        Self::body("application/json", vec![Piece::text(&value.to_string())])
    }

    /// A body of this type with status 200.
    pub fn body(content_type: &str, body: Vec<Piece>) -> Self {
        Self::Answer(Answer {
            status: 200,
            headers: vec![("content-type", content_type.to_owned())],
            body,
        })
    }

    /// A stream of server-sent events, without an end of its own.
    pub fn events(pieces: Vec<Piece>) -> Self {
        Self::body("text/event-stream", pieces)
    }

    /// A refusal in OpenAI's form.
    pub fn refusal(status: u16, message: &str) -> Self {
        let error = json!({"error": {"message": message, "type": "scripted", "param": null, "code": status}});
        Self::json(&error).with_status(status)
    }

    /// The same with another status.
    pub fn with_status(mut self, status: u16) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.status = status;
        }
        self
    }

    /// The same with one more header.
    pub fn with_header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Answer(answer) = &mut self {
            answer.headers.push((name, value.to_owned()));
        }
        self
    }
}

/// What decides about each answer.
type Script = Box<dyn Fn(&Asked) -> Reply + Send + Sync>;

struct State {
    script: Script,
    asked: Mutex<Vec<Asked>>,
    /// Answers that have been begun and not ended, and those that the client has left before their end.
    open: watch::Sender<usize>,
    left: watch::Sender<usize>,
}

/// An endpoint on a free port, until it is dropped.
pub struct Endpoint {
    pub address: SocketAddr,
    scheme: &'static str,
    state: Arc<State>,
    serving: tokio::task::JoinHandle<()>,
}

impl Endpoint {
    /// An endpoint that answers by this script.
    pub async fn start(script: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        Self::serve(None, Box::new(script)).await
    }

    /// The same with TLS. Its certificate should be for `localhost` or `127.0.0.1`.
    pub async fn start_with_tls(
        tls: Arc<rustls::ServerConfig>,
        script: impl Fn(&Asked) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(TlsAcceptor::from(tls)), Box::new(script)).await
    }

    async fn serve(tls: Option<TlsAcceptor>, script: Script) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            script,
            asked: Mutex::default(),
            open: watch::Sender::new(0),
            left: watch::Sender::new(0),
        });
        let scheme = match tls {
            Some(_) => "https",
            None => "http",
        };
        let serving = tokio::spawn(accept(listener, tls, Arc::clone(&state)));
        Self {
            address,
            scheme,
            state,
            serving,
        }
    }

    /// What a configuration says of it: scheme, address, and `/v1`.
    pub fn url(&self) -> String {
        format!("{}://{}/v1", self.scheme, self.address)
    }

    /// All requests so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The bodies of the requests to a path so far.
    pub fn bodies(&self, path: &str) -> Vec<Value> {
        let asked = self.asked().into_iter();
        asked.filter(|one| one.path == path).map(|one| one.body).collect()
    }

    /// Answers under way.
    pub fn open(&self) -> usize {
        *self.state.open.borrow()
    }

    /// Waits until so many answers are under way.
    pub async fn until_open(&self, count: usize) {
        self.state
            .open
            .subscribe()
            .wait_for(|open| *open == count)
            .await
            .unwrap();
    }

    /// Waits until the client has left so many answers before their end.
    pub async fn until_left(&self, count: usize) {
        self.state
            .left
            .subscribe()
            .wait_for(|left| *left >= count)
            .await
            .unwrap();
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // Connections end with the endpoint.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        match tls.clone() {
            None => connections.spawn(connection(stream, state)),
            Some(tls) => connections.spawn(secured(stream, tls, state)),
        };
    }
}

async fn secured(stream: TcpStream, tls: TlsAcceptor, state: Arc<State>) {
    // A client that does not trust the certificate leaves here.
    if let Ok(stream) = tls.accept(stream).await {
        connection(stream, state).await;
    }
}

async fn connection<T: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: T, state: Arc<State>) {
    let service = service_fn(|request| answer(request, Arc::clone(&state)));
    // Broken connections are what this is for.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Body>, io::Error> {
    let (head, body) = request.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX)
        .await
        .map_err(io::Error::other)?;
    let path = head
        .uri
        .path_and_query()
        .map_or("/", |path| path.as_str())
        .to_owned();
    let asked = {
        let mut all = state.asked.lock().unwrap();
        let asked = Asked {
            method: head.method,
            before: all.iter().filter(|one| one.path == path).count(),
            path,
            headers: head.headers,
            body: serde_json::from_slice(&body).unwrap_or(Value::Null),
        };
        all.push(asked.clone());
        asked
    };
    let under_way = UnderWay::begin(Arc::clone(&state));
    let answer = match (state.script)(&asked) {
        Reply::Answer(answer) => answer,
        Reply::Silence => {
            // Dropped, and counted as left, when the client goes away.
            let _under_way = under_way;
            match std::future::pending::<Infallible>().await {}
        }
        Reply::Hangup => {
            under_way.complete();
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
    };
    let mut response = Response::new(Body::from_stream(pieces(answer.body, under_way)));
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap();
    for (name, value) in answer.headers {
        response.headers_mut().append(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).unwrap(),
        );
    }
    Ok(response)
}

/// The bytes of a body. Its last piece ends it, unless that goes on for ever.
fn pieces(
    body: Vec<Piece>,
    under_way: UnderWay,
) -> impl futures::Stream<Item = Result<Bytes, io::Error>> + Send {
    let begun = (body.into_iter(), None::<Bytes>, Some(under_way));
    stream::unfold(begun, |(mut body, flood, mut under_way)| async move {
        if let Some(bytes) = flood {
            return Some((Ok(bytes.clone()), (body, Some(bytes), under_way)));
        }
        loop {
            match body.next() {
                Some(Piece::Event(data)) => {
                    let bytes = Bytes::from(format!("data: {data}\n\n"));
                    return Some((Ok(bytes), (body, None, under_way)));
                }
                Some(Piece::Bytes(bytes)) => return Some((Ok(bytes), (body, None, under_way))),
                Some(Piece::Flood(bytes)) => {
                    return Some((Ok(bytes.clone()), (body, Some(bytes), under_way)));
                }
                Some(Piece::Stall) => std::future::pending::<()>().await,
                Some(Piece::Until(mut gate)) => {
                    // A gate that is gone is open.
                    let _ = gate.wait_for(|is_open| *is_open).await;
                }
                Some(Piece::Break) => {
                    // The connection sends what was written before, while this waits.
                    tokio::task::yield_now().await;
                    if let Some(under_way) = under_way.take() {
                        under_way.complete();
                    }
                    let broken = io::Error::from(io::ErrorKind::ConnectionAborted);
                    return Some((Err(broken), (Vec::new().into_iter(), None, None)));
                }
                None => {
                    under_way.take()?.complete();
                    return None;
                }
            }
        }
    })
    .boxed()
}

/// An answer under way. One that is dropped before it is complete has been left by its client.
struct UnderWay {
    state: Arc<State>,
    is_complete: bool,
}

impl UnderWay {
    fn begin(state: Arc<State>) -> Self {
        state.open.send_modify(|open| *open += 1);
        Self {
            state,
            is_complete: false,
        }
    }

    fn complete(mut self) {
        self.is_complete = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        // Whoever waits for the client to leave finds that the answer is not open any more.
        self.state.open.send_modify(|open| *open -= 1);
        if !self.is_complete {
            self.state.left.send_modify(|left| *left += 1);
        }
    }
}

/// What an endpoint says of itself that serves one model: a list of models, and nothing of a program of its own. `None` for
/// requests that ask for text.
pub fn undescribed(asked: &Asked, model: &str) -> Option<Reply> {
    match (asked.method == Method::GET, asked.path.as_str()) {
        (true, "/v1/models") => Some(Reply::json(&models(model))),
        (true, _) => Some(Reply::refusal(404, "there is no such path")),
        (false, _) => None,
    }
}

/// A list with one model, as vLLM writes it.
pub fn models(model: &str) -> Value {
    json!({"object": "list", "data": [{
        "id": model, "object": "model", "created": 1_700_000_000, "owned_by": "vllm", "root": model, "max_model_len": 4096,
    }]})
}

/// What a completion took.
pub fn usage(prompt: usize, completion: usize) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

/// A completion as one object.
pub fn completion(text: &str, finish_reason: &str, usage: Value) -> Value {
    json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "served",
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason}],
        "usage": usage,
    })
}

/// A piece of a streamed completion.
pub fn completion_piece(text: &str, finish_reason: Option<&str>) -> Piece {
    Piece::json(&json!({
        "id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": "served",
        "choices": [{"index": 0, "text": text, "logprobs": null, "finish_reason": finish_reason}],
    }))
}

/// A piece of a streamed chat completion.
pub fn chat_piece(content: &str, finish_reason: Option<&str>) -> Piece {
    Piece::json(&json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "served",
        "choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}],
    }))
}

/// The last piece of a stream with usage.
pub fn usage_piece(usage: Value) -> Piece {
    Piece::json(&json!({
        "id": "1", "object": "text_completion", "created": 1_700_000_000, "model": "served", "choices": [],
        "usage": usage,
    }))
}

/// A token of an answer, with the most likely tokens of its position: their texts and the logarithms of their probabilities.
pub struct ListedToken {
    pub text: &'static str,
    pub top: Vec<(&'static str, f64)>,
}

impl ListedToken {
    /// A token, which is the most likely one, with others.
    pub fn new(text: &'static str, top: &[(&'static str, f64)]) -> Self {
        Self {
            text,
            top: top.to_vec(),
        }
    }
}

/// The log-probabilities of a completion, in the form of OpenAI's completions.
pub fn logprobs(tokens: &[ListedToken]) -> Value {
    let texts: Vec<_> = tokens.iter().map(|token| token.text).collect();
    let of = |token: &ListedToken| {
        token
            .top
            .iter()
            .find(|(text, _)| *text == token.text)
            .map(|(_, p)| *p)
    };
    let own: Vec<_> = tokens.iter().map(of).collect();
    let top: Vec<Value> = tokens
        .iter()
        .map(|token| {
            let top = token.top.iter();
            Value::Object(top.map(|(text, p)| ((*text).to_owned(), json!(p))).collect())
        })
        .collect();
    let mut offset = 0;
    let mut offsets = Vec::new();
    for token in tokens {
        offsets.push(offset);
        offset += token.text.chars().count();
    }
    json!({"tokens": texts, "token_logprobs": own, "top_logprobs": top, "text_offset": offsets})
}

/// The same in the form of chat completions, which llama-server gives for completions as well.
pub fn content_logprobs(tokens: &[ListedToken]) -> Value {
    let likely = |text: &str, p: f64| json!({"token": text, "logprob": p, "bytes": text.as_bytes()});
    let content: Vec<_> = tokens
        .iter()
        .map(|token| {
            let own = token.top.iter().find(|(text, _)| *text == token.text);
            let mut one = likely(token.text, own.map_or(0.0, |(_, p)| *p));
            let top: Vec<_> = token.top.iter().map(|(text, p)| likely(text, *p)).collect();
            one["top_logprobs"] = Value::Array(top);
            one
        })
        .collect();
    json!({"content": content})
}

/// A completion with log-probabilities.
pub fn judged(text: &str, logprobs: Value, usage: Value) -> Value {
    let mut completion = completion(text, "stop", usage);
    completion["choices"][0]["logprobs"] = logprobs;
    completion
}
