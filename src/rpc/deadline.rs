//! Deadlines: a call's `grpc-timeout` becomes an instant that accompanies its work.
//!
//! A client watches its deadline too, and ignores answers that come after it. So the server answers a margin before the
//! deadline, and the caller gets the server's answer, which says at what stage the work was.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tonic::codegen::http::HeaderMap;

use super::{clock::now, error::ServiceError};
use crate::engine::Stage;

/// Answers are sent at least this long before the caller stops listening.
const LEAST_MARGIN: Duration = Duration::from_millis(2);

/// The instant by which an answer must be sent; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    /// The deadline for a timeout: a margin (2 ms, or 1 % of the timeout if that is more) before `arrival + timeout`.
    pub(crate) fn after(arrival: Instant, timeout: Duration) -> Self {
        let margin = LEAST_MARGIN.max(timeout / 100);
        // A timeout that is too long for an instant counts as none.
        Self(arrival.checked_add(timeout.saturating_sub(margin)))
    }

    /// The earlier of two deadlines.
    pub(crate) fn min(self, other: Self) -> Self {
        Self(match (self.0, other.0) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        })
    }

    /// The instant, for the engine.
    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Whether it has passed.
    pub(crate) fn has_passed(self) -> bool {
        self.0.is_some_and(|at| at <= now())
    }

    /// Resolves at the deadline; without one, never.
    pub(crate) async fn passed(self) {
        match self.0 {
            Some(at) => tokio::time::sleep_until(at.into()).await,
            None => std::future::pending().await,
        }
    }

    /// Runs work until the deadline. Work that is done exactly then still counts.
    pub(crate) async fn limit<T>(
        self,
        work: impl Future<Output = Result<T, ServiceError>>,
    ) -> Result<T, ServiceError> {
        tokio::select! {
            biased;
            done = work => done,
            () = self.passed() => Err(ServiceError::Deadline { stage: Stage::Queue }),
        }
    }
}

/// The timeout in the caller's `grpc-timeout` header: up to eight digits and a unit. Anything else is ignored, as other
/// gRPC servers do.
pub(crate) fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let unit = text.chars().last()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(amount * 3600),
        'M' => Duration::from_secs(amount * 60),
        'S' => Duration::from_secs(amount),
        'm' => Duration::from_millis(amount),
        'u' => Duration::from_micros(amount),
        'n' => Duration::from_nanos(amount),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        grpc_timeout(&headers)
    }

    #[test]
    fn grpc_timeouts_parse_as_specified() {
        assert_eq!(parsed("3H"), Some(Duration::from_secs(3 * 3600)));
        assert_eq!(parsed("99999999M"), Some(Duration::from_secs(99_999_999 * 60)));
        assert_eq!(parsed("1S"), Some(Duration::from_secs(1)));
        assert_eq!(parsed("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parsed("7u"), Some(Duration::from_micros(7)));
        assert_eq!(parsed("7n"), Some(Duration::from_nanos(7)));
        for wrong in ["", "S", "123456789S", "1s", "-1S", "+1S", "1.5S", "1 S", "1"] {
            assert_eq!(parsed(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn answers_leave_a_margin_before_the_caller_stops_listening() {
        let now = Instant::now();
        let margin = |timeout: Duration| (now + timeout) - Deadline::after(now, timeout).instant().unwrap();
        assert_eq!(margin(Duration::from_millis(50)), Duration::from_millis(2));
        assert_eq!(margin(Duration::from_secs(10)), Duration::from_millis(100));
        assert_eq!(
            Deadline::after(now, Duration::from_micros(1)).instant(),
            Some(now)
        );
        assert_eq!(Deadline::after(now, Duration::MAX).instant(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_is_done_at_the_deadline_counts() {
        let deadline = Deadline(Some(Instant::now()));
        assert_eq!(deadline.limit(async { Ok(1) }).await, Ok(1));
        assert_eq!(
            deadline.limit(std::future::pending::<Result<(), _>>()).await,
            Err(ServiceError::Deadline { stage: Stage::Queue })
        );
    }
}
