//! The deltas of an answer whose guard holds text back, until a watermark passes them.

use std::collections::VecDeque;

use super::pieces::Delta;
use crate::proto;

/// Deltas in their order, of which none has been sent as a whole.
#[derive(Default)]
pub(super) struct Withheld(VecDeque<Delta>);

impl Withheld {
    /// Keeps the next delta.
    pub(super) fn push(&mut self, delta: Delta) {
        self.0.push_back(delta);
    }

    /// Takes what lies before a watermark, in bytes of the answer and at the end of a code point. A delta that reaches beyond it is
    /// split: its tokens stay behind with the rest of their text, because they would tell it.
    pub(super) fn take_to(&mut self, watermark: usize) -> Vec<proto::GenerateDelta> {
        let mut taken = Vec::new();
        while let Some(Delta { event, reach }) = self.0.front_mut() {
            let begin = usize::try_from(event.offset_bytes).unwrap_or(usize::MAX);
            let end = begin.saturating_add(event.text.len());
            if end.max(*reach) <= watermark {
                taken.extend(self.0.pop_front().map(|delta| delta.event));
                continue;
            }
            let part = watermark.saturating_sub(begin).min(event.text.len());
            if part > 0 && event.text.is_char_boundary(part) {
                let rest = event.text.split_off(part);
                taken.push(proto::GenerateDelta {
                    text: std::mem::replace(&mut event.text, rest),
                    offset_bytes: event.offset_bytes,
                    ..proto::GenerateDelta::default()
                });
                event.offset_bytes += part as u64;
            }
            break;
        }
        taken
    }

    /// Takes everything.
    pub(super) fn take_all(&mut self) -> Vec<proto::GenerateDelta> {
        self.0.drain(..).map(|delta| delta.event).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Deltas with these texts, one token each; the token of one reaches so many bytes beyond its text.
    fn deltas(texts: &[(String, usize)]) -> Vec<Delta> {
        let mut offset = 0;
        let delta = |(index, (text, beyond)): (usize, &(String, usize))| {
            let event = proto::GenerateDelta {
                text: text.clone(),
                token_ids: vec![index as u32],
                logprobs: Vec::new(),
                offset_bytes: offset as u64,
            };
            offset += text.len();
            Delta {
                event,
                reach: offset + beyond,
            }
        };
        texts.iter().enumerate().map(delta).collect()
    }

    fn withheld(texts: &[(&str, usize)]) -> Withheld {
        let texts: Vec<_> = texts
            .iter()
            .map(|(text, beyond)| ((*text).to_owned(), *beyond))
            .collect();
        Withheld(deltas(&texts).into())
    }

    fn shown(taken: &[proto::GenerateDelta]) -> Vec<(&str, &[u32], u64)> {
        let shown = taken.iter().map(|delta| {
            (
                delta.text.as_str(),
                delta.token_ids.as_slice(),
                delta.offset_bytes,
            )
        });
        shown.collect()
    }

    #[test]
    fn a_token_comes_with_the_end_of_its_text() {
        let mut held = withheld(&[("one", 0), (" two. Three", 0), (" four", 0)]);
        let first = held.take_to(8);
        assert_eq!(shown(&first), [("one", &[0][..], 0), (" two.", &[], 3)]);
        assert!(held.take_to(8).is_empty());
        let second = held.take_to(14);
        assert_eq!(shown(&second), [(" Three", &[1][..], 8)]);
        assert_eq!(shown(&held.take_all()), [(" four", &[2][..], 14)]);
    }

    #[test]
    fn a_token_with_a_part_that_is_no_text_yet_waits_for_it() {
        let mut held = withheld(&[("one", 2), ("é", 0)]);
        assert_eq!(shown(&held.take_to(3)), [("one", &[][..], 0)]);
        assert_eq!(shown(&held.take_to(5)), [("", &[0][..], 3), ("é", &[1], 3)]);
    }

    proptest! {
        /// Whatever the watermarks: the text is taken in order and without a gap, nothing behind a watermark is told, and each token
        /// comes once.
        #[test]
        fn nothing_behind_the_watermark_is_told(
            texts in prop::collection::vec(("[aé語🦀 .]{0,4}", 0usize..4), 0..12),
            mut watermarks in prop::collection::vec(0usize..80, 0..8),
        ) {
            let whole: String = texts.iter().map(|(text, _)| text.as_str()).collect();
            let reaches: Vec<_> = deltas(&texts).iter().map(|delta| delta.reach).collect();
            let mut held = Withheld(deltas(&texts).into());
            watermarks.sort_unstable();
            let (mut text, mut tokens) = (String::new(), Vec::new());
            for mark in watermarks {
                let mark = (0..=mark.min(whole.len())).rev().find(|at| whole.is_char_boundary(*at)).unwrap();
                for delta in held.take_to(mark) {
                    prop_assert_eq!(delta.offset_bytes, text.len() as u64);
                    text.push_str(&delta.text);
                    for token in &delta.token_ids {
                        prop_assert!(reaches[*token as usize] <= mark);
                    }
                    tokens.extend(delta.token_ids);
                }
                prop_assert!(text.len() <= mark);
            }
            for delta in held.take_all() {
                prop_assert_eq!(delta.offset_bytes, text.len() as u64);
                text.push_str(&delta.text);
                tokens.extend(delta.token_ids);
            }
            prop_assert_eq!(text, whole);
            prop_assert_eq!(tokens, (0..texts.len() as u32).collect::<Vec<_>>());
        }
    }
}
