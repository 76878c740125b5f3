//! When to try again: exponential backoff with full jitter, unless the server says otherwise.

use std::time::Duration;

/// What the server says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHint {
    /// Nothing.
    #[default]
    None,
    /// `RetryInfo`: not before this.
    AtLeast(Duration),
    /// `grpc-retry-pushback-ms`: after just this.
    Exactly(Duration),
    /// `grpc-retry-pushback-ms` is negative or not a number, or the service gave an error of its own without a
    /// time to come back: do not.
    Never,
}

/// How often and when to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included; at least 1.
    pub max_attempts: u32,
    /// Upper bound of the first wait.
    pub initial: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
    /// Growth of the bound from one wait to the next.
    pub multiplier: f64,
    /// A server that asks for more than this is taken at its word: the call ends instead.
    pub longest_hint: Duration,
}

impl Default for RetryPolicy {
    /// 4 attempts, 0.1 s to 5 s, doubling.
    fn default() -> Self {
        Self {
            max_attempts: 4,
            initial: Duration::from_millis(100),
            max: Duration::from_secs(5),
            multiplier: 2.0,
            longest_hint: Duration::from_secs(60),
        }
    }
}

impl RetryPolicy {
    /// How long to wait after the `failed`-th failure in a row (from 1), or `None` to give up. `jitter` is
    /// uniform in [0, 1): full jitter keeps clients that failed together from coming back together.
    pub fn delay(&self, failed: u32, hint: ServerHint, jitter: f64) -> Option<Duration> {
        if failed >= self.max_attempts {
            return None;
        }
        let growth = self.multiplier.powi(failed.saturating_sub(1).min(64) as i32);
        let bound = (self.initial.as_secs_f64() * growth).min(self.max.as_secs_f64());
        let backoff = Duration::from_secs_f64(bound * jitter.clamp(0.0, 1.0));
        match hint {
            ServerHint::None => Some(backoff),
            ServerHint::AtLeast(wait) => (wait <= self.longest_hint).then(|| wait + backoff),
            ServerHint::Exactly(wait) => (wait <= self.longest_hint).then_some(wait),
            ServerHint::Never => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bounds_are_0_1_then_0_2_then_0_4_then_nothing() {
        let policy = RetryPolicy::default();
        let bounds: Vec<_> = (1..=5)
            .map(|failed| policy.delay(failed, ServerHint::None, 1.0))
            .collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(bounds, [ms(100), ms(200), ms(400), None, None]);
    }

    #[test]
    fn the_server_may_set_or_forbid_the_wait() {
        let policy = RetryPolicy::default();
        let second = Duration::from_secs(1);
        assert_eq!(policy.delay(1, ServerHint::Exactly(second), 0.7), Some(second));
        assert_eq!(
            policy.delay(1, ServerHint::AtLeast(second), 0.5),
            Some(second + Duration::from_millis(50))
        );
        assert_eq!(policy.delay(1, ServerHint::Never, 0.5), None);
        let hour = Duration::from_secs(3600);
        assert_eq!(policy.delay(1, ServerHint::Exactly(hour), 0.5), None);
        assert_eq!(policy.delay(1, ServerHint::AtLeast(hour), 0.5), None);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_maximum(failed in 1u32..10_000, jitter in 0.0f64..1.0) {
            let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::default() };
            let delay = policy.delay(failed, ServerHint::None, jitter).expect("never gives up");
            prop_assert!(delay <= policy.max);
        }
    }
}
