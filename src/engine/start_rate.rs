//! How fast sequences leave the queue, from which callers are told when to try again.

use std::time::{Duration, Instant};

/// Recent speed at which sequences leave the queue, kept as exponentially decaying counts.
#[derive(Debug, Default)]
pub(crate) struct StartRate {
    /// When the first sequence started.
    since: Option<Instant>,
    /// When the counts were last decayed.
    updated: Option<Instant>,
    sequences: f64,
    tokens: f64,
}

impl StartRate {
    /// Time in which a count decays to 1/e of itself.
    const WINDOW_SECONDS: f64 = 10.0;
    /// Bounds of what callers are told.
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(60);

    /// A sequence with this many prompt tokens started.
    pub(crate) fn record(&mut self, tokens: usize, now: Instant) {
        let decay = self.decay(now);
        self.sequences = self.sequences * decay + 1.0;
        self.tokens = self.tokens * decay + tokens as f64;
        self.since.get_or_insert(now);
        self.updated = Some(now);
    }

    /// How long until this many sequences and prompt tokens have left the queue. One second before any sequence has
    /// started.
    pub(crate) fn time_for(&self, sequences: usize, tokens: usize, now: Instant) -> Duration {
        let Some(since) = self.since else {
            return Duration::from_secs(1);
        };
        let decay = self.decay(now);
        let age = now.saturating_duration_since(since).as_secs_f64().max(0.1);
        // A decaying count of a steady stream that began `age` ago is rate * window * (1 - e^(-age/window)).
        let window = Self::WINDOW_SECONDS * -(-age / Self::WINDOW_SECONDS).exp_m1();
        let seconds = |count: usize, recent: f64| count as f64 * window / (recent * decay).max(1e-9);
        let wait = seconds(sequences, self.sequences).max(seconds(tokens, self.tokens));
        Duration::try_from_secs_f64(wait)
            .unwrap_or(Self::LONGEST)
            .clamp(Self::SHORTEST, Self::LONGEST)
    }

    fn decay(&self, now: Instant) -> f64 {
        let idle = self
            .updated
            .map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        (-idle / Self::WINDOW_SECONDS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_follows_the_recent_speed() {
        let start = Instant::now();
        let mut rate = StartRate::default();
        assert_eq!(rate.time_for(1, 1, start), Duration::from_secs(1));
        for i in 0..200u32 {
            rate.record(50, start + i * Duration::from_millis(100));
        }
        let now = start + Duration::from_secs(20);
        let wait = rate.time_for(20, 1, now).as_secs_f64();
        assert!(
            (1.8..2.2).contains(&wait),
            "10 sequences per second, 20 to go: {wait}"
        );
        let wait = rate.time_for(1, 5000, now).as_secs_f64();
        assert!(
            (9.0..11.0).contains(&wait),
            "500 tokens per second, 5000 to go: {wait}"
        );
        assert_eq!(
            rate.time_for(1, 1, now + Duration::from_secs(3600)),
            Duration::from_secs(60)
        );
    }
}
