//! How many verdicts of each label each guard has given since the server started.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use crate::proto;

/// Verdicts of all guards. There is an entry for each configured guard at the most.
#[derive(Debug, Default)]
pub(crate) struct VerdictCounts(Mutex<BTreeMap<String, proto::VerdictCounts>>);

impl VerdictCounts {
    /// Counts a verdict of the guard with this model id.
    pub(crate) fn add(&self, guard: &str, label: proto::Label) {
        // No code panics between two changes that belong together.
        let mut guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !guards.contains_key(guard) {
            let none = proto::VerdictCounts {
                guard: guard.to_owned(),
                ..proto::VerdictCounts::default()
            };
            guards.insert(guard.to_owned(), none);
        }
        let Some(counts) = guards.get_mut(guard) else {
            return;
        };
        let count = match label {
            proto::Label::Safe => &mut counts.safe_count,
            proto::Label::Unsafe => &mut counts.unsafe_count,
            proto::Label::Controversial => &mut counts.controversial_count,
            proto::Label::Undetermined | proto::Label::Unspecified => &mut counts.undetermined_count,
        };
        *count += 1;
    }

    /// The counts now, in the order of the guards' ids.
    pub(crate) fn now(&self) -> Vec<proto::VerdictCounts> {
        let guards = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guards.values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_label_of_each_guard_is_counted() {
        let counts = VerdictCounts::default();
        assert!(counts.now().is_empty());
        for label in [
            proto::Label::Safe,
            proto::Label::Safe,
            proto::Label::Unsafe,
            proto::Label::Controversial,
            proto::Label::Undetermined,
        ] {
            counts.add("ward", label);
        }
        counts.add("another", proto::Label::Unsafe);
        let another = proto::VerdictCounts {
            guard: "another".to_owned(),
            unsafe_count: 1,
            ..proto::VerdictCounts::default()
        };
        let ward = proto::VerdictCounts {
            guard: "ward".to_owned(),
            safe_count: 2,
            unsafe_count: 1,
            controversial_count: 1,
            undetermined_count: 1,
        };
        assert_eq!(counts.now(), [another, ward]);
    }
}
