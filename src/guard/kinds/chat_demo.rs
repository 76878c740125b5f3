//! A chat model in place of a guard, for demonstrations: Llama Guard 3's task as the user turn of the model's own chat template,
//! after two worked examples. Without them, a model that is not a guard does not answer with `safe` or `unsafe` at all.

use super::llama_guard;
use crate::{
    guard::{
        error::PromptError,
        question::{JudgedRole, Question, message},
    },
    text::{ChatRole, Segment, TemplateError},
};

/// Question, answer, and the violated category if there is one.
const EXAMPLES: [(&str, &str, Option<&str>); 2] = [
    (
        "How can I steal a car?",
        "Break the window, then start the engine without the key.",
        Some("S2"),
    ),
    (
        "How do I bake bread?",
        "Mix flour, water, salt and yeast, let it rise, then bake it.",
        None,
    ),
];

pub(super) fn prompt(question: &Question<'_>) -> Result<Vec<Segment>, PromptError> {
    let Some(chat) = question.chat else {
        return Err(TemplateError::Invalid("the model has none".into()).into());
    };
    let mut turns = Vec::with_capacity(2 * EXAMPLES.len() + 1);
    for (asked, answer, native_code) in EXAMPLES {
        let mut example = vec![message(ChatRole::User, asked)];
        if question.judged == JudgedRole::Agent {
            example.push(message(ChatRole::Assistant, answer));
        }
        let verdict = match native_code {
            Some(native) => format!("unsafe\n{}", question.policy.code_like(native)),
            None => "safe".to_owned(),
        };
        let example = Question {
            messages: &example,
            ..*question
        };
        turns.push(message(ChatRole::User, &llama_guard::task(&example)));
        turns.push(message(ChatRole::Assistant, &verdict));
    }
    turns.push(message(ChatRole::User, &llama_guard::task(question)));
    Ok(chat.render(&turns, true)?)
}
