//! How a growing text ends for its guard.

pub(crate) use crate::proto::guard_ended::Reason;

use super::error::ServiceError;
use crate::proto;

/// How a text has ended.
pub(crate) struct End {
    pub(crate) reason: Reason,
    /// Of the complete text, or of the look that blocked it.
    pub(crate) verdict: Option<proto::Verdict>,
    /// `None` after COMPLETE and POLICY.
    pub(crate) error: Option<ServiceError>,
}

impl End {
    /// The end that an error makes of a text; `None` when the caller has sent something wrong, or may not call.
    pub(crate) fn by(error: &ServiceError) -> Option<Self> {
        Some(Self {
            reason: reason_of(error)?,
            verdict: None,
            error: Some(error.clone()),
        })
    }
}

/// The name of an end in metrics.
pub(crate) fn reason_name(reason: Reason) -> &'static str {
    match reason {
        Reason::Complete => "complete",
        Reason::Policy => "policy",
        Reason::GuardFailed | Reason::Unspecified => "guard_failed",
        Reason::Deadline => "deadline",
        Reason::Limit => "limit",
        Reason::Cancelled => "cancelled",
        Reason::Draining => "draining",
    }
}

/// The end of a stream that an error ends; `None` when the caller has sent something wrong, or may not call.
pub(crate) fn reason_of(error: &ServiceError) -> Option<Reason> {
    match error {
        ServiceError::Deadline { .. }
        | ServiceError::DeadlineUnattainable { .. }
        | ServiceError::RequestIncomplete { .. }
        | ServiceError::StreamIdle { .. } => Some(Reason::Deadline),
        ServiceError::GrowingTextTooLong { .. }
        | ServiceError::InputTooLong { .. }
        | ServiceError::MessageTooLarge { .. }
        | ServiceError::CacheTooSmall { .. }
        | ServiceError::RequestMemory { .. }
        | ServiceError::Quota(_) => Some(Reason::Limit),
        ServiceError::ClientCancelled => Some(Reason::Cancelled),
        ServiceError::ServerDraining { .. } => Some(Reason::Draining),
        ServiceError::QueueFull { .. }
        | ServiceError::ModelUnloading { .. }
        | ServiceError::ModelNotLoaded { .. }
        | ServiceError::ModelLoadFailed { .. }
        | ServiceError::DeviceMemory(_)
        | ServiceError::ModelFailed
        | ServiceError::DeviceLost { .. }
        | ServiceError::Endpoint(_)
        | ServiceError::NumericFault
        | ServiceError::DeviceFault
        | ServiceError::WorkerPanic
        | ServiceError::TextFault
        | ServiceError::VerdictUndetermined
        | ServiceError::TranslationUnusable { .. } => Some(Reason::GuardFailed),
        ServiceError::InvalidFields(_)
        | ServiceError::ConversationShape(_)
        | ServiceError::TextNotEncodable { .. }
        | ServiceError::ItemIdOpen { .. }
        | ServiceError::ModelNotFound { .. }
        | ServiceError::PolicyNotFound { .. }
        | ServiceError::NoDefaultModel { .. }
        | ServiceError::CapabilityMissing { .. }
        | ServiceError::ChatTemplateMissing
        | ServiceError::RemoteUnsupported
        | ServiceError::TooManyCalls { .. }
        | ServiceError::ServerLoading { .. }
        | ServiceError::PrecisionMismatch { .. }
        | ServiceError::Unauthenticated(_)
        | ServiceError::ScopeMissing { .. }
        | ServiceError::PageOfAnotherSite
        | ServiceError::HttpUnsupported(_)
        | ServiceError::AdminElsewhere
        | ServiceError::AdminDisabled
        | ServiceError::TooManyWindows { .. }
        | ServiceError::CalibratorMismatch { .. } => None,
    }
}
