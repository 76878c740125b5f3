//! What the doors make of bodies of JSON, without a server: for those who give them any bytes, as fuzzing does.

use prost::Message as _;
use prost_reflect::DescriptorError;
use tonic::Status;

use super::{connect, guardrails, openai};
use crate::config::DoorSettings;

/// What the doors make of bodies of JSON.
pub struct BodyChecks {
    calls: connect::Calls,
    settings: DoorSettings,
}

/// The call that a body becomes.
#[derive(Debug)]
pub struct CallOfBody {
    /// Its path.
    pub path: String,
    /// Its encoded message. Of a guardrail caller's texts it has the first ones.
    pub message: Vec<u8>,
}

impl BodyChecks {
    /// Reads as the doors do without any configuration.
    ///
    /// # Errors
    /// When our own descriptors cannot be read.
    pub fn new() -> Result<Self, DescriptorError> {
        Ok(Self {
            calls: connect::Calls::new()?,
            settings: DoorSettings::default(),
        })
    }

    /// Reads the body of a request to this path of the HTTP port. `None` if no door reads JSON there.
    ///
    /// # Errors
    /// What is wrong with the body. What its call says of it is another question: see [`crate::rpc::RequestChecks`].
    pub fn read(&self, path: &str, body: &[u8]) -> Option<Result<CallOfBody, Status>> {
        let read = if let Some(message) = self.calls.message(path, body) {
            message.map(|message| (path, message))
        } else if let Some(message) = openai::message(path, body, &self.settings) {
            message
        } else {
            let dialogues = guardrails::conversations(path, body)?;
            dialogues.map(|batch| (guardrails::BATCH_CLASSIFY, batch.encode_to_vec()))
        };
        let read = read.map(|(path, message)| CallOfBody {
            path: path.to_owned(),
            message,
        });
        Some(read.map_err(|error| error.to_status("")))
    }
}
