//! Decides when a call is retried: with exponential backoff and full jitter, unless the server says otherwise.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::random::Random;

/// Where the jitter of retries comes from.
#[derive(Debug, Clone, Default)]
pub enum Jitter {
    /// From the system.
    #[default]
    System,
    /// From a seed, so that a simulation is the same every time.
    Seeded(Arc<Mutex<Random>>),
}

impl Jitter {
    /// The jitter of a seed.
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(Mutex::new(Random::new(seed))))
    }

    /// The next number, uniform in [0, 1).
    pub(super) fn next(&self) -> f64 {
        match self {
            Self::System => rand::random(),
            Self::Seeded(random) => {
                let bits = random.lock().unwrap_or_else(PoisonError::into_inner).bits();
                // The upper 53 bits are what a number below 1 has room for.
                (bits >> 11) as f64 / (1u64 << 53) as f64
            }
        }
    }
}

/// What the server says about retries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHint {
    /// It says nothing.
    #[default]
    None,
    /// `RetryInfo`: retry after at least this time.
    AtLeast(Duration),
    /// `grpc-retry-pushback-ms`: retry after exactly this time.
    Exactly(Duration),
    /// Do not retry: `grpc-retry-pushback-ms` is negative or not a number, or the service returned one of its own errors without
    /// a time to retry.
    Never,
}

/// How many times and when calls are retried.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Most attempts, with the first; at least 1.
    pub max_attempts: u32,
    /// Longest wait before the first retry.
    pub initial: Duration,
    /// Longest wait before any retry.
    pub max: Duration,
    /// Factor by which the longest wait grows from one retry to the next.
    pub multiplier: f64,
    /// If the server asks for a longer wait than this, the call ends instead.
    pub longest_hint: Duration,
}

impl Default for RetryPolicy {
    /// Four attempts, with waits from 0.1 s to 5 s that double.
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
    /// How long to wait after the `failed`-th failure in a row (from 1), or `None` to give up. `jitter` is uniform in [0, 1);
    /// full jitter keeps clients that failed at the same time from retrying at the same time.
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
