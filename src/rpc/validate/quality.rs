//! Checks EstimateQuality.

use super::{
    checker::{Checker, ValidationContext},
    request::item_ids,
};
use crate::{
    proto,
    registry::Lease,
    rpc::{error::ServiceError, limits::Limits},
};

/// A checked EstimateQuality.
pub(crate) struct QualityWork {
    pub(crate) estimator: Lease,
    /// The pairs with their ids. An invalid pair fails alone.
    pub(crate) pairs: Vec<(String, Result<Pair, ServiceError>)>,
    pub(crate) priority: proto::Priority,
}

/// A checked pair.
pub(crate) struct Pair {
    pub(crate) source: String,
    pub(crate) translation: String,
    /// The field of the pair, which later errors name.
    pub(crate) field: String,
}

/// Checks the request as a whole, and each pair by itself. Waits while the estimator is being loaded.
pub(crate) async fn estimate_quality(
    request: proto::EstimateQualityRequest,
    context: &ValidationContext<'_>,
) -> Result<QualityWork, ServiceError> {
    let registry = context.registry;
    let QualityFields {
        model,
        pairs,
        priority,
    } = quality_fields(request, context.limits)?;
    let estimator = async {
        let estimator = registry.estimator(&model).await;
        estimator.map_err(|error| ServiceError::from_lookup(error, &model))
    };
    let estimator = context.deadline.limit(estimator).await?;
    Ok(QualityWork {
        estimator,
        pairs,
        priority,
    })
}

/// An EstimateQuality whose fields are valid without knowing the estimator.
pub(super) struct QualityFields {
    model: String,
    pairs: Vec<(String, Result<Pair, ServiceError>)>,
    priority: proto::Priority,
}

pub(super) fn quality_fields(
    request: proto::EstimateQualityRequest,
    limits: &Limits,
) -> Result<QualityFields, ServiceError> {
    let mut checker = Checker::at("");
    checker.model_id("model", &request.model, limits);
    let priority = checker.priority(request.priority);
    let given = request.pairs.iter().map(|pair| pair.id.as_str());
    let ids = item_ids(checker, "pairs", given, limits)?;
    let pairs = request.pairs.into_iter().zip(ids).enumerate();
    let pairs = pairs.map(|(index, (pair, id))| (id, self::pair(pair, format!("pairs[{index}]"), limits)));
    Ok(QualityFields {
        model: request.model,
        pairs: pairs.collect(),
        priority,
    })
}

fn pair(pair: proto::TranslationPair, field: String, limits: &Limits) -> Result<Pair, ServiceError> {
    let mut checker = Checker::at(&field);
    for (name, text) in [("source", &pair.source), ("translation", &pair.translation)] {
        checker.bytes(name, text.len(), 1..=limits.content_bytes);
    }
    checker.finish()?;
    Ok(Pair {
        source: pair.source,
        translation: pair.translation,
        field,
    })
}
