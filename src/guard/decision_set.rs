//! The decision policies of a configuration, by name and version.

use std::{collections::BTreeMap, sync::Arc};

use super::decision::DecisionPolicy;
use crate::calibrator::Calibrator;

/// All versions of all decision policies that a server has, with the calibrators that they use, and which of them it follows
/// unasked.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DecisionSet {
    policies: BTreeMap<(String, u32), Arc<DecisionPolicy>>,
    /// By their digests.
    calibrators: BTreeMap<String, Arc<Calibrator>>,
    /// For requests that name none.
    default: Option<Arc<DecisionPolicy>>,
    /// Evaluated beside the one that decides, and only told.
    shadows: Vec<Arc<DecisionPolicy>>,
}

/// Why a policy was not added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NotAdded {
    /// The set has its name and version already: what a version says never changes.
    SameVersion,
    /// The set does not have its calibrator.
    UnknownCalibrator {
        /// The digest that the policy names.
        digest: String,
    },
}

impl DecisionSet {
    /// Adds a calibrator, which policies may name from now on.
    pub fn add_calibrator(&mut self, calibrator: Calibrator) {
        self.calibrators
            .insert(calibrator.digest().to_owned(), Arc::new(calibrator));
    }

    /// Adds a policy.
    ///
    /// # Errors
    /// [`NotAdded`].
    pub fn add(&mut self, policy: DecisionPolicy) -> Result<(), NotAdded> {
        let key = (policy.name().to_owned(), policy.version());
        if self.policies.contains_key(&key) {
            return Err(NotAdded::SameVersion);
        }
        if let Some(digest) = policy.calibrator()
            && !self.calibrators.contains_key(digest)
        {
            return Err(NotAdded::UnknownCalibrator {
                digest: digest.to_owned(),
            });
        }
        self.policies.insert(key, Arc::new(policy));
        Ok(())
    }

    /// The policy of a name: `NAME@VERSION`, or `NAME` for its highest version.
    pub fn find(&self, name: &str) -> Option<&Arc<DecisionPolicy>> {
        match name.split_once('@') {
            Some((name, version)) => self.policies.get(&(name.to_owned(), version.parse().ok()?)),
            None => {
                let versions = self
                    .policies
                    .range((name.to_owned(), 0)..=(name.to_owned(), u32::MAX));
                versions.map(|(_, policy)| policy).next_back()
            }
        }
    }

    /// The calibrator that a policy of the set uses.
    pub fn calibrator_of(&self, policy: &DecisionPolicy) -> Option<&Arc<Calibrator>> {
        self.calibrators.get(policy.calibrator()?)
    }

    /// All policies, in the order of names and versions.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<DecisionPolicy>> {
        self.policies.values()
    }

    /// The policy for requests that name none.
    pub fn default_policy(&self) -> Option<&Arc<DecisionPolicy>> {
        self.default.as_ref()
    }

    /// The policies that are evaluated beside the one that decides.
    pub fn shadows(&self) -> &[Arc<DecisionPolicy>] {
        &self.shadows
    }

    /// Requests that name no policy follow this one from now on.
    pub fn set_default(&mut self, policy: Arc<DecisionPolicy>) {
        self.default = Some(policy);
    }

    /// This one is evaluated beside the others from now on.
    pub fn add_shadow(&mut self, policy: Arc<DecisionPolicy>) {
        self.shadows.push(policy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::{DecisionPolicyText, Thresholds};

    fn policy(name: &str, version: u32) -> DecisionPolicy {
        let text = DecisionPolicyText {
            thresholds: Thresholds {
                flag: None,
                block: Some(0.5),
            },
            ..toml::from_str(&format!("name = '{name}'\nversion = {version}")).unwrap()
        };
        DecisionPolicy::new(text).unwrap()
    }

    #[test]
    fn a_name_finds_its_highest_version_and_a_version_itself() {
        let mut set = DecisionSet::default();
        for (name, version) in [("chat", 9), ("chat", 10), ("chat-eu", 11), ("ch", 1)] {
            set.add(policy(name, version)).unwrap();
        }
        let found = |name: &str| set.find(name).map(|policy| policy.full_name());
        assert_eq!(found("chat").as_deref(), Some("chat@10"));
        assert_eq!(found("chat@9").as_deref(), Some("chat@9"));
        for missing in ["chat@11", "cha", "chat@", "chat@x", "", "@"] {
            assert_eq!(found(missing), None, "{missing}");
        }
        assert_eq!(set.add(policy("chat", 9)), Err(NotAdded::SameVersion));
        assert_eq!(set.iter().count(), 4);
    }
}
