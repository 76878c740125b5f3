//! One conversation in several languages, or other renderings: what their verdicts say together.
//!
//! A guard judges the same words differently in different languages (M-ALERT, arXiv 2412.15035). Where a text matters, it can
//! be judged in more than one of them.

use super::{decision_text::Action, question::Label};

/// When renderings together are unsafe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenderingRule {
    /// When any of them is.
    Any,
    /// When at least half of them are.
    Majority,
    /// When all of them are.
    All,
}

impl RenderingRule {
    /// Whether renderings together are unsafe when so many of them are, or strict when so many of them are.
    fn is_met(self, count: usize, renderings: usize) -> bool {
        match self {
            Self::Any => count > 0,
            Self::Majority => 2 * count >= renderings,
            Self::All => count == renderings,
        }
    }

    /// What these actions, of which there is at least one, come to: the strictest that enough of them ask for or exceed.
    pub fn joint_action(self, actions: &[Action]) -> Action {
        let is_met = |least: Action| {
            let count = actions.iter().filter(|&&action| action >= least).count();
            self.is_met(count, actions.len())
        };
        [Action::Block, Action::Flag]
            .into_iter()
            .find(|&least| is_met(least))
            .unwrap_or(Action::Allow)
    }
}

/// What the verdicts of some renderings say together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreement {
    /// Safe or unsafe, or undetermined where those without such a verdict could turn it.
    pub label: Label,
    /// The renderings, by their index, whose own label is another one.
    pub dissent: Vec<usize>,
}

/// Joins the labels of the renderings, of which there is at least one. `None` is a rendering that could not be judged; like one
/// that is undetermined it could be either. What is controversial counts as unsafe.
pub fn agree(rule: RenderingRule, labels: &[Option<Label>]) -> Agreement {
    let side = |label: &Option<Label>| match label {
        Some(Label::Safe) => Some(Label::Safe),
        Some(Label::Unsafe | Label::Controversial) => Some(Label::Unsafe),
        Some(Label::Undetermined) | None => None,
    };
    let sides: Vec<_> = labels.iter().map(side).collect();
    let count = |side: Option<Label>| sides.iter().filter(|&&other| other == side).count();
    let (unsafe_, open) = (count(Some(Label::Unsafe)), count(None));
    let is_unsafe = |unsafe_: usize| rule.is_met(unsafe_, labels.len());
    let label = match (is_unsafe(unsafe_), is_unsafe(unsafe_ + open)) {
        (true, _) => Label::Unsafe,
        (false, true) => Label::Undetermined,
        (false, false) => Label::Safe,
    };
    let dissent = match label {
        Label::Undetermined => Vec::new(),
        _ => (0..sides.len())
            .filter(|&index| sides[index] != Some(label))
            .collect(),
    };
    Agreement { label, dissent }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAFE: Option<Label> = Some(Label::Safe);
    const UNSAFE: Option<Label> = Some(Label::Unsafe);
    const BETWEEN: Option<Label> = Some(Label::Controversial);
    const UNDETERMINED: Option<Label> = Some(Label::Undetermined);

    #[test]
    fn each_rule_has_its_own_bar() {
        use RenderingRule::{All, Any, Majority};
        for (labels, any, majority, all) in [
            (vec![SAFE, SAFE, SAFE], Label::Safe, Label::Safe, Label::Safe),
            (vec![UNSAFE, SAFE, SAFE], Label::Unsafe, Label::Safe, Label::Safe),
            (
                vec![BETWEEN, SAFE, UNSAFE],
                Label::Unsafe,
                Label::Unsafe,
                Label::Safe,
            ),
            (vec![UNSAFE, SAFE], Label::Unsafe, Label::Unsafe, Label::Safe),
            (vec![UNSAFE, BETWEEN], Label::Unsafe, Label::Unsafe, Label::Unsafe),
            (
                vec![SAFE, None],
                Label::Undetermined,
                Label::Undetermined,
                Label::Safe,
            ),
            (
                vec![UNSAFE, UNDETERMINED],
                Label::Unsafe,
                Label::Unsafe,
                Label::Undetermined,
            ),
            (
                vec![SAFE, SAFE, SAFE, None],
                Label::Undetermined,
                Label::Safe,
                Label::Safe,
            ),
        ] {
            assert_eq!(agree(Any, &labels).label, any, "{labels:?}");
            assert_eq!(agree(Majority, &labels).label, majority, "{labels:?}");
            assert_eq!(agree(All, &labels).label, all, "{labels:?}");
        }
    }

    #[test]
    fn actions_are_joined_by_the_same_rule() {
        use Action::{Allow, Block, Flag};
        for (actions, any, majority, all) in [
            (vec![Allow, Allow, Allow], Allow, Allow, Allow),
            (vec![Block, Allow, Allow], Block, Allow, Allow),
            (vec![Block, Flag, Allow], Block, Flag, Allow),
            (vec![Block, Flag], Block, Block, Flag),
        ] {
            assert_eq!(RenderingRule::Any.joint_action(&actions), any, "{actions:?}");
            assert_eq!(
                RenderingRule::Majority.joint_action(&actions),
                majority,
                "{actions:?}"
            );
            assert_eq!(RenderingRule::All.joint_action(&actions), all, "{actions:?}");
        }
    }

    #[test]
    fn dissent_is_named() {
        let labels = [SAFE, UNSAFE, None, BETWEEN];
        assert_eq!(agree(RenderingRule::Any, &labels).dissent, [0, 2]);
        assert_eq!(agree(RenderingRule::All, &labels).dissent, [1, 2, 3]);
        assert!(agree(RenderingRule::Any, &[SAFE, None]).dissent.is_empty());
    }

    /// Whatever the open ones turn out to be, a joint label that is not undetermined stays what it is.
    #[test]
    fn a_label_holds_whatever_the_open_ones_are() {
        let choices = [SAFE, UNSAFE, BETWEEN, UNDETERMINED, None];
        for rule in [RenderingRule::Any, RenderingRule::Majority, RenderingRule::All] {
            for number in 0..5_usize.pow(4) {
                let labels: Vec<_> = (0..4)
                    .map(|place| choices[number / 5_usize.pow(place) % 5])
                    .collect();
                let label = agree(rule, &labels).label;
                let filled = |with: Label| {
                    let known = |label: &Option<Label>| match label {
                        None | Some(Label::Undetermined) => Some(with),
                        known => *known,
                    };
                    agree(rule, &labels.iter().map(known).collect::<Vec<_>>()).label
                };
                let ends = [filled(Label::Safe), filled(Label::Unsafe)];
                match label {
                    Label::Undetermined => assert_ne!(ends[0], ends[1], "{rule:?} {labels:?}"),
                    label => assert_eq!(ends, [label; 2], "{rule:?} {labels:?}"),
                }
            }
        }
    }
}
