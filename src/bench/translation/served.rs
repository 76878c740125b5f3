//! Translations by a model that the server holds: one request per prompt, decoded greedily; each answer is written to a journal
//! as it arrives.

use std::io;

use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize};

use super::journal::{Journal, Pace};
use crate::{
    bench::taxonomy::Language,
    client::{Client, ClientError, RpcError},
    digest,
    proto::{
        Conversation, FinishReason, GenerateRequest, Message, Role, SamplingParams, StoppingParams,
        generate_request::Prompt, generate_response::Event,
    },
    translation_prompt,
};

/// The template that is used where the caller gives none.
pub const DEFAULT_TEMPLATE: &str = translation_prompt::TEMPLATE;

/// How often a request is sent at most when its answer breaks off.
const ATTEMPTS: u32 = 4;

/// What a model is asked, as a Jinja template. It may use `text`, `source_language` and `target_language` (English names),
/// `source_code` and `target_code`.
pub struct PromptTemplate {
    environment: Environment<'static>,
}

/// Why a template cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// It is no Jinja template, or uses a value that there is not.
    #[error("{0}")]
    Jinja(minijinja::Error),
    /// The model would not see the text.
    #[error("it does not use {{{{ text }}}}")]
    TextUnused,
}

impl PromptTemplate {
    /// # Errors
    /// [`TemplateError`].
    pub fn new(template: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let added = environment.add_template_owned("translation", template.to_owned());
        added.map_err(TemplateError::Jinja)?;
        let template = Self { environment };
        let mark = "babelward-text-to-translate";
        let rendered = template.render(mark, Language::En, Language::De)?;
        match rendered.contains(mark) {
            true => Ok(template),
            false => Err(TemplateError::TextUnused),
        }
    }

    /// # Errors
    /// [`TemplateError::Jinja`].
    pub fn render(&self, text: &str, from: Language, to: Language) -> Result<String, TemplateError> {
        let values = context! {
            text,
            source_language => from.name(),
            target_language => to.name(),
            source_code => from.code(),
            target_code => to.code(),
        };
        let template = self.environment.get_template("translation");
        template
            .and_then(|template| template.render(values))
            .map_err(TemplateError::Jinja)
    }
}

/// The translation that a model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The text without white space around it.
    pub text: String,
    /// Whether the token limit ended it.
    pub truncated: bool,
}

/// A model of the server that translates.
#[derive(Debug, Clone)]
pub struct ServedModel<'a> {
    /// Connection to the server.
    pub client: &'a Client,
    /// Model id; empty: the server's default target.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
}

impl ServedModel<'_> {
    /// Digest of everything that an answer depends on: the weights, the token limit and the prompt. Greedy decoding depends on
    /// nothing else.
    fn request_digest(&self, prompt: &str) -> String {
        digest::of_bytes(format!("{}\0{}\0{prompt}", self.digest, self.max_new_tokens))
    }

    async fn answer(&self, prompt: &str) -> Result<Answer, ClientError> {
        let mut attempt = 1;
        loop {
            match self.attempt(prompt).await {
                Err(ClientError::Rpc(error)) if error.is_retryable() && attempt < ATTEMPTS => attempt += 1,
                ended => return ended,
            }
        }
    }

    async fn attempt(&self, prompt: &str) -> Result<Answer, ClientError> {
        let message = Message {
            role: Role::User.into(),
            content: prompt.to_owned(),
            ..Message::default()
        };
        let request = GenerateRequest {
            model: self.model.clone(),
            prompt: Some(Prompt::Conversation(Conversation {
                messages: vec![message],
            })),
            sampling: Some(SamplingParams {
                temperature: Some(0.0),
                ..SamplingParams::default()
            }),
            stopping: Some(StoppingParams {
                max_new_tokens: self.max_new_tokens,
                ..StoppingParams::default()
            }),
            ..GenerateRequest::default()
        };
        let mut events = self.client.generate(request).await?;
        let mut text = String::new();
        loop {
            let event = events.message().await;
            let event = event.map_err(|status| ClientError::Rpc(RpcError::from_status(&status)))?;
            match event.and_then(|response| response.event) {
                // Without a guard there is only the first of these.
                Some(Event::Started(_) | Event::Look(_) | Event::Retracted(_) | Event::Heartbeat(_)) => {}
                Some(Event::Delta(delta)) => text.push_str(&delta.text),
                Some(Event::Finished(finished)) if finished.text_digest == digest::of_bytes(&text) => {
                    return Ok(Answer {
                        text: text.trim().to_owned(),
                        truncated: finished.finish_reason() == FinishReason::MaxTokens,
                    });
                }
                Some(Event::Finished(_)) => {
                    return Err(ClientError::Protocol(
                        "the text does not fit its digest".to_owned(),
                    ));
                }
                None => return Err(ClientError::Protocol("the answer has no end".to_owned())),
            }
        }
    }

    /// Answers to all prompts, in their order. Prompts that the journal has an answer to are not sent again, and each new answer
    /// is in the journal before `on_answer` is called with the number of answers so far. When many requests fail one after the
    /// other, the rest is not sent.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn answer_all(
        &self,
        prompts: &[String],
        journal: &mut Journal<Answer>,
        concurrency: usize,
        on_answer: &mut dyn FnMut(usize),
    ) -> io::Result<Vec<Result<Answer, ClientError>>> {
        let requests: Vec<String> = prompts.iter().map(|prompt| self.request_digest(prompt)).collect();
        let pace = Pace {
            concurrency,
            per_call: 1,
            max_failed_calls: 8,
        };
        let call = async |indices: Vec<usize>| {
            let mut answers = Vec::new();
            for at in indices {
                answers.push(Ok(self.answer(&prompts[at]).await?));
            }
            Ok(answers)
        };
        journal.complete(&requests, pace, call, on_answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_checked_before_anything_is_sent() {
        let template = PromptTemplate::new(DEFAULT_TEMPLATE).unwrap();
        let text = template
            .render("Hello {{ x }}", Language::En, Language::De)
            .unwrap();
        assert!(text.contains("from English into German"), "{text}");
        assert!(
            text.ends_with("\n\nHello {{ x }}"),
            "a text is no template: {text}"
        );
        for (from, to) in [(Language::En, Language::De), (Language::It, Language::Es)] {
            assert_eq!(
                template.render("{{ x }}", from, to).unwrap(),
                translation_prompt::request("{{ x }}", from.name(), to.name())
            );
            assert_eq!(
                translation_prompt::language_name(to.code()).as_deref(),
                Some(to.name())
            );
        }
        for (wrong, part) in [
            ("{{ txt }}", "undefined"),
            ("no text", "{{ text }}"),
            ("{{ text", "syntax"),
        ] {
            let error = PromptTemplate::new(wrong).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
