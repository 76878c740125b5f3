//! ClassifyRenderings: one conversation in several languages or wordings, judged together.

use std::sync::Arc;

use futures::future;

use super::{
    call::Call,
    classify_one::classify_item,
    decision,
    error::ServiceError,
    label,
    sequence::{Shared, WorkContext},
    validate::{self, CheckedRenderings},
};
use crate::{
    engine::Priority,
    guard::{Action, Agreement, Label, RenderingRule, agree},
    proto::{self, rendering_result},
};

/// Checks and answers a ClassifyRenderings.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    call: &Call,
    request: proto::ClassifyRenderingsRequest,
) -> Result<proto::ClassifyRenderingsResponse, ServiceError> {
    shared.admit()?;
    // The call is a request also where it has no renderings, and its first rendering is no further one.
    shared.count_request(&call.tenant)?;
    let CheckedRenderings { renderings, rule } = validate::renderings(request)?;
    let context = WorkContext::of(shared, call, Priority::Urgent);
    let results = (0..).zip(renderings).map(|(number, rendering)| {
        let language = rendering.language.clone();
        let judged = classify_item(call, &context, number, rendering, format!("renderings[{number}]"));
        async move {
            proto::RenderingResult {
                language,
                result: Some(match judged.await {
                    Ok(response) => rendering_result::Result::Response(response),
                    Err(error) => rendering_result::Result::Error(error),
                }),
            }
        }
    });
    let results = future::join_all(results).await;
    let Agreement { label, dissent } = agree(rule, &labels(&results));
    Ok(proto::ClassifyRenderingsResponse {
        label: label::told(label).into(),
        action: joint_action(rule, &results).into(),
        dissent: dissent
            .into_iter()
            .filter_map(|index| u32::try_from(index).ok())
            .collect(),
        results,
    })
}

fn response(result: &proto::RenderingResult) -> Option<&proto::ClassifyResponse> {
    match &result.result {
        Some(rendering_result::Result::Response(response)) => Some(response),
        Some(rendering_result::Result::Error(_)) | None => None,
    }
}

/// The label of each rendering; `None` of those that failed.
fn labels(results: &[proto::RenderingResult]) -> Vec<Option<Label>> {
    let verdict = |result| response(result).and_then(|response| response.verdict.as_ref());
    let labels = results.iter().map(verdict);
    labels
        .map(|verdict| verdict.map(|verdict| label::label(verdict.label())))
        .collect()
}

/// What the rule makes of the renderings' decisions.
fn joint_action(rule: RenderingRule, results: &[proto::RenderingResult]) -> proto::Action {
    let decided = |result| response(result).and_then(|response| response.decision.as_ref());
    if results.iter().all(|result| decided(result).is_none()) {
        return proto::Action::Unspecified;
    }
    let actions: Vec<_> = results
        .iter()
        .map(|result| match decided(result).map(proto::Decision::action) {
            Some(proto::Action::Allow) => Action::Allow,
            Some(proto::Action::Flag) => Action::Flag,
            Some(proto::Action::Block | proto::Action::Unspecified) | None => Action::Block,
        })
        .collect();
    decision::action(rule.joint_action(&actions))
}
