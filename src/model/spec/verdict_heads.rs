//! Heads that judge a conversation at any of its tokens, in place of an output layer: those of Qwen3Guard-Stream.

use std::ops::Range;

/// The heads of a model that judges at each token, by what they judge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerdictHeads {
    /// Width of the rows that each side's two heads read, which are made of the last layer's.
    pub(crate) inner: usize,
    /// The heads for what the assistant says.
    pub answer: HeadLabels,
    /// The heads for what the user says.
    pub request: HeadLabels,
}

/// The labels of one side's two heads, each by its index among the head's logits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeadLabels {
    /// Those of the head that says how harmful the text is.
    pub risks: Vec<RiskLevel>,
    /// Those of the head that says in which way; at least two.
    pub categories: Vec<String>,
}

/// How harmful a text is to a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RiskLevel {
    /// `Safe`.
    Safe,
    /// `Unsafe`.
    Unsafe,
    /// `Controversial`: neither of the two.
    Controversial,
}

/// Which of the heads are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HeadSide {
    /// Those for what the assistant says.
    Answer,
    /// Those for what the user says.
    Request,
}

impl HeadSide {
    /// Both sides, in the order of their logits.
    pub(crate) const ALL: [Self; 2] = [Self::Answer, Self::Request];
}

impl HeadLabels {
    /// Logits of both heads.
    fn logits(&self) -> usize {
        self.risks.len() + self.categories.len()
    }
}

impl VerdictHeads {
    /// The labels of a side's heads.
    pub fn side(&self, side: HeadSide) -> &HeadLabels {
        match side {
            HeadSide::Answer => &self.answer,
            HeadSide::Request => &self.request,
        }
    }

    /// Where a side's logits stand in the row of all: those of its risks, and then those of its categories. The answer's side comes first.
    pub fn logits(&self, side: HeadSide) -> Range<usize> {
        let answer = self.answer.logits();
        match side {
            HeadSide::Answer => 0..answer,
            HeadSide::Request => answer..answer + self.request.logits(),
        }
    }
}
