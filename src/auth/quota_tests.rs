//! Quotas, with times that the tests choose.

use super::*;
use proptest::prelude::*;

fn tenant(name: &str) -> Tenant {
    Tenant::named(name).unwrap()
}

fn limits(requests: Option<u32>, tokens: Option<u32>) -> QuotaLimits {
    QuotaLimits { requests, tokens }
}

#[test]
fn a_minutes_worth_of_requests_comes_back_in_a_minute() {
    let quotas = Quotas::new(limits(Some(6), None), [(tenant("large"), limits(Some(60), None))]);
    let begin = Instant::now();
    let take = |name: &str, at: Duration| quotas.take_request(&tenant(name), begin + at);
    for _ in 0..6 {
        take("a", Duration::ZERO).unwrap();
    }
    let refusal = take("a", Duration::ZERO).unwrap_err();
    assert_eq!((refusal.kind, refusal.per_minute), (QuotaKind::Requests, 6));
    let wait = refusal.retry_after.unwrap();
    assert_eq!(wait, Duration::from_millis(10_001));
    // Others have buckets of their own.
    for _ in 0..60 {
        take("large", Duration::ZERO).unwrap();
    }
    take("b", Duration::ZERO).unwrap();
    assert!(take("a", wait - Duration::from_millis(2)).is_err());
    take("a", wait).unwrap();
    assert!(take("a", wait).is_err());
    for _ in 0..6 {
        take("a", Duration::from_secs(600)).unwrap();
    }
    assert!(take("a", Duration::from_secs(600)).is_err());
}

#[test]
fn tokens_of_an_answer_that_were_not_needed_are_given_back() {
    let quotas = Quotas::new(limits(None, Some(100)), []);
    let now = Instant::now();
    let reserve = |tokens| quotas.reserve_tokens(&tenant("a"), tokens, now);
    let mut answer = reserve(80).unwrap();
    let refusal = reserve(21).unwrap_err();
    assert_eq!((refusal.kind, refusal.needed), (QuotaKind::Tokens, 21));
    assert!(refusal.retry_after.is_some());
    answer.use_tokens(30);
    for _ in 0..10 {
        answer.use_tokens(1);
    }
    drop(answer);
    // 30 and 10 of 100 are used.
    assert!(reserve(61).is_err());
    drop(reserve(60).unwrap());
    let never = reserve(101).unwrap_err();
    assert_eq!(never.retry_after, None, "it is more than a whole minute's worth");
}

#[test]
fn without_quotas_nothing_is_counted() {
    let quotas = Quotas::new(QuotaLimits::default(), []);
    assert!(quotas.0.is_none());
    let reserved = quotas.reserve_tokens(&tenant("a"), usize::MAX, Instant::now());
    assert!(reserved.is_ok());
}

/// Uses up the requests of as many tenants as have accounts of their own, and of as many again.
fn crowd(quotas: &Quotas, at: Instant) {
    for number in 0..2 * MOST_ACCOUNTS {
        // Those that have no room any more share one account, which is soon empty.
        let _ = quotas.take_request(&tenant(&format!("t{number}")), at);
    }
}

fn open_accounts(quotas: &Quotas) -> usize {
    lock(&quotas.0.as_ref().unwrap().others).open.len()
}

#[test]
fn memory_is_bounded_whatever_names_there_are() {
    let quotas = Quotas::new(limits(Some(2), None), []);
    let begin = Instant::now();
    crowd(&quotas, begin);
    assert_eq!(open_accounts(&quotas), MOST_ACCOUNTS);
    assert!(quotas.take_request(&tenant("late"), begin).is_err());
    // Once theirs are full again, there is room.
    let later = begin + Duration::from_secs(61);
    quotas.take_request(&tenant("late"), later).unwrap();
    assert_eq!(open_accounts(&quotas), 1);
}

#[test]
fn tenants_with_quotas_of_their_own_have_room_however_many_others_there_are() {
    let quotas = Quotas::new(
        limits(Some(2), Some(10)),
        [(tenant("named"), limits(Some(3), Some(20)))],
    );
    let begin = Instant::now();
    crowd(&quotas, begin);
    assert!(quotas.take_request(&tenant("late"), begin).is_err());
    for _ in 0..3 {
        quotas.take_request(&tenant("named"), begin).unwrap();
    }
    assert!(quotas.take_request(&tenant("named"), begin).is_err());
    drop(quotas.reserve_tokens(&tenant("named"), 20, begin).unwrap());
    let mut used = quotas.reserve_tokens(&tenant("named"), 20, begin).unwrap();
    used.use_tokens(20);
    drop(used);
    assert!(quotas.reserve_tokens(&tenant("named"), 1, begin).is_err());
}

#[test]
fn whoever_shares_an_account_gets_back_what_was_not_needed() {
    let quotas = Quotas::new(limits(Some(2), Some(10)), []);
    let begin = Instant::now();
    crowd(&quotas, begin);
    let reserved = quotas.reserve_tokens(&tenant("late"), 10, begin).unwrap();
    assert!(quotas.reserve_tokens(&tenant("later"), 1, begin).is_err());
    drop(reserved);
    assert!(quotas.reserve_tokens(&tenant("later"), 10, begin).is_ok());
}

#[test]
fn accounts_are_searched_once_a_second_and_not_for_each_call() {
    let quotas = Quotas::new(limits(Some(60), None), []);
    let begin = Instant::now();
    for number in 0..MOST_ACCOUNTS {
        // What each has taken comes back in a second.
        quotas
            .take_request(&tenant(&format!("t{number}")), begin)
            .unwrap();
    }
    let late = |name: &str, ms| {
        let at = begin + Duration::from_millis(ms);
        quotas.take_request(&tenant(name), at).unwrap();
        open_accounts(&quotas)
    };
    assert_eq!(late("a", 500), MOST_ACCOUNTS, "none is full");
    assert_eq!(
        late("b", 1400),
        MOST_ACCOUNTS,
        "all are full, and were searched a moment ago"
    );
    assert_eq!(late("c", 1600), 1);
}

#[test]
fn asking_whether_there_are_tokens_takes_none() {
    let quotas = Quotas::new(limits(None, Some(100)), []);
    let now = Instant::now();
    let check = |tokens| quotas.check_tokens(&tenant("a"), tokens, now);
    for _ in 0..3 {
        check(100).unwrap();
    }
    assert_eq!(check(101).unwrap_err().retry_after, None);
    let reserved = quotas.reserve_tokens(&tenant("a"), 60, now).unwrap();
    let refusal = check(41).unwrap_err();
    assert_eq!((refusal.kind, refusal.needed), (QuotaKind::Tokens, 41));
    assert!(refusal.retry_after.is_some());
    check(40).unwrap();
    let left = |at| {
        quotas
            .tokens_left(&tenant("a"), at)
            .map(|left| (left.tokens, left.per_minute))
    };
    assert_eq!(left(now), Some((40, 100)));
    assert_eq!(
        left(now + Duration::from_millis(900)),
        Some((41, 100)),
        "no part of a token"
    );
    assert_eq!(Quotas::default().tokens_left(&tenant("a"), now), None);
    drop(reserved);
    check(100).unwrap();
}

proptest! {
    /// In no schedule does a tenant get more than a bucket and what has flowed into it.
    #[test]
    fn nobody_gets_more_than_flows(steps in prop::collection::vec((0u64..20_000, 1usize..60), 1..200)) {
        let quotas = Quotas::new(limits(None, Some(60)), []);
        let begin = Instant::now();
        let (mut at, mut used) = (Duration::ZERO, 0.0);
        for (wait, tokens) in steps {
            at += Duration::from_millis(wait);
            if let Ok(mut reserved) = quotas.reserve_tokens(&tenant("a"), tokens, begin + at) {
                reserved.use_tokens(tokens);
                used += tokens as f64;
                drop(reserved);
            }
            prop_assert!(used <= 60.0 + at.as_secs_f64() + 1e-6);
        }
    }
}
