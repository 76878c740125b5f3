//! ClassifyRenderings: one conversation in several languages or wordings, judged together.

use std::sync::Arc;

use futures::{FutureExt as _, future};

use super::{
    call::Call,
    classify_one::{begin_item, classify, classify_item, count_item, end_item},
    decision,
    error::ServiceError,
    label,
    sequence::{Shared, WorkContext},
    translated::{TranslatedRendering, translate},
    validate::{self, CheckedRenderings, ValidationContext},
};
use crate::{
    auth::Scope,
    engine::Priority,
    guard::{Action, Agreement, Label, RenderingRule, agree},
    proto::{self, rendering_result},
};

/// What a caller needs for renderings that the server translates, besides what it needs for verdicts.
const TRANSLATION_SCOPES: &[Scope] = &[Scope::Generate];

/// What it needs besides for estimates of their quality.
const QUALITY_SCOPES: &[Scope] = &[Scope::Score];

/// Checks and answers a ClassifyRenderings.
pub(crate) async fn answer(
    shared: &Arc<Shared>,
    call: &Call,
    request: proto::ClassifyRenderingsRequest,
) -> Result<proto::ClassifyRenderingsResponse, ServiceError> {
    let context = WorkContext::of(shared, call, Priority::Urgent);
    if let Some(translation) = &request.translation {
        context.check_scope(TRANSLATION_SCOPES)?;
        if translation.quality.is_some() {
            context.check_scope(QUALITY_SCOPES)?;
        }
    }
    shared.admit()?;
    // The call is a request also where it has no renderings, and its first rendering is no further one.
    shared.count_request(&call.tenant)?;
    let validation = ValidationContext::of(shared, call.deadline);
    let CheckedRenderings {
        renderings,
        rule,
        translation,
    } = validate::renderings(request, &validation).await?;
    let first = translation.as_ref().and_then(|_| renderings.first().cloned());
    let mut judged = Vec::new();
    for (number, rendering) in (0..).zip(renderings) {
        let language = rendering.language.clone();
        let answer = classify_item(call, &context, number, rendering, format!("renderings[{number}]"));
        let result = async move {
            proto::RenderingResult {
                language,
                result: Some(result(answer.await)),
                translated: None,
            }
        };
        judged.push(result.boxed());
    }
    if let (Some(work), Some(first)) = (&translation, &first) {
        let given = judged.len() as u64;
        for (number, language) in (given..).zip(&work.into) {
            let context = begin_item(call, &context, number);
            let result = async move {
                let record = Arc::clone(&context.record);
                let TranslatedRendering { told, request } = match count_item(&context, number) {
                    Ok(()) => translate(&context, work, language, first).await,
                    Err(error) => TranslatedRendering {
                        told: proto::Translated::default(),
                        request: Err(error),
                    },
                };
                let answer = match request {
                    Ok(request) => classify(context, request, "renderings[0]".to_owned()).await,
                    Err(error) => Err(error),
                };
                proto::RenderingResult {
                    language: language.tag.clone(),
                    result: Some(result(end_item(&record, answer))),
                    translated: Some(told),
                }
            };
            judged.push(result.boxed());
        }
    }
    let results = future::join_all(judged).await;
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

/// The answer to one rendering.
fn result(answer: Result<proto::ClassifyResponse, proto::ItemStatus>) -> rendering_result::Result {
    match answer {
        Ok(response) => rendering_result::Result::Response(response),
        Err(error) => rendering_result::Result::Error(error),
    }
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
