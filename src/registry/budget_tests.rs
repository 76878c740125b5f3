use proptest::prelude::*;

use super::budget::{EvictionPlan, KvSize, KvSizing, MemoryLedger, MemoryNeed, ResidencyTerms};
use crate::{backend::Footprint, config::LoadPolicy};

fn need(fixed: u64, kv_min: u64, kv_max: u64) -> MemoryNeed {
    MemoryNeed {
        weights: fixed - fixed / 4,
        scratch: fixed / 4,
        kv_min,
        kv_max,
    }
}

fn terms(policy: LoadPolicy, need: MemoryNeed) -> ResidencyTerms {
    ResidencyTerms {
        policy,
        pinned: false,
        need: Some(need),
    }
}

/// Loads a model as the registry does, and returns the plan by which room was made.
fn load(ledger: &mut MemoryLedger, model: usize, need: MemoryNeed) -> Option<EvictionPlan> {
    let plan = ledger.plan(model, need).ok()?;
    for &evicted in &plan.evict {
        ledger.mark_unready(evicted);
        ledger.release(evicted);
    }
    ledger.reserve(model, need.fixed() + plan.kv_bytes).unwrap();
    ledger.mark_ready(model);
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
    let need_of = |context_length, size, batch_sequences| {
        let kv = KvSizing {
            size,
            batch_sequences,
        };
        MemoryNeed::new(&footprint(context_length), kv)
    };
    // Ten bytes for each token.
    let short = need_of(1024, KvSize::Auto, 64);
    assert_eq!((short.kv_min, short.kv_max), (10_240, 64 * 10_240));
    let long = need_of(131_072, KvSize::Auto, 64);
    assert_eq!((long.kv_min, long.kv_max), (40_960, 64 * 20_480));
    let alone = need_of(131_072, KvSize::Auto, 1);
    assert_eq!(alone.kv_max, 1_310_720, "never less than one window");
    let fixed = need_of(1024, KvSize::Fixed(77), 64);
    assert_eq!((fixed.kv_min, fixed.kv_max, fixed.least()), (77, 77, 1177));
}

#[test]
fn what_is_left_is_divided_by_how_much_more_a_pool_could_use() {
    let models = [need(100, 10, 110), need(100, 10, 310), need(100, 10, 10)];
    let [first, second, third] = models;
    let mut ledger = MemoryLedger::new(
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
    // The order of loading does not matter, and with a large budget pools are no larger than they can use.
    let mut ledger = MemoryLedger::new(
        10_000,
        vec![terms(LoadPolicy::Lazy, second), terms(LoadPolicy::Eager, first)],
    );
    assert_eq!(load(&mut ledger, 0, second).unwrap().kv_bytes, 310);
}

#[test]
fn models_that_do_not_fit_together_take_turns() {
    let (guard, large, small) = (need(100, 20, 100), need(500, 20, 100), need(300, 20, 100));
    let mut ledger = MemoryLedger::new(
        700,
        vec![
            terms(LoadPolicy::Eager, guard),
            terms(LoadPolicy::Lazy, large),
            terms(LoadPolicy::Lazy, small),
        ],
    );
    assert_eq!(ledger.eager_least(), 120);
    // The 60 bytes beyond the least need of `guard` and `large` are halved.
    assert_eq!(load(&mut ledger, 0, guard).unwrap().kv_bytes, 50);
    assert_eq!(load(&mut ledger, 1, large).unwrap().kv_bytes, 50);
    assert_eq!(ledger.available(), 0);
    let plan = load(&mut ledger, 2, small).unwrap();
    assert_eq!((plan.evict.as_slice(), plan.kv_bytes), (&[1][..], 100));
    let plan = load(&mut ledger, 1, large).unwrap();
    assert_eq!((plan.evict.as_slice(), plan.kv_bytes), (&[2][..], 50));
}

#[test]
fn the_least_recently_used_is_evicted_and_pinned_and_busy_models_are_kept() {
    let each = need(90, 10, 10);
    let mut ledger = MemoryLedger::new(300, vec![terms(LoadPolicy::Lazy, each); 4]);
    for model in 0..3 {
        load(&mut ledger, model, each).unwrap();
    }
    ledger.begin_use(0);
    ledger.end_use(0);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [1]);
    ledger.set_pinned(1, true);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [2]);
    ledger.begin_use(2);
    assert_eq!(ledger.plan(3, each).unwrap().evict, [0]);
    ledger.begin_use(0);
    let shortage = ledger.plan(3, each).unwrap_err();
    assert_eq!(
        (shortage.needed, shortage.available, shortage.budget),
        (100, 0, 300)
    );
    assert_eq!(shortage.unpinned, [0, 2]);
    assert!(shortage.is_temporary, "they are busy, not pinned");
    ledger.set_pinned(0, true);
    ledger.set_pinned(2, true);
    let shortage = ledger.plan(3, each).unwrap_err();
    assert!(shortage.unpinned.is_empty() && !shortage.is_temporary);
}

#[test]
fn no_more_are_evicted_than_necessary() {
    let (small, large) = (need(90, 10, 10), need(290, 10, 10));
    let mut ledger = MemoryLedger::new(
        420,
        vec![
            terms(LoadPolicy::Lazy, small),
            terms(LoadPolicy::Lazy, large),
            terms(LoadPolicy::Lazy, large),
        ],
    );
    load(&mut ledger, 0, small).unwrap();
    load(&mut ledger, 1, large).unwrap();
    // The small model was used less recently, but evicting it does not make enough room.
    assert_eq!(ledger.plan(2, large).unwrap().evict, [1]);
}

#[derive(Debug, Clone)]
enum Operation {
    Load(usize),
    Unload(usize),
    BeginUse(usize),
    EndUse(usize),
    Pin(usize, bool),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let model = 0usize..6;
    let operation = prop_oneof![
        4 => model.clone().prop_map(Operation::Load),
        1 => model.clone().prop_map(Operation::Unload),
        2 => model.clone().prop_map(Operation::BeginUse),
        2 => model.clone().prop_map(Operation::EndUse),
        1 => (model, any::<bool>()).prop_map(|(model, pinned)| Operation::Pin(model, pinned)),
    ];
    prop::collection::vec(operation, 0..120)
}

proptest! {
    /// Whatever happens, the budget is never exceeded; models that are pinned, in use, eager or manual are never evicted; no
    /// more models are evicted than necessary; and the numbers of a refusal are right.
    #[test]
    fn the_account_is_never_overdrawn(
        budget in 100u64..2000,
        needs in prop::collection::vec((1u64..600, 1u64..100, 0u64..400, 0u8..4), 6),
        operations in operations(),
    ) {
        let models: Vec<(MemoryNeed, LoadPolicy)> = needs
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
        let mut ledger = MemoryLedger::new(
            budget,
            models.iter().map(|&(need, policy)| terms(policy, need)).collect(),
        );
        let mut resident: [Option<u64>; 6] = [None; 6];
        let (mut uses, mut pinned) = ([0usize; 6], [false; 6]);
        for operation in operations {
            match operation {
                Operation::Load(model) if resident[model].is_none() => {
                    let (need, _) = models[model];
                    let held: u64 = resident.iter().flatten().sum();
                    let lazy_idle = |i: usize| {
                        models[i].1 == LoadPolicy::Lazy && !pinned[i] && uses[i] == 0
                    };
                    let evictable: u64 =
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
                            prop_assert!(budget - held + evictable < need.least());
                            let unpinned: Vec<usize> =
                                (0..6).filter(|&i| resident[i].is_some() && !pinned[i]).collect();
                            prop_assert_eq!(shortage.unpinned, unpinned);
                        }
                    }
                }
                Operation::Unload(model) if resident[model].is_some() => {
                    ledger.mark_unready(model);
                    ledger.release(model);
                    (resident[model], uses[model]) = (None, 0);
                }
                Operation::BeginUse(model) if resident[model].is_some() => {
                    ledger.begin_use(model);
                    uses[model] += 1;
                }
                Operation::EndUse(model) if uses[model] > 0 => {
                    ledger.end_use(model);
                    uses[model] -= 1;
                }
                Operation::Pin(model, pin) => {
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
