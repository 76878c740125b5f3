//! Checks ClassifyRenderings.

use super::{
    checker::{Checker, ValidationContext},
    translation::{TranslationFields, TranslationWork, translation_fields},
};
use crate::{
    guard::RenderingRule,
    proto,
    rpc::{error::ServiceError, limits::Limits},
};

/// How many renderings are judged together at least: one alone has nothing to be joined with.
const LEAST_RENDERINGS: usize = 2;

/// How many renderings are judged together at most.
pub(crate) const MOST_RENDERINGS: usize = 16;

/// A ClassifyRenderings whose renderings have not been checked: they fail one by one.
pub(crate) struct CheckedRenderings {
    pub(crate) renderings: Vec<proto::ClassifyRequest>,
    pub(crate) rule: RenderingRule,
    /// Further renderings, which are translations of the first.
    pub(crate) translation: Option<TranslationWork>,
}

/// A ClassifyRenderings that is valid as a whole without knowing the models.
pub(super) struct RenderingFields {
    pub(super) renderings: Vec<proto::ClassifyRequest>,
    rule: RenderingRule,
    translation: Option<TranslationFields>,
}

/// Checks a ClassifyRenderings as a whole. Waits while the models that translate are being loaded.
pub(crate) async fn renderings(
    request: proto::ClassifyRenderingsRequest,
    context: &ValidationContext<'_>,
) -> Result<CheckedRenderings, ServiceError> {
    let RenderingFields {
        renderings,
        rule,
        translation,
    } = rendering_fields(request, context.limits)?;
    Ok(CheckedRenderings {
        renderings,
        rule,
        translation: match translation {
            Some(translation) => Some(translation.find(context).await?),
            None => None,
        },
    })
}

pub(super) fn rendering_fields(
    request: proto::ClassifyRenderingsRequest,
    limits: &Limits,
) -> Result<RenderingFields, ServiceError> {
    let mut checker = Checker::at("");
    let translation = request
        .translation
        .map(|options| translation_fields(&mut checker, options, request.renderings.first(), limits));
    let count = request.renderings.len();
    match &translation {
        None if !(LEAST_RENDERINGS..=MOST_RENDERINGS).contains(&count) => {
            let reason = format!("must have {LEAST_RENDERINGS}..={MOST_RENDERINGS}, has {count}");
            checker.wrong("renderings", reason);
        }
        Some(translation) if count == 0 || count + translation.count() > MOST_RENDERINGS => {
            let most = MOST_RENDERINGS.saturating_sub(translation.count());
            let reason = format!("must have 1..={most} beside those that are translated, has {count}");
            checker.wrong("renderings", reason);
        }
        _ => {}
    }
    let rule = match proto::RenderingRule::try_from(request.rule) {
        Ok(proto::RenderingRule::Unspecified | proto::RenderingRule::Any) => RenderingRule::Any,
        Ok(proto::RenderingRule::Majority) => RenderingRule::Majority,
        Ok(proto::RenderingRule::All) => RenderingRule::All,
        Err(_) => {
            checker.wrong("rule", "is not a known value");
            RenderingRule::Any
        }
    };
    for (index, rendering) in request.renderings.iter().enumerate() {
        let guard_use = [proto::GuardUse::Unspecified, proto::GuardUse::Required].map(i32::from);
        if !guard_use.contains(&rendering.guard_use) {
            let reason = "must be REQUIRED: renderings are joined by their verdicts";
            checker.wrong(&format!("renderings[{index}].guard_use"), reason);
        }
    }
    checker.finish()?;
    Ok(RenderingFields {
        renderings: request.renderings,
        rule,
        translation,
    })
}
