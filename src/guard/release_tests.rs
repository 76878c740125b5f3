use proptest::prelude::*;

use super::*;
use crate::guard::growing::{Cadence, GrowingText, LookPlanner, tests as growing};

const CADENCE: Cadence = Cadence {
    tokens: 8,
    sentence_end: true,
};

/// What a stream says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Released(usize),
    Look(LookStage, usize, LookOutcome),
    End(Course),
}

/// A guard whose verdict on a text is a function of the text, as a real one's is: unsafe or undetermined, or failing, for about so
/// many of sixteen texts each.
#[derive(Debug, Clone, Copy)]
struct Script {
    seed: u64,
    unsafe_of_16: u64,
    failing_of_16: u64,
}

impl Script {
    fn outcome(self, release: &Release, stage: LookStage, text: &str) -> LookOutcome {
        let mix = |state: u64, byte: u8| (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let draw = text.bytes().fold(self.seed ^ 0xcbf2_9ce4_8422_2325, mix) >> 20;
        let (label, score) = match draw % 16 {
            at if at < self.failing_of_16 => match draw & 32 {
                0 => return LookOutcome::Failed,
                _ => (Label::Undetermined, Some(0.5)),
            },
            at if at < self.failing_of_16 + self.unsafe_of_16 => (Label::Unsafe, Some(0.9)),
            _ => (Label::Safe, Some(0.1)),
        };
        release.outcome(stage, label, score)
    }
}

/// Runs a stream: looks are made as soon as they are due, as by a guard that takes no time.
fn run(text: &str, cuts: &[usize], rules: ReleaseRules, script: Script) -> Vec<Said> {
    let (mut grown, mut planner, mut release) = (
        GrowingText::default(),
        LookPlanner::new(CADENCE),
        Release::new(rules),
    );
    let (mut said, mut from, mut watermark) = (Vec::new(), 0, 0);
    for (number, cut) in cuts.iter().enumerate() {
        grown.push(&text.as_bytes()[from..*cut]).unwrap();
        from = *cut;
        release.receive(grown.text().len());
        let mut note = |release: &Release, said: &mut Vec<Said>| {
            if release.released() > watermark {
                watermark = release.released();
                said.push(Said::Released(watermark));
            }
        };
        note(&release, &mut said);
        let is_last = number + 1 == cuts.len();
        let mut looks = Vec::new();
        while let Some(at) = planner.next(grown.text(), growing::count) {
            looks.push((LookStage::Interim, at));
        }
        if is_last {
            looks.push((LookStage::Final, text.len()));
        }
        for (stage, at) in looks {
            let outcome = script.outcome(&release, stage, &text[..at]);
            let course = release.look(stage, at, outcome);
            said.push(Said::Look(stage, at, outcome));
            note(&release, &mut said);
            if course != Course::Continue {
                said.push(Said::End(course));
                return said;
            }
        }
    }
    said
}

fn rules() -> impl Strategy<Value = ReleaseRules> {
    let mode = prop_oneof![
        3 => Just(GuardMode::HoldBack),
        1 => Just(GuardMode::Optimistic),
        1 => Just(GuardMode::Observe)
    ];
    let failure = prop_oneof![Just(FailureMode::Closed), Just(FailureMode::Open)];
    (mode, failure, 1_u32..4).prop_map(|(mode, failure_mode, confirmations)| ReleaseRules {
        mode,
        failure_mode,
        confirmations,
        ..ReleaseRules::default()
    })
}

fn script() -> impl Strategy<Value = Script> {
    (any::<u64>(), 0_u64..8, 0_u64..4).prop_map(|(seed, unsafe_of_16, failing_of_16)| Script {
        seed,
        unsafe_of_16,
        failing_of_16,
    })
}

fn looks(said: &[Said]) -> Vec<Said> {
    let is_look = |said: &&Said| !matches!(said, Said::Released(_));
    said.iter().filter(is_look).copied().collect()
}

proptest! {
    #[test]
    fn the_watermark_rises_lies_between_code_points_and_ends_with_the_only_end(
        (text, cuts) in growing::chunked(), rules in rules(), script in script()
    ) {
        let said = run(&text, &cuts, rules, script);
        let mut watermark = 0;
        for said in &said {
            if let Said::Released(to) = *said {
                prop_assert!(to > watermark && text.is_char_boundary(to));
                watermark = to;
            }
        }
        let ends = said.iter().filter(|said| matches!(said, Said::End(_))).count();
        prop_assert_eq!(ends, 1);
        let Some(Said::End(course)) = said.last() else { panic!("{said:?}") };
        if *course == Course::Complete {
            prop_assert_eq!(watermark, text.len());
        }
        if rules.mode == GuardMode::Observe {
            prop_assert_eq!(*course, Course::Complete);
        }
    }

    #[test]
    fn held_back_text_is_released_by_a_look_that_covers_it_and_passed(
        (text, cuts) in growing::chunked(), rules in rules(), script in script()
    ) {
        prop_assume!(rules.mode == GuardMode::HoldBack);
        let said = run(&text, &cuts, rules, script);
        let (mut passed, mut last) = (0, LookOutcome::Passed);
        for said in said {
            match said {
                Said::Look(_, at, outcome) => {
                    last = outcome;
                    if outcome == LookOutcome::Passed { passed = at; }
                }
                Said::Released(to) if rules.failure_mode == FailureMode::Closed => prop_assert_eq!(to, passed),
                // Failing open releases what a look has failed to judge, and never what one has found unsafe.
                Said::Released(_) => prop_assert_ne!(last, LookOutcome::Unsafe),
                Said::End(_) => {}
            }
        }
    }

    #[test]
    fn other_chunks_give_the_same_looks_and_the_same_end(
        (text, cuts) in growing::chunked(), rules in rules(), script in script()
    ) {
        let (chunked, whole) = (run(&text, &cuts, rules, script), run(&text, &[text.len()], rules, script));
        prop_assert_eq!(looks(&chunked), looks(&whole));
        let last_release = |said: &[Said]| {
            said.iter().rev().find(|said| matches!(said, Said::Released(_))).copied()
        };
        if rules.mode == GuardMode::HoldBack {
            prop_assert_eq!(last_release(&chunked), last_release(&whole));
        }
    }

    #[test]
    fn the_end_says_what_the_looks_found(
        (text, cuts) in growing::chunked(), rules in rules(), script in script()
    ) {
        prop_assume!(rules.mode != GuardMode::Observe);
        let said = run(&text, &cuts, rules, script);
        let looks: Vec<_> = said.iter().filter_map(|said| match said {
            Said::Look(stage, _, outcome) => Some((*stage, *outcome)),
            _ => None,
        }).collect();
        let in_a_row = looks.iter().rev()
            .filter(|(_, outcome)| !matches!(outcome, LookOutcome::Undetermined | LookOutcome::Failed))
            .take_while(|(_, outcome)| *outcome == LookOutcome::Unsafe).count();
        let (stage, outcome) = looks[looks.len() - 1];
        match said.last() {
            Some(Said::End(Course::Complete)) => {
                prop_assert_eq!(stage, LookStage::Final);
                prop_assert!(outcome == LookOutcome::Passed
                    || (rules.failure_mode == FailureMode::Open && outcome != LookOutcome::Unsafe));
            }
            Some(Said::End(Course::Policy)) => {
                prop_assert_eq!(outcome, LookOutcome::Unsafe);
                prop_assert!(stage == LookStage::Final || in_a_row >= rules.confirmations as usize);
            }
            Some(Said::End(Course::GuardFailed)) => {
                prop_assert!(matches!(outcome, LookOutcome::Undetermined | LookOutcome::Failed));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn rules_of(mode: GuardMode, failure_mode: FailureMode) -> ReleaseRules {
    ReleaseRules {
        mode,
        failure_mode,
        ..ReleaseRules::default()
    }
}

#[test]
fn parts_need_confirmation_and_a_look_that_passes_forgets() {
    let mut release = Release::new(ReleaseRules::default());
    release.receive(100);
    assert_eq!(
        release.look(LookStage::Interim, 10, LookOutcome::Unsafe),
        Course::Continue
    );
    assert_eq!(release.released(), 0);
    assert_eq!(
        release.look(LookStage::Interim, 20, LookOutcome::Passed),
        Course::Continue
    );
    assert_eq!(release.released(), 20);
    // What is undetermined neither confirms nor forgets.
    for (at, outcome) in [(30, LookOutcome::Unsafe), (40, LookOutcome::Undetermined)] {
        assert_eq!(release.look(LookStage::Interim, at, outcome), Course::Continue);
    }
    assert_eq!(
        release.look(LookStage::Interim, 50, LookOutcome::Unsafe),
        Course::Policy
    );
    assert_eq!((release.released(), release.judged()), (20, 50));
}

#[test]
fn the_complete_text_is_judged_by_its_label_and_parts_by_their_threshold() {
    let release = Release::new(ReleaseRules {
        interim_threshold: 0.8,
        ..ReleaseRules::default()
    });
    let interim = |label, score| release.outcome(LookStage::Interim, label, score);
    assert_eq!(interim(Label::Unsafe, Some(0.79)), LookOutcome::Passed);
    assert_eq!(interim(Label::Safe, Some(0.8)), LookOutcome::Unsafe);
    assert_eq!(interim(Label::Safe, None), LookOutcome::Undetermined);
    assert_eq!(interim(Label::Undetermined, Some(0.1)), LookOutcome::Undetermined);
    let complete = |label, score| release.outcome(LookStage::Final, label, score);
    assert_eq!(complete(Label::Unsafe, Some(0.1)), LookOutcome::Unsafe);
    assert_eq!(complete(Label::Safe, None), LookOutcome::Passed);
    assert_eq!(
        complete(Label::Undetermined, Some(0.1)),
        LookOutcome::Undetermined
    );
}

#[test]
fn failing_is_closed_unless_asked_and_never_opens_what_was_unsafe() {
    for mode in [GuardMode::HoldBack, GuardMode::Optimistic] {
        let mut closed = Release::new(rules_of(mode, FailureMode::Closed));
        closed.receive(10);
        assert_eq!(
            closed.look(LookStage::Interim, 5, LookOutcome::Failed),
            Course::GuardFailed
        );
        assert!(!closed.is_unguarded());
    }
    let mut open = Release::new(rules_of(GuardMode::HoldBack, FailureMode::Open));
    open.receive(30);
    assert_eq!(
        open.look(LookStage::Interim, 5, LookOutcome::Failed),
        Course::Continue
    );
    assert_eq!(
        (open.released(), open.covered(), open.is_unguarded()),
        (5, 0, true)
    );
    open.look(LookStage::Interim, 10, LookOutcome::Unsafe);
    assert_eq!(
        open.look(LookStage::Interim, 20, LookOutcome::Failed),
        Course::Continue
    );
    assert_eq!(open.released(), 5);
    assert_eq!(
        open.look(LookStage::Final, 30, LookOutcome::Failed),
        Course::GuardFailed
    );
    assert_eq!(open.released(), 5);
}

#[test]
fn only_optimistic_text_is_retracted_to_what_a_look_covers() {
    let mut optimistic = Release::new(rules_of(GuardMode::Optimistic, FailureMode::Closed));
    optimistic.receive(30);
    assert_eq!((optimistic.released(), optimistic.retracted_to()), (30, Some(0)));
    optimistic.look(LookStage::Interim, 20, LookOutcome::Passed);
    assert_eq!((optimistic.released(), optimistic.retracted_to()), (30, Some(20)));
    optimistic.look(LookStage::Final, 30, LookOutcome::Passed);
    assert_eq!(optimistic.retracted_to(), None);
    for mode in [GuardMode::HoldBack, GuardMode::Observe] {
        let mut release = Release::new(rules_of(mode, FailureMode::Closed));
        release.receive(30);
        assert_eq!(release.retracted_to(), None);
    }
}
