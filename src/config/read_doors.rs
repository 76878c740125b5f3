//! Types and checks the keys about the HTTP port's protocols.

use super::{DoorSettings, Model, Role, read::Reader, value::Ratio};
use crate::guard::DecisionSet;

impl Reader<'_> {
    pub(super) fn doors(&mut self, models: &[Model], decisions: &DecisionSet) -> DoorSettings {
        const GUARD: &str = "doors.guard";
        const SCORE: &str = "doors.unsafe_score";
        const POLICY: &str = "doors.decision_policy";
        let guard = match self.is_set(GUARD) {
            true => self.default_model(GUARD, Role::Guard, models),
            false => only_guard(models),
        };
        let unsafe_score = self.optional::<Ratio>(SCORE).map(|Ratio(score)| score);
        let decision_policy = self.optional::<String>(POLICY);
        if let Some(name) = &decision_policy {
            self.decision_policy(POLICY, decisions, name);
        }
        DoorSettings {
            guard,
            guards_answers: self.get("doors.guard_answers"),
            on_failure: self.get("doors.on_failure"),
            unsafe_score,
            decision_policy,
            page: self.get("doors.page"),
        }
    }
}

/// The guard, if there is one and no other.
fn only_guard(models: &[Model]) -> Option<String> {
    let mut guards = models.iter().filter(|model| model.roles.contains(&Role::Guard));
    guards
        .next()
        .filter(|_| guards.next().is_none())
        .map(|guard| guard.id.clone())
}
