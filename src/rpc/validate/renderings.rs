//! Checks ClassifyRenderings.

use std::ops::RangeInclusive;

use super::checker::Checker;
use crate::{guard::RenderingRule, proto, rpc::error::ServiceError};

/// How many renderings are judged together.
pub(crate) const RENDERINGS: RangeInclusive<usize> = 2..=16;

/// A ClassifyRenderings whose renderings have not been checked: they fail one by one.
pub(crate) struct CheckedRenderings {
    pub(crate) renderings: Vec<proto::ClassifyRequest>,
    pub(crate) rule: RenderingRule,
}

/// Checks a ClassifyRenderings as a whole.
pub(crate) fn renderings(
    request: proto::ClassifyRenderingsRequest,
) -> Result<CheckedRenderings, ServiceError> {
    let mut checker = Checker::at("");
    let count = request.renderings.len();
    if !RENDERINGS.contains(&count) {
        let (least, most) = (RENDERINGS.start(), RENDERINGS.end());
        checker.wrong("renderings", format!("must have {least}..={most}, has {count}"));
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
    Ok(CheckedRenderings {
        renderings: request.renderings,
        rule,
    })
}
