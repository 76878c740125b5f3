//! What differs between the calls that stream items.

use std::future::Future;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};

use crate::{
    client::error::RpcError,
    proto::{
        ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, ClassifyStreamResponse, ScoreRequest,
        ScoreResponse, ScoreStreamRequest, ScoreStreamResponse, classify_stream_request,
        classify_stream_response, safety_service_client::SafetyServiceClient, score_stream_request,
        score_stream_response, scoring_service_client::ScoringServiceClient,
    },
};

/// The result of an item.
pub type ItemResult<T = ScoreResponse> = Result<T, RpcError>;

/// A call that takes items with ids and answers them in any order.
pub trait StreamMethod {
    /// The request of an item.
    type Request: Clone + Send;
    /// The answer to an item.
    type Response: Send;
    /// The message of an item.
    type Message: Send + 'static;
    /// The message of an answer.
    type Reply;

    /// Makes the message of an item.
    fn message(id: String, timeout: Option<prost_types::Duration>, request: Self::Request) -> Self::Message;

    /// Unpacks the message of an answer.
    fn unpack(reply: Self::Reply) -> (String, ItemResult<Self::Response>);

    /// Makes the call.
    fn open(
        channel: Channel,
        messages: Request<ReceiverStream<Self::Message>>,
    ) -> impl Future<Output = Result<Streaming<Self::Reply>, Status>> + Send;
}

fn empty_answer() -> RpcError {
    RpcError::local(
        Code::Internal,
        "EMPTY_ANSWER",
        "the answer has neither result nor error",
    )
}

/// `ScoreStream`.
#[derive(Debug)]
pub struct ScoreItems;

impl StreamMethod for ScoreItems {
    type Request = ScoreRequest;
    type Response = ScoreResponse;
    type Message = ScoreStreamRequest;
    type Reply = ScoreStreamResponse;

    fn message(id: String, timeout: Option<prost_types::Duration>, request: ScoreRequest) -> Self::Message {
        ScoreStreamRequest {
            id,
            timeout,
            action: Some(score_stream_request::Action::Score(request)),
        }
    }

    fn unpack(reply: Self::Reply) -> (String, ItemResult) {
        let result = match reply.result {
            Some(score_stream_response::Result::Response(response)) => Ok(response),
            Some(score_stream_response::Result::Error(status)) => Err(RpcError::from_item(status)),
            None => Err(empty_answer()),
        };
        (reply.id, result)
    }

    async fn open(
        channel: Channel,
        messages: Request<ReceiverStream<Self::Message>>,
    ) -> Result<Streaming<Self::Reply>, Status> {
        let mut stub = ScoringServiceClient::new(channel);
        Ok(stub.score_stream(messages).await?.into_inner())
    }
}

/// `ClassifyStream`.
#[derive(Debug)]
pub struct ClassifyItems;

impl StreamMethod for ClassifyItems {
    type Request = ClassifyRequest;
    type Response = ClassifyResponse;
    type Message = ClassifyStreamRequest;
    type Reply = ClassifyStreamResponse;

    fn message(
        id: String,
        timeout: Option<prost_types::Duration>,
        request: ClassifyRequest,
    ) -> Self::Message {
        ClassifyStreamRequest {
            id,
            timeout,
            action: Some(classify_stream_request::Action::Classify(request)),
        }
    }

    fn unpack(reply: Self::Reply) -> (String, ItemResult<ClassifyResponse>) {
        let result = match reply.result {
            Some(classify_stream_response::Result::Response(response)) => Ok(response),
            Some(classify_stream_response::Result::Error(status)) => Err(RpcError::from_item(status)),
            None => Err(empty_answer()),
        };
        (reply.id, result)
    }

    async fn open(
        channel: Channel,
        messages: Request<ReceiverStream<Self::Message>>,
    ) -> Result<Streaming<Self::Reply>, Status> {
        let mut stub = SafetyServiceClient::new(channel);
        Ok(stub.classify_stream(messages).await?.into_inner())
    }
}
