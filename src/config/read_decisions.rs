//! Types and checks the keys about decision policies.

use std::{path::PathBuf, sync::Arc};

use super::{
    Model, Role,
    problem::{ProblemKind, closest},
    read::Reader,
};
use crate::{
    calibrator::read_calibrator,
    errors::with_causes,
    guard::{DecisionPolicy, DecisionSet, NotAdded, read_decision_policy},
};

/// Most policies that are evaluated beside the one that decides.
const MAX_SHADOWS: usize = 8;

impl Reader<'_> {
    /// `models` are those of the configuration, among which policies find the classifiers that they have thresholds of.
    pub(super) fn decisions(&mut self, models: &[Model]) -> DecisionSet {
        const FILES: &str = "decisions.files";
        const DEFAULT: &str = "decisions.default";
        const SHADOWS: &str = "decisions.shadows";
        const CALIBRATORS: &str = "decisions.calibrators";
        let mut set = DecisionSet::default();
        for path in self.optional::<Vec<PathBuf>>(CALIBRATORS).unwrap_or_default() {
            match read_calibrator(&path) {
                Err(error) => self.problem_of(
                    ProblemKind::File,
                    CALIBRATORS,
                    with_causes(&error),
                    "restore the file, or fit it again with `babelward validate calibrate`",
                ),
                Ok(calibrator) => set.add_calibrator(calibrator),
            }
        }
        for path in self.optional::<Vec<PathBuf>>(FILES).unwrap_or_default() {
            match read_decision_policy(&path) {
                Err(error) => self.problem_of(
                    ProblemKind::File,
                    FILES,
                    with_causes(&error),
                    "correct the file; see docs/decisions.md",
                ),
                Ok(policy) => {
                    let name = policy.full_name();
                    let is_served = |id: &str| {
                        let mut served = models.iter();
                        served.any(|model| model.id == id && model.roles.contains(&Role::Classifier))
                    };
                    for (id, _) in policy.classifiers().filter(|(id, _)| !is_served(id)) {
                        let reason = format!(
                            "{}: `{name}` has thresholds of the classifier `{id}`, and no model with the role classifier has this id",
                            path.display()
                        );
                        self.problem(
                            FILES,
                            reason,
                            "serve the classifier by this id, or take its thresholds out",
                        );
                    }
                    let (reason, fix) = match set.add(policy) {
                        Ok(()) => continue,
                        Err(NotAdded::SameVersion) => (
                            format!("`{name}` is in another file too"),
                            "give a changed policy the next version",
                        ),
                        Err(NotAdded::UnknownCalibrator { digest }) => (
                            format!(
                                "`{name}` uses the calibrator {digest}, which no file of {CALIBRATORS} is"
                            ),
                            "name the calibrator's file there, or correct the digest",
                        ),
                    };
                    self.problem(FILES, format!("{}: {reason}", path.display()), fix);
                }
            }
        }
        if let Some(name) = self.optional::<String>(DEFAULT)
            && let Some(policy) = self.decision_policy(DEFAULT, &set, &name)
        {
            set.set_default(policy);
        }
        let shadows = self.optional::<Vec<String>>(SHADOWS).unwrap_or_default();
        if shadows.len() > MAX_SHADOWS {
            let reason = format!("{} are more than {MAX_SHADOWS}", shadows.len());
            self.problem(SHADOWS, reason, "leave some out");
        }
        for name in shadows.iter().take(MAX_SHADOWS) {
            if let Some(policy) = self.decision_policy(SHADOWS, &set, name) {
                set.add_shadow(policy);
            }
        }
        set
    }

    /// The policy of a name; a name that no file has is a problem of this key.
    pub(super) fn decision_policy(
        &mut self,
        key: &str,
        set: &DecisionSet,
        name: &str,
    ) -> Option<Arc<DecisionPolicy>> {
        let found = set.find(name);
        if found.is_none() {
            let fix = match closest(name, set.iter().map(|policy| policy.name())) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "name a policy of decisions.files, as NAME or NAME@VERSION".to_owned(),
            };
            self.problem(key, format!("there is no decision policy `{name}`"), fix);
        }
        found.cloned()
    }
}
