//! How probable each category is: a few short sequences on the cached prompt of a verdict, all at once.

use futures::future;

use super::{
    error::ServiceError,
    provenance,
    sequence::{Sequence, WorkContext},
    usage,
};
use crate::{
    engine::{Event, OutputSpec, Probe, ProbePositions},
    guard::CategoryTree,
    proto,
    registry::Lease,
};

/// What the passes have found.
pub(crate) struct CategoryReading {
    /// Of each code, that the guard names it first, given that it names one; in the tree's order.
    pub(crate) probabilities: Vec<f64>,
    /// What the passes took together.
    pub(crate) usage: proto::Usage,
}

/// Reads the probabilities of a tree's codes after a prompt. `field` is named by errors about the prompt.
pub(crate) async fn read(
    context: &WorkContext,
    entry: &Lease,
    prompt: &[u32],
    tree: &CategoryTree,
    field: &str,
) -> Result<CategoryReading, ServiceError> {
    let sequences = tree.branches().iter().map(|branch| {
        let output = OutputSpec {
            probe: Some(Probe {
                tokens: branch.next.clone(),
                finish_on: Vec::new(),
                positions: ProbePositions::AfterPrompt,
            }),
            pin_prompt: false,
            ..OutputSpec::pinned_prefix()
        };
        let tokens = [prompt, &branch.path].concat();
        let sequence = Sequence::submit(context, entry, tokens, output, field);
        async move {
            let mut sequence = sequence?;
            let mut read = None;
            loop {
                match sequence.next().await? {
                    Event::Probe(probe) => read = Some(probe.logprobs),
                    Event::Finished(summary) => {
                        let logprobs = read.ok_or(ServiceError::DeviceFault)?;
                        return Ok((logprobs, provenance::usage(&summary)));
                    }
                    Event::Started { .. } | Event::Token(_) | Event::Score(_) | Event::Failed(_) => {}
                }
            }
        }
    });
    let read = future::try_join_all(sequences).await?;
    let (logprobs, took): (Vec<_>, Vec<_>) = read.into_iter().unzip();
    Ok(CategoryReading {
        probabilities: tree.probabilities(&logprobs),
        usage: usage::sum(took),
    })
}
