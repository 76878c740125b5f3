//! Qwen3Guard-Stream 0.6B, 4B and 8B, which write no text: heads judge the conversation at its last token.
//!
//! The prompt is the conversation in the models' own chat template, as the makers' example renders it (README of QwenLM/Qwen3Guard:
//! `apply_chat_template` with `enable_thinking=False`). A request is judged at the end of its turn, as there. An answer is judged at
//! the last token of its text, so that a look at a growing answer costs no closing words. Contents stand in the prompt as they are,
//! but for line breaks at the beginning of a judged answer, which the template leaves out.

use super::qwen3guard::{TURN_END, TURN_START};
use crate::{
    guard::question::{AnswerForm, JudgedRole, LabelPosition, Question, content, template},
    text::{ChatRole, Segment},
};

/// There is no answer.
pub(super) const ANSWER: AnswerForm = AnswerForm {
    begun: "",
    position: LabelPosition::First,
    words: &[],
    safe_is_all: true,
};

/// What the template begins the last answer with.
const NO_THOUGHTS: &str = "<think>\n\n</think>\n\n";

pub(super) fn prompt(question: &Question<'_>) -> Vec<Segment> {
    let mut segments = Vec::new();
    let last = question.messages.len().saturating_sub(1);
    for (index, message) in question.messages.iter().enumerate() {
        let between = match index {
            0 => "",
            _ => "\n",
        };
        let is_judged_answer = index == last && question.judged == JudgedRole::Agent;
        let (role, thoughts) = match (message.role, is_judged_answer) {
            (ChatRole::Assistant, true) => ("assistant", NO_THOUGHTS),
            (ChatRole::Assistant, false) => ("assistant", ""),
            (ChatRole::User | ChatRole::System, _) => ("user", ""),
        };
        segments.push(template(format!("{between}{TURN_START}{role}\n{thoughts}")));
        if is_judged_answer {
            segments.push(content(message.content.trim_start_matches('\n')));
        } else {
            segments.push(content(&message.content));
            segments.push(template(TURN_END));
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{
        guard::{GuardKind, question::message},
        text::ChatMessage,
    };

    #[test]
    fn prompts_equal_the_template_up_to_the_judged_end() {
        let golden = include_str!("../../../tests/golden/verdict_heads/golden.json");
        let golden: Value = serde_json::from_str(golden).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 9);
        for case in cases {
            let contents = case["contents"].as_array().unwrap().iter().enumerate();
            let roles = [ChatRole::User, ChatRole::Assistant];
            let messages: Vec<ChatMessage> = contents
                .map(|(index, text)| message(roles[index % 2], text.as_str().unwrap()))
                .collect();
            let question = Question {
                policy: &GuardKind::Qwen3GuardStream.native_policy(),
                judged: JudgedRole::of(&messages).unwrap(),
                messages: &messages,
                chat: None,
            };
            let written: String = prompt(&question).iter().map(Segment::text).collect();
            assert_eq!(written, case["prompt"].as_str().unwrap());
        }
    }
}
