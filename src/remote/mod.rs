//! Engines on other machines: a model may be an endpoint that speaks OpenAI's HTTP interface, such as vLLM, SGLang, TGI,
//! llama-server, or another server of ours.
//!
//! [`RemoteEndpoint`] asks one endpoint for answers, and for answers with the log-probabilities of their tokens. It bounds how many requests
//! are open at once and how many wait, tries again where that can help and nothing was delivered, and believes nothing that it
//! has not checked: every line, body and answer has a bound, and what contradicts itself is an error.
//!
//! What a request means, who may make it, and how it is counted is left to `rpc`; which models are endpoints is left to
//! `config` and `registry`.

mod answer;
mod answer_stream;
mod body;
mod connector;
mod describe;
mod endpoint;
mod error;
mod gate;
mod json;
mod logprobs;
mod options;
mod request;
mod sse;
mod transport;

pub use self::{
    answer::{RemoteEvent, RemoteFinish, RemoteFinished, RemoteUsage, ReportedEngine},
    answer_stream::{AnswerStream, RemoteTimes},
    describe::EndpointDescription,
    endpoint::RemoteEndpoint,
    error::{EndpointError, RemoteError, RemotePhase},
    gate::EndpointLoad,
    logprobs::{AnswerPosition, LogprobsAnswer, TokenCandidate},
    options::{EndpointApi, EndpointOptions, EndpointUrl, UrlError},
    request::{LogprobsRequest, RemoteMessage, RemotePrompt, RemoteRequest, RemoteSampling},
};
