//! Steps of several models under way on a device that computes by itself.

use std::{sync::mpsc::channel, time::Duration};

use super::{
    ModelIndex, SequenceError, Stage, SubmitError, TenantWeights,
    asynchronous_device::{
        Asked::{DroppedUnderWay, Submit, Wait},
        TurnByTurn,
    },
    random_schedule_tests::{Client, Dice, Outcomes, Scenario, random_limits},
    scheduler::Budget,
    scripted::ScriptedModel,
    simulated_engine::{COSTS, ClientRequest, ClosedLoop, HOST, SimulatedEngine, generation},
    step_time::{StepCosts, StepShape},
    testing::{STEP, greedy, request},
    thread_tests::{FAULT, LIMITS, PANIC, counting},
};
use crate::{
    backend::{Execution, ModelLimits, StepError},
    engine::admission::blocks_needed,
};

/// Models that count upwards, on a device that computes by itself.
fn counting_models(models: usize, sequences: usize) -> TurnByTurn {
    let models = (0..models).map(|_| counting()).collect();
    TurnByTurn::new(models, Budget::new(sequences, 32), Execution::Asynchronous)
}

#[test]
fn the_next_models_step_is_submitted_before_the_first_is_waited_for() {
    let mut engine = counting_models(2, 4);
    let recorders = [0, 1].map(|model| engine.asks(model, &[3, 4], 3).0);
    engine.turn();
    engine.run_until_idle();
    for recorder in recorders {
        assert_eq!(recorder.tokens(), [5, 6, 7]);
    }
    let all = [
        Submit(0),
        Submit(1),
        Wait(0),
        Submit(0),
        Wait(1),
        Submit(1),
        Wait(0),
        Submit(0),
        Wait(1),
        Submit(1),
        Wait(0),
        Wait(1),
    ];
    assert_eq!(engine.device.asked(), all);
}

#[test]
fn two_of_three_models_compute_at_a_time_and_all_take_turns() {
    let mut engine = counting_models(3, 4);
    let recorders = [0, 1, 2].map(|model| engine.asks(model, &[3, 4], 5).0);
    engine.turn();
    engine.run_until_idle();
    assert!(recorders.iter().all(|recorder| recorder.tokens().len() == 5));
    let (mut submitted, mut under_way, mut most) = (Vec::new(), 0, 0);
    for asked in engine.device.asked() {
        match asked {
            Submit(model) => {
                submitted.push(model);
                under_way += 1;
            }
            Wait(_) => under_way -= 1,
            DroppedUnderWay(_) => panic!("{asked:?}"),
        }
        most = most.max(under_way);
    }
    assert_eq!((submitted, most), ([0, 1, 2].repeat(5), 2));
}

#[test]
fn where_the_submitting_thread_computes_one_step_is_under_way_at_a_time() {
    let models = vec![counting(), counting()];
    let mut engine = TurnByTurn::new(models, Budget::new(4, 32), Execution::Synchronous);
    let recorders = [0, 1].map(|model| engine.asks(model, &[3, 4], 2).0);
    engine.turn();
    assert_eq!(
        engine.device.asked(),
        [Submit(0), Wait(0)],
        "a turn is a whole step"
    );
    engine.run_until_idle();
    assert!(recorders.iter().all(|recorder| recorder.tokens() == [5, 6]));
    assert_eq!(engine.device.asked()[2..4], [Submit(1), Wait(1)]);
}

#[test]
fn sequences_arrive_while_a_step_of_their_model_is_under_way() {
    let mut engine = counting_models(1, 4);
    let (first, _) = engine.asks(0, &[1, 2], 2);
    engine.turn();
    assert_eq!(engine.device.asked(), [Submit(0)]);
    let (second, _) = engine.asks(0, &[7, 8], 1);
    // The second is accepted before the step is waited for, and takes part in the next one.
    engine.turn();
    assert_eq!(engine.device.asked(), [Submit(0), Wait(0)]);
    assert_eq!((first.tokens().len(), second.events().len()), (1, 0));
    engine.turn();
    engine.turn();
    assert_eq!(engine.device.asked().len(), 4);
    assert_eq!((first.tokens(), second.tokens()), (vec![3, 4], vec![9]));
    assert_eq!(first.summary().unwrap().max_batch_size, 2);
}

/// What ends a sequence while its step is under way takes its blocks only after the device has computed the step.
#[test]
fn blocks_of_a_step_under_way_are_free_only_after_it() {
    for late in [false, true] {
        let mut engine = counting_models(2, 4);
        let (mut asked, recorder) = request(&[1; 9], greedy(20));
        asked.deadline = late.then(|| engine.now() + STEP);
        let cancel = asked.cancel.clone();
        engine.submit(asked).unwrap();
        engine.turn();
        assert_eq!(engine.free_blocks(0), LIMITS.num_blocks - 3);
        if late {
            engine.advance(2 * STEP);
        } else {
            cancel.cancel();
        }
        let (other, _) = engine.asks(1, &[5], 1);
        engine.turn();
        assert_eq!(engine.device.asked(), [Submit(0), Submit(1)]);
        assert_eq!(engine.free_blocks(0), LIMITS.num_blocks - 3);
        assert_eq!(recorder.terminal_events(), 0);
        engine.run_until_idle();
        let error = if late {
            SequenceError::DeadlineExceeded { stage: Stage::Decode }
        } else {
            SequenceError::Cancelled
        };
        assert_eq!(recorder.tokens(), [2], "the step that was under way");
        assert_eq!(recorder.error(), Some(error));
        assert_eq!(engine.free_blocks(0), LIMITS.num_blocks);
        assert_eq!(other.tokens(), [6]);
    }
}

#[test]
fn a_model_is_removed_after_the_step_that_is_under_way() {
    let mut engine = counting_models(2, 4);
    let (gone, _) = engine.asks(0, &[1, 2], 9);
    let (stays, _) = engine.asks(1, &[5, 6], 3);
    engine.turn();
    engine.turn();
    assert_eq!(engine.device.asked(), [Submit(0), Submit(1)]);
    let (sender, receiver) = channel();
    engine.inbox.remove(0, sender);
    engine.turn();
    drop(receiver.try_recv().unwrap());
    assert_eq!(engine.device.asked()[2..4], [Wait(0), Wait(1)]);
    assert_eq!(gone.tokens(), [3]);
    assert_eq!(gone.error(), Some(SequenceError::ModelRemoved));
    engine.run_until_idle();
    assert_eq!(stays.tokens(), [7, 8, 9]);
    assert!(!engine.device.asked().contains(&DroppedUnderWay(0)));
}

#[test]
fn a_drain_answers_what_is_under_way_and_a_shutdown_waits_for_it() {
    let mut engine = counting_models(2, 4);
    let recorders = [0, 1].map(|model| engine.asks(model, &[1, 2], 2).0);
    engine.turn();
    engine.turn();
    engine.inbox.drain();
    assert_eq!(
        engine.submit(request(&[1], greedy(1)).0),
        Err(SubmitError::Draining)
    );
    assert!(!engine.inbox.wait_idle(Duration::ZERO));
    engine.run_until_idle();
    assert!(recorders.iter().all(|recorder| recorder.tokens() == [3, 4]));

    let mut engine = counting_models(2, 4);
    let recorders = [0, 1].map(|model| engine.asks(model, &[1, 2], 9).0);
    engine.turn();
    engine.turn();
    engine.inbox.shutdown();
    assert!(!engine.turn(), "the thread ends");
    let device = engine.device.clone();
    drop(engine);
    for recorder in recorders {
        assert_eq!(recorder.tokens(), [3], "the step that was under way");
        assert_eq!(recorder.error(), Some(SequenceError::ShuttingDown));
    }
    assert_eq!(device.asked(), [Submit(0), Submit(1), Wait(0), Wait(1)]);
}

#[test]
fn a_fault_fails_its_step_only_whether_it_is_submitted_or_waited_for() {
    for at in [Submit(1), Wait(1)] {
        let mut engine = counting_models(2, 1);
        engine
            .device
            .fail(at, StepError::Device("out of order".to_owned()));
        let (sound, _) = engine.asks(0, &[1, 2], 3);
        let (faulty, _) = engine.asks(1, &[1, 2], 3);
        // There is one running slot, so that it is in no step yet.
        let (waiting, _) = engine.asks(1, &[5, 6], 3);
        engine.turn();
        engine.run_until_idle();
        assert_eq!(sound.tokens(), [3, 4, 5]);
        let error = SequenceError::ModelFailed("device fault: out of order".to_owned());
        assert_eq!((faulty.tokens(), faulty.error()), (vec![], Some(error)));
        assert_eq!(waiting.tokens(), [7, 8, 9]);
        assert!(engine.inbox.loss().is_none());
        for model in [0, 1] {
            assert_eq!(engine.free_blocks(model), LIMITS.num_blocks);
        }
    }
}

#[test]
fn a_panic_in_the_step_of_one_model_leaves_the_step_of_another_under_way() {
    let mut engine = counting_models(2, 4);
    let policy = [4; 8];
    let (mut pin, _) = request(&policy, greedy(0));
    pin.model = ModelIndex(1);
    pin.output.pin_prompt = true;
    engine.submit(pin).unwrap();
    engine.turn();
    engine.run_until_idle();
    let before = engine.device.asked().len();
    let (bad, _) = engine.asks(0, &[PANIC, 1], 3);
    let (neighbour, _) = engine.asks(1, &[5, 6], 3);
    engine.turn();
    engine.turn();
    engine.turn();
    assert_eq!(
        engine.device.asked()[before..],
        [Submit(0), Submit(1), Wait(0)],
        "the other step stays under way"
    );
    assert_eq!(bad.error(), Some(SequenceError::ModelPanicked));
    assert!(engine.inbox.is_stopped(0) && !engine.inbox.is_stopped(1));
    engine.run_until_idle();
    assert_eq!(neighbour.tokens(), [7, 8, 9]);
    let (next, _) = engine.asks(1, &[&policy[..], &[7]].concat(), 2);
    engine.turn();
    engine.run_until_idle();
    assert_eq!(next.tokens(), [8, 9]);
    assert_eq!(
        next.summary().unwrap().cached_tokens,
        8,
        "the prefix is still pinned"
    );
}

/// A model's own error in the middle of a step is no loss of the device, although other steps are under way.
#[test]
fn an_engine_whose_steps_fail_again_and_again_goes_on() {
    let mut engine = counting_models(2, 2);
    for _ in 0..5 {
        engine.device.fail(Wait(0), StepError::Device("again".to_owned()));
        let (failed, _) = engine.asks(0, &[1, FAULT], 3);
        let (sound, _) = engine.asks(1, &[1, 2], 1);
        engine.turn();
        engine.run_until_idle();
        assert!(matches!(failed.error(), Some(SequenceError::ModelFailed(_))));
        assert_eq!(sound.tokens(), [3]);
    }
}

/// One random schedule on up to three models.
fn simulate(seed: u64, execution: Execution) -> (Outcomes, usize) {
    let mut dice = Dice(seed << 32);
    let budget = Budget::new(1 + dice.roll(8), 1 + dice.roll(24));
    let all: Vec<ModelLimits> = (0..1 + dice.roll(3)).map(|_| random_limits(&mut dice)).collect();
    let models = all.iter().cloned().map(ScriptedModel::hashing).collect();
    let mut engine = TurnByTurn::new(models, budget, execution);
    let mut clients: Vec<(usize, Client)> = Vec::new();
    let (mut outcomes, mut overlaps) = (Outcomes::default(), 0);
    let mut free_since_submission = vec![None; all.len()];
    for _ in 0..300 {
        let mut arrived = false;
        while dice.chance(30) && clients.len() < 60 {
            let model = dice.roll(all.len());
            let scenario = Scenario::random(&mut dice, &all[model]);
            let (mut request, recorder) = scenario.request();
            request.model = ModelIndex(model);
            request.deadline = dice
                .chance(10)
                .then(|| engine.now() + STEP * dice.roll(60) as u32);
            let listens_for = if dice.chance(10) {
                1 + dice.roll(8)
            } else {
                usize::MAX
            };
            request.events = recorder.sink(listens_for);
            let needed = blocks_needed(&request, &all[model]);
            let (cancel, deadline) = (request.cancel.clone(), request.deadline);
            if engine.submit(request).is_err() {
                outcomes.refused += 1;
                continue;
            }
            arrived = true;
            let client = Client {
                scenario,
                recorder,
                cancel,
                deadline,
                listens_for,
                needed,
            };
            clients.push((model, client));
        }
        if !clients.is_empty() && dice.chance(10) {
            let chosen = dice.roll(clients.len());
            clients[chosen].1.cancel.cancel();
        }
        // Without work, the thread would wait for arrivals.
        if arrived || engine.turns.has_work() {
            engine.turn();
        }
        let under_way: Vec<bool> = (0..all.len())
            .map(|model| engine.turns.engine(model).is_under_way())
            .collect();
        overlaps += usize::from(under_way.iter().filter(|under_way| **under_way).count() > 1);
        for (model, under_way) in under_way.into_iter().enumerate() {
            let free = engine.free_blocks(model);
            let known = free_since_submission[model].filter(|_| under_way);
            assert!(
                known.is_none_or(|known| known == free),
                "no block changes hands while the device computes"
            );
            free_since_submission[model] = under_way.then_some(free);
        }
        engine.advance(STEP);
    }
    engine.run_until_idle();
    for (model, limits) in all.iter().enumerate() {
        let kv = engine.turns.engine(model).kv_counts();
        assert_eq!(kv.available + kv.pinned, limits.num_blocks, "blocks have leaked");
    }
    for (model, client) in &clients {
        match client.recorder.error() {
            Some(SequenceError::DeadlineUnattainable(_)) => outcomes.refused += 1,
            _ => outcomes.count(client, &all[*model]),
        }
    }
    (outcomes, overlaps)
}

#[test]
fn random_schedules_of_several_models_give_each_sequence_what_it_gets_alone() {
    for execution in [Execution::Asynchronous, Execution::Synchronous] {
        let (mut finished, mut cancelled, mut cached, mut overlaps) = (0, 0, 0, 0);
        for seed in 0..120 {
            let one = std::panic::catch_unwind(|| simulate(seed, execution));
            let (one, overlapping) = one.unwrap_or_else(|_| panic!("schedule {seed} went wrong"));
            finished += one.finished;
            cancelled += one.cancelled;
            cached += one.cached;
            overlaps += overlapping;
        }
        // The schedules must have met what they are about.
        assert!(
            finished > 1500 && cancelled > 50 && cached > 100,
            "{finished} {cancelled} {cached}"
        );
        match execution {
            Execution::Asynchronous => assert!(overlaps > 1000, "{overlaps}"),
            Execution::Synchronous => assert_eq!(overlaps, 0),
        }
    }
}

/// Keeps all models busy for a while, and returns the engine.
fn saturated(costs: &[[f64; 4]]) -> SimulatedEngine {
    let mut engine = SimulatedEngine::asynchronous(costs, Budget::new(16, 256), &TenantWeights::default());
    let requests = (0..8 * costs.len()).map(|i| ClientRequest {
        model: i % costs.len(),
        ..generation(20 + 37 * (i % 11), 30 + 3 * (i % 7))
    });
    let mut load = ClosedLoop::new(requests.collect());
    for _ in 0..4000 {
        load.resubmit(&mut engine);
        engine.step();
    }
    engine
}

/// The host's time is hidden when there are two models, and not when there is one.
#[test]
fn the_device_does_not_wait_for_the_host_while_two_models_have_work() {
    let idle = |costs: &[[f64; 4]]| {
        let engine = saturated(costs);
        1.0 - engine.busy() / engine.now()
    };
    let (alone, together) = (idle(&[COSTS]), idle(&[COSTS, COSTS]));
    assert!(alone > 0.02, "{alone}");
    assert!(together < 0.001, "{together}");
}

/// Steps that overlap take their own time in the forecast, and not that of the steps which they wait for.
#[test]
fn costs_are_learned_although_steps_overlap() {
    let costs = [COSTS, [20e-3, 2e-3, 3e-3, 1e-3]];
    let engine = saturated(&costs);
    for (model, planted) in costs.into_iter().enumerate() {
        let found = engine.turns.engine(model).costs();
        let decodes = (0..8).fold(StepShape::default(), |all, _| {
            all.plus(StepShape::of(1, 150, true))
        });
        for shape in [decodes, decodes.plus(StepShape::of(40, 100, false))] {
            let (found, planted) = (found.step(shape), StepCosts::planted(planted).step(shape));
            let tolerance = 0.05 * planted + HOST.as_secs_f64();
            assert!(
                (found - planted).abs() < tolerance,
                "{shape:?}: {found} against {planted}"
            );
        }
    }
}

#[test]
fn simulated_schedules_are_the_same_each_time() {
    let end = || {
        let engine = saturated(&[COSTS, [20e-3, 2e-3, 3e-3, 1e-3]]);
        (engine.now(), engine.busy())
    };
    assert_eq!(end(), end());
}
