//! A target's answer to a prompt, piece by piece, for all calls that generate, wherever the target is.

use std::sync::Arc;

use super::{
    error::ServiceError,
    local_generation::{LocalGeneration, PromptTokens, prompt_tokens},
    pieces::{CutEnd, Finished, Piece},
    remote_generation::RemoteGeneration,
    sequence::WorkContext,
    validate::GenerateWork,
};
use crate::registry::{Lease, ModelAccess, RemoteModel};

/// The target of a prompt, with what of the prompt is made here.
#[derive(Clone)]
pub(crate) enum PreparedPrompt {
    /// The tokens that a model in memory here reads.
    Local { entry: Lease, tokens: PromptTokens },
    /// An endpoint makes its own.
    Remote(Arc<RemoteModel>),
}

/// Waits for a turn to work on text, and makes of a prompt what its target reads.
pub(crate) async fn prepare(
    context: &WorkContext,
    work: &GenerateWork,
) -> Result<PreparedPrompt, ServiceError> {
    match &work.target {
        ModelAccess::Local(entry) => Ok(PreparedPrompt::Local {
            tokens: prompt_tokens(context, work, entry).await?,
            entry: entry.clone(),
        }),
        ModelAccess::Remote(model) => Ok(PreparedPrompt::Remote(Arc::clone(model))),
    }
}

/// A generation in progress.
pub(crate) enum Generation {
    Local(Box<LocalGeneration>),
    Remote(Box<RemoteGeneration>),
}

impl Generation {
    /// Begins to generate. A prompt for a target here is queued at once.
    pub(crate) fn start(
        context: &WorkContext,
        work: GenerateWork,
        prompt: PreparedPrompt,
    ) -> Result<Self, ServiceError> {
        Ok(match prompt {
            PreparedPrompt::Local { entry, tokens } => {
                Self::Local(Box::new(LocalGeneration::start(context, work, entry, tokens)?))
            }
            PreparedPrompt::Remote(model) => {
                Self::Remote(Box::new(RemoteGeneration::start(context, work, model)?))
            }
        })
    }

    /// The next piece; `None` after the last. A call that is dropped loses nothing.
    pub(crate) async fn next(&mut self) -> Result<Option<Piece>, ServiceError> {
        match self {
            Self::Local(generation) => generation.next().await,
            Self::Remote(generation) => generation.next().await,
        }
    }

    /// Ends the answer where it is. [`Generation::cut_end`] says what came of it, and [`Generation::next`] is not to be called any
    /// more.
    pub(crate) fn cut(&mut self) {
        match self {
            Self::Local(generation) => generation.cut(),
            Self::Remote(generation) => generation.cut(),
        }
    }

    /// Waits until an answer that was cut holds nothing any more.
    pub(crate) async fn cut_end(&mut self) -> CutEnd {
        match self {
            Self::Local(generation) => generation.cut_end().await,
            Self::Remote(generation) => generation.cut_end(),
        }
    }
}

/// Generates a whole answer.
pub(crate) async fn complete(
    context: &WorkContext,
    work: GenerateWork,
    prompt: &PreparedPrompt,
) -> Result<Finished, ServiceError> {
    let mut generation = Generation::start(context, work, prompt.clone())?;
    while let Some(piece) = generation.next().await? {
        if let Piece::Finished(finished) = piece {
            return Ok(*finished);
        }
    }
    // `next` ends with Finished or an error.
    Err(ServiceError::ModelFailed)
}
