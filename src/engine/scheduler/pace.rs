//! How long steps may take, and how much time other work gets beside urgent work.
//!
//! An urgent sequence first waits for the step that is under way, and then shares the device with everything else. Two
//! rules bound both delays. A step without urgent work is planned to take no longer than the work of an average urgent
//! sequence, nor than the step target. And while urgent work is open, all other work together gets [`NON_URGENT_SHARE`]
//! of the urgent work's time, no less and no more. So an urgent sequence that no other urgent one delays takes at most
//! about twice as long as alone, plus that share; and other work never starves, because its share is guaranteed.

use std::time::{Duration, Instant};

/// Seconds that non-urgent work gets for each second of urgent work: a fifth of all time.
const NON_URGENT_SHARE: f64 = 0.25;
/// Weight of the newest urgent sequence in the running mean of their work.
const NEWEST_WEIGHT: f64 = 0.125;

/// How much non-urgent work a step may contain.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Pace {
    /// As much as fits into the batch. Classes only decide the order.
    Unbounded,
    /// No urgent work is open: the step is planned to take this many seconds.
    StepTarget(f64),
    /// Urgent work is open, in this or in another model of the device: non-urgent work may use this many seconds.
    BesideUrgent(f64),
}

impl Pace {
    /// Seconds that non-urgent work may add to a step whose base cost is `base` seconds. When `has_urgent` says that the
    /// step contains urgent work, the base is charged to that.
    pub(crate) fn allowance(self, base: f64, has_urgent: bool) -> f64 {
        match self {
            Self::Unbounded => f64::INFINITY,
            Self::BesideUrgent(seconds) if has_urgent => seconds,
            // However slow the model is, at least half of a step's time goes to its tokens.
            Self::StepTarget(seconds) | Self::BesideUrgent(seconds) => (seconds - base).max(base).max(1e-6),
        }
    }
}

/// What a planned step contains.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct StepForecast {
    /// Seconds that it is predicted to take.
    pub seconds: f64,
    /// Whether there is urgent work in it.
    pub has_urgent: bool,
    /// Seconds that non-urgent work is predicted to add to it.
    pub non_urgent_seconds: f64,
}

impl StepForecast {
    /// Seconds of the ledger's credit that the step is predicted to use when it is planned at `pace`: the whole step, unless
    /// there is urgent work in it.
    pub(crate) fn credit_used(&self, pace: Pace) -> f64 {
        match (pace, self.has_urgent) {
            (Pace::Unbounded | Pace::StepTarget(_), _) => 0.0,
            (Pace::BesideUrgent(_), true) => self.non_urgent_seconds,
            (Pace::BesideUrgent(_), false) => self.seconds,
        }
    }
}

/// What is open and under way on a device when a step is planned.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DeviceWork {
    /// Whether urgent work is open in any model.
    pub urgent: bool,
    /// Seconds of credit that the steps under way are predicted to use ([`StepForecast::credit_used`]).
    pub credit_in_use: f64,
    /// How many steps, with the planned one, are going to be under way at the same time. Zero counts as one.
    pub overlapping: usize,
}

/// Accounts for the time of urgent and of non-urgent work, over all models of a device.
#[derive(Debug)]
pub(crate) struct TimeLedger {
    /// Longest step without urgent work, in seconds; infinite when steps are not paced.
    target: f64,
    /// Seconds that non-urgent work may use while urgent work is open; negative after a step that took too long.
    credit: f64,
    /// Mean work of an urgent sequence in seconds, once one has finished.
    urgent_work: Option<f64>,
    /// When the last step ended.
    last_end: Option<Instant>,
}

impl TimeLedger {
    /// A ledger for steps of at most `target`. Without a target, steps are not paced.
    pub(crate) fn new(target: Option<Duration>) -> Self {
        Self {
            target: target.map_or(f64::INFINITY, |target| target.as_secs_f64()),
            credit: 0.0,
            urgent_work: None,
            last_end: None,
        }
    }

    /// The pace of the next step. Steps that are under way together share the time of one, because an urgent sequence that
    /// arrives waits for all of them.
    pub(crate) fn pace(&self, work: DeviceWork) -> Pace {
        if self.target.is_infinite() {
            Pace::Unbounded
        } else if work.urgent {
            Pace::BesideUrgent(self.credit - work.credit_in_use)
        } else {
            Pace::StepTarget(self.longest() / work.overlapping.max(1) as f64)
        }
    }

    /// Whether a model without urgent work may take a step.
    pub(crate) fn non_urgent_may_run(&self, work: DeviceWork) -> bool {
        !work.urgent || self.target.is_infinite() || self.credit > work.credit_in_use
    }

    /// The time that a step took of the device, of which it began to be planned at `began` and ended `now`: from the end of
    /// the step before it, where that was later. So the times of steps that overlap add up to the time in which the device
    /// was busy.
    pub(crate) fn time_of_step(&mut self, began: Instant, now: Instant) -> Duration {
        let since = self.last_end.map_or(began, |end| end.max(began));
        self.last_end = Some(now);
        now.saturating_duration_since(since)
    }

    /// Notes that an urgent sequence has finished whose own work took this many seconds.
    pub(crate) fn urgent_finished(&mut self, seconds: f64) {
        let mean = self.urgent_work.unwrap_or(seconds);
        self.urgent_work = Some(mean + NEWEST_WEIGHT * (seconds - mean));
    }

    /// Accounts for a step that was planned at `pace` and took this many seconds.
    pub(crate) fn settle(&mut self, pace: Pace, forecast: StepForecast, seconds: f64) {
        if !matches!(pace, Pace::BesideUrgent(_)) {
            self.credit = 0.0;
            return;
        }
        let non_urgent = if forecast.has_urgent {
            forecast.non_urgent_seconds.min(seconds)
        } else {
            seconds
        };
        let earned = NON_URGENT_SHARE * (seconds - non_urgent);
        self.credit = (self.credit + earned - non_urgent).min(self.longest());
    }

    /// Longest time, in seconds, that a step without urgent work is planned to take.
    fn longest(&self) -> f64 {
        self.urgent_work.map_or(self.target, |work| work.min(self.target))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: DeviceWork = DeviceWork {
        urgent: false,
        credit_in_use: 0.0,
        overlapping: 1,
    };
    const URGENT: DeviceWork = DeviceWork { urgent: true, ..CALM };

    #[test]
    fn without_urgent_work_steps_are_as_long_as_urgent_sequences_take() {
        let mut ledger = TimeLedger::new(Some(Duration::from_millis(100)));
        assert_eq!(ledger.pace(CALM), Pace::StepTarget(0.1));
        ledger.urgent_finished(0.03);
        assert_eq!(ledger.pace(CALM), Pace::StepTarget(0.03));
        ledger.urgent_finished(5.0);
        assert_eq!(ledger.pace(CALM), Pace::StepTarget(0.1));
        assert_eq!(Pace::StepTarget(0.75).allowance(0.25, false), 0.5);
        assert_eq!(Pace::StepTarget(0.1).allowance(0.4, false), 0.4);
        assert_eq!(TimeLedger::new(None).pace(URGENT), Pace::Unbounded);
    }

    #[test]
    fn non_urgent_work_gets_its_share_and_pays_large_steps_back() {
        let mut ledger = TimeLedger::new(Some(Duration::from_millis(100)));
        let (mut urgent, mut rest) = (0.0, 0.0);
        for step in 0..1000 {
            let pace = ledger.pace(URGENT);
            let Pace::BesideUrgent(credit) = pace else {
                panic!()
            };
            // Far more than the credit, in one step.
            let part = if credit > 0.0 { 0.05 } else { 0.0 };
            let own = 0.01 + 0.001 * f64::from(step % 7);
            ledger.settle(
                pace,
                StepForecast {
                    seconds: own + part,
                    has_urgent: true,
                    non_urgent_seconds: part,
                },
                own + part,
            );
            urgent += own;
            rest += part;
            assert!(rest <= NON_URGENT_SHARE * urgent + 0.05);
            assert!(rest >= NON_URGENT_SHARE * urgent - 0.1);
        }
        let pace = ledger.pace(CALM);
        ledger.settle(pace, StepForecast::default(), 0.1);
        assert_eq!(
            ledger.pace(URGENT),
            Pace::BesideUrgent(0.0),
            "each urgent phase starts without credit or debt"
        );
    }

    #[test]
    fn steps_under_way_together_share_the_target_and_the_credit() {
        let mut ledger = TimeLedger::new(Some(Duration::from_millis(100)));
        let two = DeviceWork {
            overlapping: 2,
            ..CALM
        };
        assert_eq!(ledger.pace(two), Pace::StepTarget(0.05));
        let urgent_step = StepForecast {
            seconds: 0.04,
            has_urgent: true,
            non_urgent_seconds: 0.0,
        };
        ledger.settle(ledger.pace(URGENT), urgent_step, 0.04);
        assert_eq!(ledger.pace(URGENT), Pace::BesideUrgent(0.01));
        assert!(ledger.non_urgent_may_run(URGENT));
        let rest = StepForecast {
            seconds: 0.02,
            has_urgent: false,
            non_urgent_seconds: 0.015,
        };
        // The base of a step without urgent work is charged to the rest, as it is when the step has ended.
        let under_way = DeviceWork {
            credit_in_use: rest.credit_used(ledger.pace(URGENT)),
            ..URGENT
        };
        assert_eq!(ledger.pace(under_way), Pace::BesideUrgent(-0.01));
        assert!(!ledger.non_urgent_may_run(under_way));
        assert_eq!(rest.credit_used(Pace::StepTarget(0.1)), 0.0);
        assert_eq!(urgent_step.credit_used(ledger.pace(URGENT)), 0.0);
    }

    #[test]
    fn the_times_of_overlapping_steps_add_up_to_the_time_in_which_the_device_was_busy() {
        let mut ledger = TimeLedger::new(None);
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        // (began, ended): two that overlap, one that begins as the device gets idle, and one after a pause.
        let steps = [(0, 10), (2, 15), (15, 20), (50, 60)];
        let times = steps.map(|(began, ended)| ledger.time_of_step(at(began), at(ended)).as_millis());
        assert_eq!(times, [10, 5, 5, 10]);
    }
}
