//! All checks of a request that need no model, from its bytes on. The services make the same ones, with models between
//! them; here tests and fuzzing make them without a server.

use prost::Message;

use super::{
    checker::Checker,
    evidence::evidence_fields,
    generation::{generate_fields, score_fields, take_guard},
    growing::{guard_chunk, guard_fields},
    quality::quality_fields,
    renderings::rendering_fields,
    request::{count_tokens, item_id, item_timeout, list_models, message_size},
    safety::{batch, classify_fields},
};
use crate::{
    proto,
    rpc::{element_counts::ElementCounts, error::ServiceError, limits::Limits, method::Method},
};

/// The checks of requests that need no model.
pub struct RequestChecks {
    counts: ElementCounts,
    limits: Limits,
}

impl RequestChecks {
    /// Checks by these limits.
    ///
    /// # Errors
    /// When the descriptors in the program are damaged.
    pub fn new(limits: Limits) -> Result<Self, prost::DecodeError> {
        Ok(Self {
            counts: ElementCounts::new(proto::FILE_DESCRIPTOR_SET, &limits)?,
            limits,
        })
    }

    /// Checks the message of the call with this path, such as `/babelward.v1.SafetyService/Classify`. `None` when there is no
    /// such call, or the bytes are not its message.
    pub fn check(&self, path: &str, message: &[u8]) -> Option<Result<(), tonic::Status>> {
        let method = Method::of_path(path)?;
        let found = match self.counts.check(method, message) {
            Ok(()) => self.fields(method, message).ok()?,
            Err(violation) => Err(ServiceError::InvalidFields(vec![violation])),
        };
        Some(found.map_err(|error| error.to_status("")))
    }

    fn fields(&self, method: Method, message: &[u8]) -> Result<Result<(), ServiceError>, prost::DecodeError> {
        let limits = &self.limits;
        Ok(match method {
            Method::Generate => self.generate(decode(message)?, ""),
            Method::Classify => self.classify(decode(message)?, ""),
            Method::Score => self.score(decode(message)?, ""),
            Method::BatchClassify => {
                let request: proto::BatchClassifyRequest = decode(message)?;
                batch(&request, limits).and_then(|_| {
                    let items = request.items.into_iter().enumerate();
                    let mut requests = items.filter_map(|(index, item)| Some((index, item.request?)));
                    requests.try_for_each(|(index, request)| {
                        self.classify(request, &format!("items[{index}].request"))
                    })
                })
            }
            Method::GenerateStream => {
                use proto::generate_stream_request::Action;
                let item: proto::GenerateStreamRequest = decode(message)?;
                self.item(
                    &item.id,
                    item.timeout,
                    item.action.map(|action| match action {
                        Action::Generate(request) => self.generate(request, "generate"),
                        Action::Cancel(_) => Ok(()),
                    }),
                )
            }
            Method::ClassifyStream => {
                use proto::classify_stream_request::Action;
                let item: proto::ClassifyStreamRequest = decode(message)?;
                self.item(
                    &item.id,
                    item.timeout,
                    item.action.map(|action| match action {
                        Action::Classify(request) => self.classify(request, "classify"),
                        Action::Cancel(_) => Ok(()),
                    }),
                )
            }
            Method::GuardStream => {
                use proto::guard_stream_request::Event;
                let message: proto::GuardStreamRequest = decode(message)?;
                match message.event {
                    None => Err(ServiceError::field("event", "is required")),
                    Some(Event::Start(start)) => self.guard_start(start),
                    Some(Event::Chunk(chunk)) => guard_chunk(&chunk),
                    Some(Event::End(proto::GuardEnd {})) => Ok(()),
                }
            }
            Method::ClassifyRenderings => rendering_fields(decode(message)?, limits).and_then(|checked| {
                let mut renderings = checked.renderings.into_iter().enumerate();
                renderings.try_for_each(|(index, rendering)| {
                    self.classify(rendering, &format!("renderings[{index}]"))
                })
            }),
            Method::FindEvidence => {
                let request: proto::FindEvidenceRequest = decode(message)?;
                message_size(request.encoded_len(), limits).and_then(|()| {
                    let mut checker = Checker::at("");
                    evidence_fields(&mut checker, request, limits);
                    checker.finish()
                })
            }
            Method::ScoreStream => {
                use proto::score_stream_request::Action;
                let item: proto::ScoreStreamRequest = decode(message)?;
                self.item(
                    &item.id,
                    item.timeout,
                    item.action.map(|action| match action {
                        Action::Score(request) => self.score(request, "score"),
                        Action::Cancel(_) => Ok(()),
                    }),
                )
            }
            Method::EstimateQuality => quality_fields(decode(message)?, limits).map(drop),
            Method::CountTokens => count_tokens(&decode(message)?, limits),
            Method::ListModels => list_models(&decode(message)?, 1).map(drop),
            Method::ListPolicies => decode::<proto::ListPoliciesRequest>(message).map(|_| Ok(()))?,
            Method::GetModel => decode::<proto::GetModelRequest>(message).map(|_| Ok(()))?,
            Method::WatchModels => decode::<proto::WatchModelsRequest>(message).map(|_| Ok(()))?,
            Method::GetServerStats => decode::<proto::GetServerStatsRequest>(message).map(|_| Ok(()))?,
            Method::LoadModel => decode::<proto::LoadModelRequest>(message).map(|_| Ok(()))?,
            Method::UnloadModel => decode::<proto::UnloadModelRequest>(message).map(|_| Ok(()))?,
            Method::PinModel => decode::<proto::PinModelRequest>(message).map(|_| Ok(()))?,
            Method::EstimateModel => decode::<proto::EstimateModelRequest>(message).map(|_| Ok(()))?,
        })
    }

    fn generate(&self, mut request: proto::GenerateRequest, path: &str) -> Result<(), ServiceError> {
        message_size(request.encoded_len(), &self.limits)?;
        let mut checker = Checker::at(path);
        take_guard(&mut checker, &mut request, &self.limits);
        generate_fields(&mut checker, request, &self.limits);
        checker.finish()
    }

    fn classify(&self, request: proto::ClassifyRequest, path: &str) -> Result<(), ServiceError> {
        message_size(request.encoded_len(), &self.limits)?;
        let mut checker = Checker::at(path);
        classify_fields(&mut checker, request, &self.limits);
        checker.finish()
    }

    fn guard_start(&self, start: proto::GuardStart) -> Result<(), ServiceError> {
        message_size(start.encoded_len(), &self.limits)?;
        let mut checker = Checker::at("start");
        guard_fields(&mut checker, start, &self.limits);
        checker.finish()
    }

    fn score(&self, request: proto::ScoreRequest, path: &str) -> Result<(), ServiceError> {
        message_size(request.encoded_len(), &self.limits)?;
        let mut checker = Checker::at(path);
        score_fields(&mut checker, request, &self.limits);
        checker.finish()
    }

    /// An item of a stream: its id, its timeout, and what was found of its request, if it has one.
    fn item(
        &self,
        id: &str,
        timeout: Option<prost_types::Duration>,
        request: Option<Result<(), ServiceError>>,
    ) -> Result<(), ServiceError> {
        item_id(id, &self.limits)?;
        item_timeout(timeout.as_ref())?;
        request.unwrap_or(Ok(()))
    }
}

fn decode<M: Message + Default>(message: &[u8]) -> Result<M, prost::DecodeError> {
    M::decode(message)
}
