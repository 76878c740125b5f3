//! How long a prompt may be: by its model, and by what is left of its tenant's quota. A text is turned into tokens only as far
//! as the tenant can pay for them, so that a tenant without tokens keeps nobody's processor busy.

use std::time::Duration;

use super::{clock::now, error::ServiceError, sequence::Shared};
use crate::{
    auth::{QuotaKind, QuotaRefusal, Quotas},
    engine::Tenant,
    text::TokenCount,
};

/// Most tokens that a prompt may have.
pub(crate) struct PromptLimit {
    /// By the model.
    model: usize,
    /// By the quota; `None` without one.
    quota: Option<QuotaLimit>,
}

struct QuotaLimit {
    /// Most tokens of the prompt.
    tokens: usize,
    /// Most tokens of its answer, which the tenant pays for too.
    answer: usize,
    per_minute: u32,
    tenant: Tenant,
    quotas: Quotas,
}

impl PromptLimit {
    /// The limit of a prompt for which the model has room for `model` tokens, and whose answer has `answer` tokens at most.
    ///
    /// # Errors
    /// When the tenant cannot pay for the answer and one token of the prompt.
    pub(crate) fn new(
        shared: &Shared,
        tenant: &Tenant,
        model: usize,
        answer: usize,
    ) -> Result<Self, ServiceError> {
        let quotas = &shared.quotas;
        let now = now();
        let least = quotas.check_tokens(tenant, answer.saturating_add(1), now);
        least.map_err(ServiceError::quota)?;
        let quota = quotas.tokens_left(tenant, now).map(|left| QuotaLimit {
            tokens: left.tokens.saturating_sub(answer),
            answer,
            per_minute: left.per_minute,
            tenant: tenant.clone(),
            quotas: quotas.clone(),
        });
        Ok(Self { model, quota })
    }

    /// Most tokens that the prompt may have.
    pub(crate) fn tokens(&self) -> usize {
        let quota = self.quota.as_ref().map_or(usize::MAX, |quota| quota.tokens);
        self.model.min(quota)
    }

    /// The error of a prompt that is too long: where the model has room for it, it is the quota's.
    pub(crate) fn explain(&self, error: ServiceError) -> ServiceError {
        let ServiceError::InputTooLong { input_tokens, .. } = error else {
            return error;
        };
        let (TokenCount::Exactly(least) | TokenCount::AtLeast(least)) = input_tokens;
        match &self.quota {
            Some(quota) if least <= self.model => ServiceError::quota(quota.refusal(least)),
            _ => ServiceError::InputTooLong {
                input_tokens,
                limit_tokens: self.model,
            },
        }
    }
}

impl QuotaLimit {
    /// The refusal of a prompt that has at least so many tokens.
    fn refusal(&self, least: usize) -> QuotaRefusal {
        let needed = least.saturating_add(self.answer);
        let there = self.quotas.check_tokens(&self.tenant, needed, now());
        // Enough may have come back since, but the text has been turned into tokens no further.
        there.err().unwrap_or(QuotaRefusal {
            kind: QuotaKind::Tokens,
            per_minute: self.per_minute,
            needed: needed as u64,
            retry_after: Some(Duration::from_millis(1)),
        })
    }
}
