//! Values on the command line whose types are not ours, so that they cannot have a `FromStr` of their own.

use std::time::Duration;

use tonic::metadata::AsciiMetadataValue;

use crate::{config::parse_duration, engine::Tenant};

/// A time with its unit; zero is allowed.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "write a time with its unit, such as 30s".to_owned())
}

/// A time with its unit, above zero.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "write a number above zero and a unit (ms, s, m, h), such as 30s".to_owned())
}

/// A tenant's name, as the server accepts it.
pub(super) fn tenant(text: &str) -> Result<AsciiMetadataValue, String> {
    let wrong = || {
        format!(
            "write 1 to {} letters, digits, `.`, `_` and `-`",
            Tenant::MAX_BYTES
        )
    };
    Tenant::named(text)
        .and_then(|_| text.parse().ok())
        .ok_or_else(wrong)
}
