//! Whether a verdict can be expected before its deadline, from how long the last verdicts of its account took.
//!
//! What certainly makes a sequence late is found by the engine, between two steps. This is for overload: when more verdicts
//! arrive than can be given, each that is accepted and then comes too late has taken time from one that would have been in
//! time, and soon all are late. So a verdict is refused on arrival, at once and on the thread of its caller, when verdicts
//! behind as many tokens have lately taken longer than it has. Only urgent sequences are treated so: they are alike, where an
//! answer may be one token or a thousand. An account is judged by its own verdicts alone.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    error::{LateAnswer, SubmitError},
    tenant::Tenant,
};

/// Verdicts of an account after which their times are relied on.
const WARM: usize = 16;
/// Verdicts of an account that are remembered, and for how long. After that the machine's load may have changed. The slowest
/// of them counts: one in about a hundred accepted ones may be late.
const REMEMBERED: usize = 128;
const FRESH: Duration = Duration::from_secs(10);
/// How much longer than the slowest a verdict is expected to take. In simulations of machines with other work on them, up to
/// one in sixteen accepted ones was late without this, and fewer than one in a hundred with it, with as many answered.
const MARGIN: f64 = 1.2;
/// Shortest and longest time, in seconds, after which a refused caller is told to try again.
const RETRY: [f64; 2] = [0.1, 60.0];

/// The verdicts of one model, by account.
#[derive(Debug, Default)]
pub(crate) struct VerdictPaces(BTreeMap<Tenant, AccountPace>);

/// The open verdicts of an account, and how long the last ones took.
#[derive(Debug, Default)]
struct AccountPace {
    /// Prompt tokens of the open ones.
    open_tokens: usize,
    /// When each of the last ones ended, and how many seconds it took for each token of those that were open when it arrived,
    /// its own included.
    paces: VecDeque<(Instant, f64)>,
}

/// Where a verdict stands among those of its account.
#[derive(Debug)]
pub(crate) struct VerdictPlace {
    account: Tenant,
    tokens: usize,
    /// Tokens of all that were open when it arrived, and its own.
    through: usize,
    arrival: Instant,
}

impl VerdictPaces {
    /// Refuses a verdict over so many tokens that will most likely be late. One of an account that has none open is never
    /// refused, so that a wrong expectation is corrected.
    ///
    /// # Errors
    /// [`SubmitError::DeadlineUnattainable`].
    pub(crate) fn check(
        &self,
        account: &Tenant,
        tokens: usize,
        deadline: Instant,
        now: Instant,
    ) -> Result<(), SubmitError> {
        let Some(pace) = self.0.get(account).filter(|pace| pace.open_tokens > 0) else {
            return Ok(());
        };
        let Some(slowest) = pace.slowest(now) else {
            return Ok(());
        };
        let remaining = deadline.saturating_duration_since(now);
        let each = MARGIN * slowest;
        let (wait, own) = (pace.open_tokens as f64 * each, tokens as f64 * each);
        if wait + own <= remaining.as_secs_f64() {
            return Ok(());
        }
        let in_time_alone = own <= remaining.as_secs_f64();
        Err(SubmitError::DeadlineUnattainable(LateAnswer {
            predicted: seconds(wait + own),
            wait: seconds(wait),
            remaining,
            retry_after: in_time_alone.then(|| seconds((wait / 2.0).clamp(RETRY[0], RETRY[1]))),
        }))
    }

    /// Enters a verdict that was accepted.
    pub(crate) fn enter(&mut self, account: &Tenant, tokens: usize, arrival: Instant) -> VerdictPlace {
        let pace = self.0.entry(account.clone()).or_default();
        pace.open_tokens += tokens;
        VerdictPlace {
            account: account.clone(),
            tokens,
            through: pace.open_tokens,
            arrival,
        }
    }

    /// Removes a verdict. `ended` is when it was given, or when it was too late; without it nothing is learned.
    pub(crate) fn leave(&mut self, place: &VerdictPlace, ended: Option<Instant>) {
        let Some(pace) = self.0.get_mut(&place.account) else {
            return;
        };
        pace.open_tokens = pace.open_tokens.saturating_sub(place.tokens);
        let Some(ended) = ended else { return };
        let took = ended.saturating_duration_since(place.arrival).as_secs_f64();
        if pace.paces.len() == REMEMBERED {
            pace.paces.pop_front();
        }
        pace.paces.push_back((ended, took / place.through.max(1) as f64));
    }
}

impl AccountPace {
    /// The slowest pace that is remembered; `None` when there are too few.
    fn slowest(&self, now: Instant) -> Option<f64> {
        let fresh = self.paces.iter().rev();
        let fresh = fresh.take_while(|(ended, _)| now.saturating_duration_since(*ended) <= FRESH);
        let (count, slowest) = fresh.fold((0, 0.0), |(count, slowest), (_, pace)| {
            (count + 1, f64::max(slowest, *pace))
        });
        (count >= WARM).then_some(slowest)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKENS: usize = 100;

    fn after(start: Instant, seconds: f64) -> Instant {
        start + Duration::from_secs_f64(seconds)
    }

    /// Verdicts one after the other, of half a second each.
    fn warm(start: Instant) -> VerdictPaces {
        let mut paces = VerdictPaces::default();
        for number in 0..WARM {
            let arrival = after(start, number as f64 / 2.0);
            let place = paces.enter(&Tenant::default(), TOKENS, arrival);
            paces.leave(&place, Some(after(arrival, 0.5)));
        }
        paces
    }

    #[test]
    fn a_verdict_behind_more_than_can_be_given_in_its_time_is_refused_with_a_time_to_retry() {
        let start = Instant::now();
        let mut paces = warm(start);
        let now = after(start, WARM as f64 / 2.0);
        let account = Tenant::default();
        let check = |paces: &VerdictPaces, limit: f64| paces.check(&account, TOKENS, after(now, limit), now);
        assert_eq!(
            check(&paces, 0.01),
            Ok(()),
            "nothing else is open, so it is tried"
        );
        let places: Vec<_> = (0..3).map(|_| paces.enter(&account, TOKENS, now)).collect();
        assert_eq!(check(&paces, 2.0 * MARGIN + 0.1), Ok(()));
        let late = check(&paces, 2.0 * MARGIN - 0.1);
        let Err(SubmitError::DeadlineUnattainable(LateAnswer {
            wait, retry_after, ..
        })) = late
        else {
            panic!("{late:?}");
        };
        let about = |found: Duration, seconds: f64| (found.as_secs_f64() - seconds).abs() < 1e-6;
        assert!(about(wait, 1.5 * MARGIN), "{wait:?}");
        assert!(
            retry_after.is_some_and(|retry| about(retry, 0.75 * MARGIN)),
            "{retry_after:?}"
        );
        let hopeless = check(&paces, 0.5);
        assert!(matches!(
            hopeless,
            Err(SubmitError::DeadlineUnattainable(LateAnswer {
                retry_after: None,
                ..
            }))
        ));
        // Another account is not judged by these.
        let other = Tenant::named("other").unwrap();
        assert_eq!(paces.check(&other, TOKENS, after(now, 0.5), now), Ok(()));
        // Those that are cancelled teach nothing, and leave room.
        for place in &places {
            paces.leave(place, None);
        }
        assert_eq!(check(&paces, 0.5), Ok(()));
    }

    #[test]
    fn old_times_and_a_single_slow_moment_are_forgotten() {
        let start = Instant::now();
        let mut paces = warm(start);
        let account = Tenant::default();
        let now = after(start, WARM as f64 / 2.0 + 20.0);
        let open = paces.enter(&account, TOKENS, now);
        assert_eq!(
            paces.check(&account, TOKENS, after(now, 0.1), now),
            Ok(()),
            "too old"
        );
        paces.leave(&open, None);
        let mut paces = warm(start);
        let mut now = after(start, WARM as f64 / 2.0);
        let slow = paces.enter(&account, TOKENS, now);
        now = after(now, 2.0);
        paces.leave(&slow, Some(now));
        let _open = paces.enter(&account, TOKENS, now);
        let refused =
            |paces: &VerdictPaces, now| paces.check(&account, TOKENS, after(now, 3.0), now).is_err();
        assert!(refused(&paces, now));
        for _ in 0..REMEMBERED {
            let place = paces.enter(&account, TOKENS, now);
            now = after(now, 0.5);
            paces.leave(&place, Some(now));
        }
        assert!(!refused(&paces, now));
    }
}
