//! A scripted server on a free port, for tests of clients.

use std::{
    collections::BTreeMap,
    future,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::proto::{
    ItemStatus, ScoreRequest, ScoreResponse, ScoreStreamRequest, ScoreStreamResponse,
    score_stream_request::Action,
    score_stream_response::Result as Answer,
    scoring_service_server::{ScoringService, ScoringServiceServer},
};

/// One item as it reached the server.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    /// The item's id; empty for a unary call.
    pub(crate) id: String,
    /// How many times this id has arrived, from 1.
    pub(crate) nth: usize,
    /// The request.
    pub(crate) request: ScoreRequest,
}

/// How the server replies to an item.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Answers.
    Score(Box<ScoreResponse>),
    /// Answers after the next item was answered.
    AfterNext(Box<ScoreResponse>),
    /// Fails the item.
    Fail(ItemStatus),
    /// Ends the stream with a status; items held back are never answered.
    Break(Status),
    /// Ends the stream as if all items were answered.
    End,
}

type Script = Arc<dyn Fn(&Call) -> Reply + Send + Sync>;

/// A running server; it ends with the runtime.
pub(crate) struct FakeServer {
    /// Where it listens.
    pub(crate) address: String,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl FakeServer {
    /// Starts a server that treats every item as `script` says.
    pub(crate) async fn start(script: impl Fn(&Call) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_until(script, future::pending()).await
    }

    /// The same, until `shutdown` resolves: then it closes its port and asks connections to go.
    pub(crate) async fn start_until(
        script: impl Fn(&Call) -> Reply + Send + Sync + 'static,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let calls = Arc::default();
        let service = Fake {
            script: Arc::new(script),
            seen: Arc::default(),
            calls: Arc::clone(&calls),
        };
        let server = tonic::transport::Server::builder()
            .add_service(ScoringServiceServer::new(service))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), shutdown);
        tokio::spawn(server);
        Self {
            address: format!("http://{address}"),
            calls,
        }
    }

    /// All items so far, in the order of their arrival.
    pub(crate) fn calls(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[derive(Clone)]
struct Fake {
    script: Script,
    seen: Arc<Mutex<BTreeMap<String, usize>>>,
    calls: Arc<Mutex<Vec<Call>>>,
}

impl Fake {
    fn reply(&self, id: &str, request: ScoreRequest) -> Reply {
        let nth = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let count = seen.entry(id.to_owned()).or_default();
            *count += 1;
            *count
        };
        let call = Call {
            id: id.to_owned(),
            nth,
            request,
        };
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(call.clone());
        (self.script)(&call)
    }

    async fn serve(self, mut inbound: Streaming<ScoreStreamRequest>, outbound: Outbound) {
        let mut held: Option<ScoreStreamResponse> = None;
        while let Ok(Some(message)) = inbound.message().await {
            let Some(Action::Score(request)) = message.action else {
                continue;
            };
            let answer = |answer| ScoreStreamResponse {
                id: message.id.clone(),
                result: Some(answer),
            };
            let now = match self.reply(&message.id, request) {
                Reply::Score(score) => answer(Answer::Response(*score)),
                Reply::Fail(status) => answer(Answer::Error(status)),
                Reply::AfterNext(score) => match held.replace(answer(Answer::Response(*score))) {
                    Some(earlier) => earlier,
                    None => continue,
                },
                Reply::Break(status) => {
                    let _ = outbound.send(Err(status)).await;
                    return;
                }
                Reply::End => return,
            };
            let _ = outbound.send(Ok(now)).await;
            if let Some(earlier) = held.take() {
                let _ = outbound.send(Ok(earlier)).await;
            }
        }
    }
}

type Outbound = mpsc::Sender<Result<ScoreStreamResponse, Status>>;

#[tonic::async_trait]
impl ScoringService for Fake {
    type ScoreStreamStream = ReceiverStream<Result<ScoreStreamResponse, Status>>;

    async fn score(&self, request: Request<ScoreRequest>) -> Result<Response<ScoreResponse>, Status> {
        match self.reply("", request.into_inner()) {
            Reply::Score(score) | Reply::AfterNext(score) => Ok(Response::new(*score)),
            Reply::Fail(status) => Err(Status::new(status.code.into(), status.message)),
            Reply::Break(status) => Err(status),
            Reply::End => Err(Status::unknown("ended")),
        }
    }

    async fn score_stream(
        &self,
        request: Request<Streaming<ScoreStreamRequest>>,
    ) -> Result<Response<Self::ScoreStreamStream>, Status> {
        let (sender, receiver) = mpsc::channel(4);
        tokio::spawn(self.clone().serve(request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
