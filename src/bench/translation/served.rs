//! Translations by a model that the server has: one prompt each, greedy, kept as they come.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use futures::StreamExt as _;
use minijinja::{Environment, UndefinedBehavior, context};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tonic::Code;

use crate::{
    bench::taxonomy::Language,
    client::{Client, ClientError, RpcError},
    digest,
    proto::{
        Conversation, FinishReason, GenerateRequest, Message, Role, SamplingParams, StoppingParams,
        generate_request::Prompt, generate_response::Event,
    },
};

/// What a model is asked when nobody says otherwise.
pub const DEFAULT_TEMPLATE: &str = "Translate the following text from {{ source_language }} into {{ target_language }}. \
    Reply with the translation only, without quotes or explanations.\n\n{{ text }}";

/// How often a request is sent again when its answer breaks off.
const ATTEMPTS: u32 = 4;

/// Words around a text, as a Jinja template with `text`, `source_language`, `target_language` (English names),
/// `source_code` and `target_code`.
pub struct PromptTemplate {
    environment: Environment<'static>,
}

impl PromptTemplate {
    /// # Errors
    /// What is wrong with the template, or that it does not use `text`.
    pub fn new(template: &str) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        let added = environment.add_template_owned("translation", template.to_owned());
        added.map_err(|error| error.to_string())?;
        let template = Self { environment };
        let mark = "babelward-text-to-translate";
        let rendered = template.render(mark, Language::En, Language::De)?;
        match rendered.contains(mark) {
            true => Ok(template),
            false => Err("it does not use {{ text }}".to_owned()),
        }
    }

    /// # Errors
    /// What the template says.
    pub fn render(&self, text: &str, from: Language, to: Language) -> Result<String, String> {
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
            .map_err(|error| error.to_string())
    }
}

/// What a model wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Without white space around it.
    pub text: String,
    /// The token limit ended it.
    pub truncated: bool,
}

/// A model of the server, as a translator.
#[derive(Debug, Clone)]
pub struct ServedModel<'a> {
    /// Where it is.
    pub client: &'a Client,
    /// Model id; empty: the server's default target.
    pub model: String,
    /// `sha256:<hex>` of its weights.
    pub digest: String,
    /// Most tokens of an answer.
    pub max_new_tokens: u32,
}

impl ServedModel<'_> {
    /// What an answer depends on: the weights, the limit and the prompt. Greedy answers depend on nothing else.
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
                Some(Event::Started(_)) => {}
                Some(Event::Delta(delta)) => text.push_str(&delta.text),
                Some(Event::Finished(finished)) if finished.text_digest == digest::of_bytes(&text) => {
                    return Ok(Answer {
                        text: text.trim().to_owned(),
                        truncated: finished.finish_reason() == FinishReason::MaxTokens,
                    });
                }
                Some(Event::Finished(_)) => {
                    return Err(ClientError::Protocol(
                        "a text that does not fit its digest".to_owned(),
                    ));
                }
                None => return Err(ClientError::Protocol("an answer without an end".to_owned())),
            }
        }
    }

    /// Answers of all prompts, in their order. What the journal has is not asked again, and each new answer is in the
    /// journal before `on_answer` hears how many are there. When many in a row fail, the rest is not sent.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn answer_all(
        &self,
        prompts: &[String],
        journal: &mut Journal,
        concurrency: usize,
        on_answer: &mut dyn FnMut(usize),
    ) -> io::Result<Vec<Result<Answer, ClientError>>> {
        let digests: Vec<String> = prompts.iter().map(|prompt| self.request_digest(prompt)).collect();
        let not_sent = || {
            let reason = "too many before it failed";
            Err(ClientError::Rpc(RpcError::local(
                Code::Cancelled,
                "NOT_SENT",
                reason,
            )))
        };
        let mut answers: Vec<Result<Answer, ClientError>> = Vec::new();
        answers.resize_with(prompts.len(), not_sent);
        let mut open = Vec::new();
        for (at, digest) in digests.iter().enumerate() {
            match journal.get(digest) {
                Some(answer) => answers[at] = Ok(answer.clone()),
                None => open.push(at),
            }
        }
        let mut done = prompts.len() - open.len();
        on_answer(done);
        let calls = open
            .into_iter()
            .map(|at| async move { (at, self.answer(&prompts[at]).await) });
        let mut calls = futures::stream::iter(calls).buffer_unordered(concurrency.max(1));
        let mut failed_in_a_row = 0;
        while let Some((at, answer)) = calls.next().await {
            match &answer {
                Ok(answer) => {
                    failed_in_a_row = 0;
                    journal.add(&digests[at], answer)?;
                }
                Err(_) => failed_in_a_row += 1,
            }
            answers[at] = answer;
            done += 1;
            on_answer(done);
            if failed_in_a_row >= concurrency.max(8) {
                break;
            }
        }
        Ok(answers)
    }
}

/// Answers that a folder has, by what they depend on.
pub struct Journal<T = Answer> {
    file: File,
    answers: HashMap<String, T>,
}

#[derive(Serialize, Deserialize)]
struct Line<T> {
    request: String,
    #[serde(flatten)]
    answer: T,
}

impl<T: Clone + Serialize + DeserializeOwned> Journal<T> {
    /// Opens or begins a journal. A last line that was cut off is dropped.
    ///
    /// # Errors
    /// Those of the file; [`io::ErrorKind::InvalidData`] for a line that is none.
    pub fn open(path: &Path) -> io::Result<Self> {
        let mut answers = HashMap::new();
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        for (index, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let line: Line<T> = serde_json::from_slice(line).map_err(|error| {
                let message = format!("line {}: {error}; remove the line or the file", index + 1);
                io::Error::new(io::ErrorKind::InvalidData, message)
            })?;
            answers.insert(line.request, line.answer);
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        file.set_len(whole as u64)?;
        Ok(Self { file, answers })
    }

    /// The answer to this request, if it is there.
    pub(super) fn get(&self, request: &str) -> Option<&T> {
        self.answers.get(request)
    }

    /// Keeps an answer.
    pub(super) fn add(&mut self, request: &str, answer: &T) -> io::Result<()> {
        let line = Line {
            request: request.to_owned(),
            answer: answer.clone(),
        };
        let mut text = serde_json::to_vec(&line)?;
        text.push(b'\n');
        // One write: what a killed process leaves is whole lines and at most one that is cut.
        self.file.write_all(&text)?;
        self.answers.insert(line.request, line.answer);
        Ok(())
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
        for (wrong, part) in [
            ("{{ txt }}", "undefined"),
            ("no text", "{{ text }}"),
            ("{{ text", "syntax"),
        ] {
            let error = PromptTemplate::new(wrong).map(|_| ()).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_journal_survives_a_cut_line_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("served.jsonl");
        let answer = |text: &str| Answer {
            text: text.to_owned(),
            truncated: false,
        };
        let mut journal = Journal::open(&path).unwrap();
        journal.add("sha256:1", &answer("eins")).unwrap();
        journal.add("sha256:2", &answer("zwei")).unwrap();
        drop(journal);
        let whole = fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            let lines = whole[..length].iter().filter(|byte| **byte == b'\n').count();
            assert_eq!(journal.answers.len(), lines);
            journal.add("sha256:3", &answer("drei")).unwrap();
            drop(journal);
            let again: Journal = Journal::open(&path).unwrap();
            assert_eq!(again.answers.len(), lines + 1);
        }
        fs::write(&path, "nonsense\n").unwrap();
        let error = Journal::<Answer>::open(&path).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("line 1: "), "{error}");
    }
}
