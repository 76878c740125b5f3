//! PolyGuard, on Qwen2.5 and on Ministral.
//!
//! The prompt is the model's own chat template with the system and user messages of kpriyanshu256/polyguard (inference.py). The
//! answer has WildGuard's three lines and one of Llama Guard 3's codes after each harm.

use super::{fields, llama_guard, wildguard};
use crate::{
    guard::{
        error::PromptError,
        kind::GuardKind,
        policy::Policy,
        question::{
            AnswerForm, JudgedRole, Label, LabelPosition, Question, Reading, Refusal, message, one_exchange,
        },
    },
    text::{ChatRole, Segment, TemplateError},
};

pub(super) fn answer_form(judged: JudgedRole) -> AnswerForm {
    AnswerForm {
        begun: "Harmful request:",
        position: match judged {
            JudgedRole::User => LabelPosition::First,
            JudgedRole::Agent => LabelPosition::After(
                " no\nRequest safety violations: None\nResponse refusal: no\nHarmful response:",
            ),
        },
        words: wildguard::HARMFUL,
        safe_is_all: true,
    }
}

fn system(policy: &Policy) -> String {
    format!(
        "{}\nIn addition, identify the policies violated if the interaction is unsafe and harmful according to the safety \
         policy with the below categories.\n\n<BEGIN UNSAFE CONTENT CATEGORIES>\n{}<END UNSAFE CONTENT CATEGORIES>",
        wildguard::INSTRUCTION,
        policy.lines()
    )
}

pub(super) fn prompt(question: &Question<'_>) -> Result<Vec<Segment>, PromptError> {
    let [request, answer] = one_exchange(question, GuardKind::PolyGuard)?;
    let Some(chat) = question.chat else {
        return Err(TemplateError::Invalid("the model has none".into()).into());
    };
    let turns = [
        message(ChatRole::System, &system(question.policy)),
        message(
            ChatRole::User,
            &format!("Human user:\n{request}\n\nAI assistant:\n{answer}"),
        ),
    ];
    Ok(chat.render(&turns, true)?)
}

/// The line that has the codes of the judged message.
fn codes_line(judged: JudgedRole) -> &'static str {
    match judged {
        JudgedRole::User => "Request safety violations",
        JudgedRole::Agent => "Response safety violations",
    }
}

pub(super) fn read(judged: JudgedRole, text: &str, policy: &Policy) -> Reading {
    let label = match fields::yes(text, wildguard::label_line(judged)) {
        Some(true) => Label::Unsafe,
        Some(false) => Label::Safe,
        None => Label::Undetermined,
    };
    let list = match label {
        Label::Unsafe => fields::value(text, codes_line(judged)).unwrap_or(""),
        Label::Safe | Label::Controversial | Label::Undetermined => "",
    };
    Reading {
        label,
        // The makers' own training data separates codes by commas and by spaces.
        categories: llama_guard::codes(&list.replace(char::is_whitespace, ","), policy),
        refusal: match judged {
            JudgedRole::User => None,
            JudgedRole::Agent => fields::yes(text, "Response refusal").map(Refusal::of),
        },
    }
}

pub(super) fn is_settled(judged: JudgedRole, text: &str) -> bool {
    let label_line = wildguard::label_line(judged);
    let is_safe = fields::is_complete(text, label_line) && fields::yes(text, label_line) == Some(false);
    is_safe || fields::is_complete(text, codes_line(judged)) || fields::is_too_long(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Harmful request: yes\nRequest safety violations: S2,S9\nResponse refusal: no\nHarmful response: yes\n\
                        Response safety violations: S2\n";

    fn codes(reading: &Reading) -> Vec<&str> {
        reading.categories.iter().map(|(code, _)| code.as_str()).collect()
    }

    #[test]
    fn each_harm_has_its_codes() {
        let policy = Policy::llama_guard_3(14);
        let request = read(JudgedRole::User, TEXT, &policy);
        assert_eq!((request.label, request.refusal), (Label::Unsafe, None));
        assert_eq!(codes(&request), ["S2", "S9"]);
        let answer = read(JudgedRole::Agent, TEXT, &policy);
        assert_eq!(
            (answer.label, answer.refusal),
            (Label::Unsafe, Some(Refusal::Answered))
        );
        assert_eq!(
            answer.categories,
            [("S2".to_owned(), "Non-Violent Crimes".to_owned())]
        );
        let none = "Harmful request: no\nRequest safety violations: None\n";
        assert_eq!(codes(&read(JudgedRole::User, none, &policy)), Vec::<&str>::new());
    }

    #[test]
    fn decoding_ends_where_no_code_can_follow() {
        assert!(is_settled(JudgedRole::User, "Harmful request: no\n"));
        assert!(!is_settled(JudgedRole::User, "Harmful request: yes\n"));
        assert!(is_settled(
            JudgedRole::User,
            "Harmful request: yes\nRequest safety violations: S1\n"
        ));
        assert!(!is_settled(JudgedRole::Agent, "Harmful request: no\n"));
        assert!(is_settled(JudgedRole::Agent, TEXT));
    }
}
