//! Models that engines on other machines compute, as the configuration says it.

use std::{path::PathBuf, time::Duration};

use super::value::{Raw, Setting};
use crate::remote::{EndpointApi, EndpointUrl};

/// An engine on another machine, and how it is asked for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Where it is.
    pub url: EndpointUrl,
    /// What the model is called there.
    pub model: String,
    /// Which parts of the interface it has.
    pub api: EndpointApi,
    /// An existing file with the key that it wants.
    pub key_file: Option<PathBuf>,
    /// An existing file of the authorities that may have issued its certificate. When absent, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// An existing file or folder with the model's tokenizer and template, for a guard.
    pub tokenizer: Option<PathBuf>,
    /// Most requests that are open there at once.
    pub concurrency: usize,
    /// Longest time without a byte of an answer.
    pub stall: Duration,
}

impl Setting for EndpointApi {
    const EXPECTS: &'static str = "write both, chat or completions";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "both" => Some(Self::Both),
            "chat" => Some(Self::Chat),
            "completions" => Some(Self::Completions),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Both
    }
}
