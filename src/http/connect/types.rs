//! The calls of the proto files, with the types of their messages, and messages as canonical JSON
//! (<https://protobuf.dev/programming-guides/json/>).

use bytes::Bytes;
use http::uri::PathAndQuery;
use prost::Message as _;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor};
use tonic::Status;

use crate::{http::status::Refusal, proto::FILE_DESCRIPTOR_SET, rpc::Door};

/// This door in the log.
pub(super) const DOOR: Door = Door("connect");

/// Services that callers over HTTP have no use for. Reflection is a stream.
const PACKAGES: [&str; 2] = ["babelward.v1", "grpc.health.v1"];

/// A call of a service.
pub(super) struct Call {
    /// `/babelward.v1.SafetyService/Classify`.
    pub(super) path: PathAndQuery,
    /// Whether its request or its answer is a stream of messages.
    pub(super) is_stream: bool,
    /// Whether its request is one.
    pub(super) takes_stream: bool,
    /// The type of its request message.
    pub(super) request: MessageDescriptor,
    /// The type of its answer.
    answer: MessageDescriptor,
}

/// Why a message cannot be written as JSON: its bytes are not of its type, or a value in it has no JSON form.
#[derive(Debug)]
pub(super) struct NotJson;

/// The answers are our own messages, so this does not happen.
impl From<NotJson> for Refusal {
    fn from(_: NotJson) -> Self {
        Status::internal("the answer could not be written as JSON").into()
    }
}

impl Call {
    fn of(method: &MethodDescriptor) -> Option<Self> {
        let path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        Some(Self {
            path: PathAndQuery::try_from(path).ok()?,
            is_stream: method.is_client_streaming() || method.is_server_streaming(),
            takes_stream: method.is_client_streaming(),
            request: method.input(),
            answer: method.output(),
        })
    }

    /// An encoded answer as JSON.
    pub(super) fn to_json(&self, answer: &Bytes) -> Result<Bytes, NotJson> {
        let message = DynamicMessage::decode(self.answer.clone(), answer.clone()).map_err(|_| NotJson)?;
        let text = serde_json::to_vec(&message).map_err(|_| NotJson)?;
        Ok(text.into())
    }
}

/// An encoded message.
pub(super) fn encode(message: &DynamicMessage) -> Bytes {
    message.encode_to_vec().into()
}

/// All message types that requests, answers and the details of errors have.
pub(super) fn types() -> Result<DescriptorPool, DescriptorError> {
    let mut types = DescriptorPool::decode(FILE_DESCRIPTOR_SET)?;
    types.decode_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)?;
    types.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)?;
    Ok(types)
}

/// All calls of our services, and the health check.
pub(super) fn calls() -> Result<Vec<Call>, DescriptorError> {
    let types = types()?;
    let services = types.services();
    let ours = services.filter(|service| PACKAGES.contains(&service.package_name()));
    let methods = ours.flat_map(|service| service.methods().collect::<Vec<_>>());
    Ok(methods.filter_map(|method| Call::of(&method)).collect())
}
