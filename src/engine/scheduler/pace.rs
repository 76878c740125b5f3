//! How long steps are, and what work that can wait gets beside urgent work.
//!
//! An urgent sequence waits for the step that is under way, then shares the device with everything else. Two
//! rules bound both. A step without urgent work is planned to be no longer than an urgent sequence's own work
//! usually is (nor than the target). And while urgent work is open, the rest has a guaranteed share of the time,
//! [`WAITING_SHARE`], and no more. So an urgent sequence that no other urgent one delays takes about as long as
//! alone, plus that once more at most, plus the share; and nothing starves, because what has the share is never
//! passed over for ever.

use std::time::Duration;

/// Seconds that the rest gets for each second of urgent work: a fifth of the time.
const WAITING_SHARE: f64 = 0.25;
/// Weight of the newest urgent sequence in the mean of their work.
const NEWEST: f64 = 0.125;

/// What a step may hold besides urgent work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Pace {
    /// As much as fits; classes matter only for the order.
    Unbounded,
    /// The step is to take so many seconds.
    Whole(f64),
    /// Urgent work is open, here or in another model of the device; the rest has so many seconds to spend.
    Beside(f64),
}

impl Pace {
    /// Seconds that non-urgent work may add to a step whose base cost is `base`; `beside` tells whether there
    /// is urgent work in it, which pays for the base.
    pub fn allowance(self, base: f64, beside: bool) -> f64 {
        match self {
            Self::Unbounded => f64::INFINITY,
            Self::Beside(seconds) if beside => seconds,
            // At least half of a step is work that adds up, however slow the model.
            Self::Whole(seconds) | Self::Beside(seconds) => (seconds - base).max(base).max(1e-6),
        }
    }
}

/// What a step was planned to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Planned {
    /// Whether there is urgent work in it.
    pub urgent: bool,
    /// Seconds that the rest adds to it.
    pub rest: f64,
}

/// Keeps the books between urgent work and the rest, over all models of a device.
#[derive(Debug)]
pub struct Ledger {
    /// Longest step without urgent work, in seconds; infinite when steps are not paced.
    target: f64,
    /// Seconds that the rest may spend while urgent work is open; negative after a step that was too large.
    credit: f64,
    /// Mean work of urgent sequences, once there were any.
    urgent_work: Option<f64>,
}

impl Ledger {
    /// Steps of at most `target`; without one they are not paced.
    pub fn new(target: Option<Duration>) -> Self {
        Self {
            target: target.map_or(f64::INFINITY, |target| target.as_secs_f64()),
            credit: 0.0,
            urgent_work: None,
        }
    }

    /// For the next step; `urgent` tells whether urgent work is open in any model.
    pub fn pace(&self, urgent: bool) -> Pace {
        if self.target.is_infinite() {
            Pace::Unbounded
        } else if urgent {
            Pace::Beside(self.credit)
        } else {
            Pace::Whole(self.longest())
        }
    }

    /// Whether a model without urgent work may take a step while another one has some.
    pub fn rest_may_run(&self) -> bool {
        self.target.is_infinite() || self.credit > 0.0
    }

    /// An urgent sequence's own work was so many seconds.
    pub fn urgent_finished(&mut self, seconds: f64) {
        let mean = self.urgent_work.unwrap_or(seconds);
        self.urgent_work = Some(mean + NEWEST * (seconds - mean));
    }

    /// A step that was planned at `pace` took so long.
    pub fn settle(&mut self, pace: Pace, planned: Planned, seconds: f64) {
        if !matches!(pace, Pace::Beside(_)) {
            self.credit = 0.0;
            return;
        }
        let rest = if planned.urgent {
            planned.rest.min(seconds)
        } else {
            seconds
        };
        let earned = WAITING_SHARE * (seconds - rest);
        self.credit = (self.credit + earned - rest).min(self.longest());
    }

    fn longest(&self) -> f64 {
        self.urgent_work.map_or(self.target, |work| work.min(self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_urgent_work_steps_are_as_long_as_urgent_sequences_take() {
        let mut ledger = Ledger::new(Some(Duration::from_millis(100)));
        assert_eq!(ledger.pace(false), Pace::Whole(0.1));
        ledger.urgent_finished(0.03);
        assert_eq!(ledger.pace(false), Pace::Whole(0.03));
        ledger.urgent_finished(5.0);
        assert_eq!(ledger.pace(false), Pace::Whole(0.1));
        assert_eq!(Pace::Whole(0.75).allowance(0.25, false), 0.5);
        assert_eq!(Pace::Whole(0.1).allowance(0.4, false), 0.4);
        assert_eq!(Ledger::new(None).pace(true), Pace::Unbounded);
    }

    #[test]
    fn the_rest_gets_its_share_and_pays_large_steps_back() {
        let mut ledger = Ledger::new(Some(Duration::from_millis(100)));
        let (mut urgent, mut rest) = (0.0, 0.0);
        for step in 0..1000 {
            let pace = ledger.pace(true);
            let Pace::Beside(credit) = pace else { panic!() };
            // Far more than the credit, in one piece.
            let part = if credit > 0.0 { 0.05 } else { 0.0 };
            let own = 0.01 + 0.001 * f64::from(step % 7);
            ledger.settle(
                pace,
                Planned {
                    urgent: true,
                    rest: part,
                },
                own + part,
            );
            urgent += own;
            rest += part;
            assert!(rest <= WAITING_SHARE * urgent + 0.05 && rest >= WAITING_SHARE * urgent - 0.1);
        }
        let pace = ledger.pace(false);
        ledger.settle(pace, Planned::default(), 0.1);
        assert_eq!(
            ledger.pace(true),
            Pace::Beside(0.0),
            "each urgent phase starts even"
        );
    }
}
