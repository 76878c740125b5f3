//! ClassifyRenderings: one conversation in several languages or wordings, judged together.

use std::sync::Arc;

use futures::future;
use tonic::Code;

use super::{
    call::Call,
    classify_one::classify,
    error::ServiceError,
    label::label,
    record::Record,
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
        let path = format!("renderings[{number}]");
        let record = Record::item(&call.record, number, call.deadline);
        let context = context.item(&record);
        let language = rendering.language.clone();
        async move {
            let counted = match number {
                0 => Ok(()),
                _ => context.shared.count_request(&context.tenant),
            };
            let judged = match counted {
                Ok(()) => classify(context, rendering, path).await,
                Err(error) => Err(error),
            };
            let result = match judged {
                Ok(response) => {
                    record.finish(Code::Ok);
                    rendering_result::Result::Response(response)
                }
                Err(error) => {
                    record.fail(&error);
                    rendering_result::Result::Error(error.to_item())
                }
            };
            proto::RenderingResult {
                language,
                result: Some(result),
            }
        }
    });
    let results = future::join_all(results).await;
    let Agreement { label, dissent } = agree(rule, &labels(&results));
    Ok(proto::ClassifyRenderingsResponse {
        label: match label {
            Label::Safe => proto::Label::Safe,
            Label::Unsafe | Label::Controversial => proto::Label::Unsafe,
            Label::Undetermined => proto::Label::Undetermined,
        }
        .into(),
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
        .map(|verdict| verdict.map(|verdict| label(verdict.label())))
        .collect()
}

/// What the rule makes of the renderings' decisions.
fn joint_action(rule: RenderingRule, results: &[proto::RenderingResult]) -> proto::Action {
    let decision = |result| response(result).and_then(|response| response.decision.as_ref());
    if results.iter().all(|result| decision(result).is_none()) {
        return proto::Action::Unspecified;
    }
    let actions: Vec<_> = results
        .iter()
        .map(|result| match decision(result).map(proto::Decision::action) {
            Some(proto::Action::Allow) => Action::Allow,
            Some(proto::Action::Flag) => Action::Flag,
            Some(proto::Action::Block | proto::Action::Unspecified) | None => Action::Block,
        })
        .collect();
    match rule.joint_action(&actions) {
        Action::Allow => proto::Action::Allow,
        Action::Flag => proto::Action::Flag,
        Action::Block => proto::Action::Block,
    }
}
