use proptest::prelude::*;

use super::budget::{KvSize, Ledger, Need, Plan, Terms};
use crate::{backend::Footprint, config::LoadPolicy};

fn need(fixed: u64, kv_min: u64, kv_max: u64) -> Need {
    Need {
        weights: fixed - fixed / 4,
        scratch: fixed / 4,
        kv_min,
        kv_max,
    }
}

fn terms(policy: LoadPolicy, need: Need) -> Terms {
    Terms {
        policy,
        pinned: false,
        need: Some(need),
    }
}

/// Loads as the registry does; says which models had to go.
fn load(ledger: &mut Ledger, model: usize, need: Need) -> Option<Plan> {
    let plan = ledger.plan(model, need).ok()?;
    for &evicted in &plan.evict {
        ledger.unsettle(evicted);
        ledger.release(evicted);
    }
    ledger.take(model, need.fixed() + plan.kv_bytes).unwrap();
    ledger.settle(model);
    Some(plan)
}

#[test]
fn pools_lie_between_a_window_and_a_full_batch() {
    let footprint = |context_length| Footprint {
        architecture: "llama".to_owned(),
        context_length,
        held_tokens: context_length,
        weight_bytes: 1000,
        scratch_bytes: 100,
        kv_block_bytes: 160,
        kv_most_bytes: None,
        block_tokens: 16,
    };
    // Ten bytes a token.
    let short = Need::new(&footprint(1024), KvSize::Auto, 64);
    assert_eq!((short.kv_min, short.kv_max), (10_240, 64 * 10_240));
    let long = Need::new(&footprint(131_072), KvSize::Auto, 64);
    assert_eq!((long.kv_min, long.kv_max), (40_960, 64 * 20_480));
    let alone = Need::new(&footprint(131_072), KvSize::Auto, 1);
    assert_eq!(alone.kv_max, 1_310_720, "never less than one window");
    let fixed = Need::new(&footprint(1024), KvSize::Fixed(77), 64);
    assert_eq!((fixed.kv_min, fixed.kv_max, fixed.least()), (77, 77, 1177));
}

#[test]
fn the_rest_is_shared_by_how_much_more_a_pool_could_use() {
    let models = [need(100, 10, 110), need(100, 10, 310), need(100, 10, 10)];
    let [first, second, third] = models;
    let mut ledger = Ledger::new(
        100 + 100 + 100 + 30 + 200,
        vec![
            terms(LoadPolicy::Eager, first),
            terms(LoadPolicy::Lazy, second),
            terms(LoadPolicy::Manual, third),
        ],
    );
    let mut kv = |model, need| load(&mut ledger, model, need).unwrap().kv_bytes;
    // 200 are left: a quarter and three quarters of it.
    assert_eq!((kv(0, first), kv(1, second), kv(2, third)), (60, 160, 10));
    // The order of loading changes nothing, and a large budget does not make pools senselessly large.
    let mut ledger = Ledger::new(
        10_000,
        vec![terms(LoadPolicy::Lazy, second), terms(LoadPolicy::Eager, first)],
    );
    assert_eq!(load(&mut ledger, 0, second).unwrap().kv_bytes, 310);
}

#[test]
fn models_that_do_not_fit_together_share_one_place() {
    let (guard, large, small) = (need(100, 20, 100), need(500, 20, 100), need(300, 20, 100));
    let mut ledger = Ledger::new(
        700,
        vec![
            terms(LoadPolicy::Eager, guard),
            terms(LoadPolicy::Lazy, large),
            terms(LoadPolicy::Lazy, small),
        ],
    );
    assert_eq!(ledger.eager_least(), 120);
    // 60 beyond the least of guard and large, in halves.
    assert_eq!(load(&mut ledger, 0, guard).unwrap().kv_bytes, 50);
    assert_eq!(load(&mut ledger, 1, large).unwrap().kv_bytes, 50);
    assert_eq!(ledger.available(), 0);
    let plan = load(&mut ledger, 2, small).unwrap();
    assert_eq!((plan.evict.as_slice(), plan.kv_bytes), (&[1][..], 100));
    let plan = load(&mut ledger, 1, large).unwrap();
    assert_eq!((plan.evict.as_slice(), plan.kv_bytes), (&[2][..], 50));
}

#[test]
fn the_least_recently_used_goes_and_the_pinned_and_the_busy_stay() {
    let each = need(90, 10, 10);
    let mut ledger = Ledger::new(300, vec![terms(LoadPolicy::Lazy, each); 4]);
    for model in 0..3 {
        load(&mut ledger, model, each).unwrap();
    }
    ledger.enter(0);
    ledger.leave(0);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [1]);
    ledger.set_pinned(1, true);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [2]);
    ledger.enter(2);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [0]);
    ledger.enter(0);
    let shortage = ledger.plan(3, each).unwrap_err();
    assert_eq!(
        (shortage.needed, shortage.available, shortage.budget),
        (100, 0, 300)
    );
    assert_eq!(shortage.unpinned, [0, 2]);
    assert!(shortage.passing, "they are busy, not pinned");
    ledger.set_pinned(0, true);
    ledger.set_pinned(2, true);
    let shortage = ledger.plan(3, each).unwrap_err();
    assert!(shortage.unpinned.is_empty() && !shortage.passing);
}

#[test]
fn no_more_go_than_must() {
    let (small, large) = (need(90, 10, 10), need(290, 10, 10));
    let mut ledger = Ledger::new(
        420,
        vec![
            terms(LoadPolicy::Lazy, small),
            terms(LoadPolicy::Lazy, large),
            terms(LoadPolicy::Lazy, large),
        ],
    );
    load(&mut ledger, 0, small).unwrap();
    load(&mut ledger, 1, large).unwrap();
    // The small one is older, but does not help.
    assert_eq!(ledger.plan(2, large).unwrap().evict, [1]);
}

#[derive(Debug, Clone)]
enum Deed {
    Load(usize),
    Unload(usize),
    Enter(usize),
    Leave(usize),
    Pin(usize, bool),
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let model = 0usize..6;
    let deed = prop_oneof![
        4 => model.clone().prop_map(Deed::Load),
        1 => model.clone().prop_map(Deed::Unload),
        2 => model.clone().prop_map(Deed::Enter),
        2 => model.clone().prop_map(Deed::Leave),
        1 => (model, any::<bool>()).prop_map(|(model, pinned)| Deed::Pin(model, pinned)),
    ];
    prop::collection::vec(deed, 0..120)
}

proptest! {
    /// Whatever happens: never over the budget; who is pinned, in use, eager or manual never makes room; who
    /// goes is not more than must; a refusal's numbers are right, and true.
    #[test]
    fn the_account_is_never_overdrawn(
        budget in 100u64..2000,
        needs in prop::collection::vec((1u64..600, 1u64..100, 0u64..400, 0u8..4), 6),
        deeds in deeds(),
    ) {
        let models: Vec<(Need, LoadPolicy)> = needs
            .iter()
            .map(|&(fixed, kv_min, more, policy)| {
                let policy = match policy {
                    0 => LoadPolicy::Eager,
                    1 => LoadPolicy::Manual,
                    _ => LoadPolicy::Lazy,
                };
                (need(fixed, kv_min, kv_min + more), policy)
            })
            .collect();
        let mut ledger = Ledger::new(
            budget,
            models.iter().map(|&(need, policy)| terms(policy, need)).collect(),
        );
        let mut resident: [Option<u64>; 6] = [None; 6];
        let (mut uses, mut pinned) = ([0usize; 6], [false; 6]);
        for deed in deeds {
            match deed {
                Deed::Load(model) if resident[model].is_none() => {
                    let (need, _) = models[model];
                    let held: u64 = resident.iter().flatten().sum();
                    let lazy_idle = |i: usize| {
                        models[i].1 == LoadPolicy::Lazy && !pinned[i] && uses[i] == 0
                    };
                    let could_go: u64 =
                        (0..6).filter(|&i| lazy_idle(i)).filter_map(|i| resident[i]).sum();
                    match ledger.plan(model, need) {
                        Ok(plan) => {
                            prop_assert!((need.kv_min..=need.kv_max).contains(&plan.kv_bytes));
                            let freed: u64 = plan.evict.iter().map(|&i| resident[i].unwrap()).sum();
                            for &evicted in &plan.evict {
                                prop_assert!(lazy_idle(evicted));
                                let less = freed - resident[evicted].unwrap();
                                prop_assert!(budget - held + less < need.least(), "one too many");
                            }
                            load(&mut ledger, model, need).unwrap();
                            for evicted in plan.evict {
                                resident[evicted] = None;
                            }
                            resident[model] = Some(need.fixed() + plan.kv_bytes);
                        }
                        Err(shortage) => {
                            prop_assert_eq!(shortage.needed, need.least());
                            prop_assert_eq!(shortage.available, budget - held);
                            prop_assert_eq!(shortage.budget, budget);
                            prop_assert!(budget - held + could_go < need.least());
                            let unpinned: Vec<usize> =
                                (0..6).filter(|&i| resident[i].is_some() && !pinned[i]).collect();
                            prop_assert_eq!(shortage.unpinned, unpinned);
                        }
                    }
                }
                Deed::Unload(model) if resident[model].is_some() => {
                    ledger.unsettle(model);
                    ledger.release(model);
                    (resident[model], uses[model]) = (None, 0);
                }
                Deed::Enter(model) if resident[model].is_some() => {
                    ledger.enter(model);
                    uses[model] += 1;
                }
                Deed::Leave(model) if uses[model] > 0 => {
                    ledger.leave(model);
                    uses[model] -= 1;
                }
                Deed::Pin(model, pin) => {
                    ledger.set_pinned(model, pin);
                    pinned[model] = pin;
                }
                _ => {}
            }
            let held: u64 = resident.iter().flatten().sum();
            prop_assert_eq!(ledger.taken(), held);
            prop_assert!(held <= budget);
            prop_assert_eq!(ledger.available(), budget - held);
        }
    }
}
