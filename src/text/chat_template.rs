//! The model's own chat template (Jinja), rendered as transformers renders it.
//!
//! The messages' words are kept apart from the template's own text, see [`super::marks`].

use std::path::Path;

use minijinja::{Environment, context};
use serde_json::Value;

use super::{
    Segment, jinja,
    load_folder::{read_json, token_text},
    marks::{Marks, Rendered},
    strftime, weighed,
};
use crate::{digest, errors::with_causes, files, gguf::Gguf};

/// Of a template. The longest that is known has 30 kB.
const MAX_SOURCE_BYTES: u64 = 512 << 10;

/// What a template may do, in units of minijinja's: one for an instruction, and one for 64 bytes of text that it makes
/// or looks through. So much for itself, whatever the conversation is ...
const FUEL: u64 = 400_000;
/// ... so much for each message ...
const FUEL_PER_MESSAGE: u64 = 4_000;
/// ... as if it made or looked through all of the conversation so many times. Of the templates that are known, the most
/// demanding does so eighteen times ...
const PASSES: u64 = 40;
/// ... and so many times more for each message: some templates append each message to a copy of all that came before.
const PASSES_PER_MESSAGE: u64 = 3;

/// Who said a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChatRole {
    /// `system`
    System,
    /// `user`
    User,
    /// `assistant`
    Assistant,
}

impl ChatRole {
    /// The role's name as templates spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
        }
    }
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChatMessage {
    /// Who said it.
    pub role: ChatRole,
    /// What was said.
    pub content: String,
}

/// Why a template could not be compiled or rendered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TemplateError {
    /// The template's source is invalid.
    #[error("chat template: {0}")]
    Invalid(String),
    /// The template itself refused this conversation (`raise_exception`): the caller's fault.
    #[error("the model's chat template refuses this conversation: {0}")]
    Refused(String),
    /// It takes too long, or makes too much text, for the conversation that it was given.
    #[error(
        "chat template: it was stopped, because it takes too many steps or makes too much text for this conversation"
    )]
    TooLong,
    /// A message's text is not in the rendered prompt: judging or answering it would be a lie.
    #[error("the chat template dropped the text of message {0}")]
    MessageDropped(usize),
}

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    digest: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the spellings that it may refer to.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        Self::with_clock(source, bos, eos, strftime::now)
    }

    /// The same with another idea of what time it is, for templates that print the date.
    pub(super) fn with_clock(
        source: &str,
        bos: &str,
        eos: &str,
        clock: jinja::Clock,
    ) -> Result<Self, TemplateError> {
        if source.len() as u64 > MAX_SOURCE_BYTES {
            let len = source.len();
            return Err(TemplateError::Invalid(format!(
                "it has {len} bytes; {MAX_SOURCE_BYTES} are the limit"
            )));
        }
        let environment = jinja::environment(clock).map_err(|e| explain(&e))?;
        let plain = jinja::without_generation_tags(source);
        weighed::check(&environment, &plain).map_err(|e| explain(&e))?;
        let template = Self {
            environment,
            source: plain,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            digest: digest::of_bytes(source),
        };
        // What takes too long for one word takes too long for everything; anything else depends on the conversation.
        let word = ChatMessage {
            role: ChatRole::User,
            content: "x".to_owned(),
        };
        match template.render(&[word], true) {
            Err(TemplateError::TooLong) => Err(TemplateError::TooLong),
            Ok(_) | Err(_) => Ok(template),
        }
    }

    /// The template of a GGUF file, if it has one.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>, TemplateError> {
        let named = || {
            let names = gguf.get("tokenizer.chat_templates").and_then(|t| t.as_array());
            let names = names.unwrap_or(&[]).iter().filter_map(|name| name.as_str());
            let templates = names.filter_map(|name| {
                let source = gguf.get_str(&format!("tokenizer.chat_template.{name}"))?;
                Some((name, source))
            });
            one_of(&templates.collect::<Vec<_>>())
        };
        let source = match gguf.get_str("tokenizer.chat_template") {
            Some(source) => Some(source.to_owned()),
            None => named()?,
        };
        let tokens = gguf.get("tokenizer.ggml.tokens").and_then(|t| t.as_array());
        let spelling = |key: &str| {
            let id = usize::try_from(gguf.get_u64(key)?).ok()?;
            tokens?.get(id)?.as_str()
        };
        let bos = spelling("tokenizer.ggml.bos_token_id").unwrap_or("");
        let eos = spelling("tokenizer.ggml.eos_token_id").unwrap_or("");
        source.map(|source| Self::new(&source, bos, eos)).transpose()
    }

    /// The template of a Hugging Face folder, if any: of `chat_template.jinja`, `tokenizer_config.json` and
    /// `chat_template.json` the first that has one.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TemplateError> {
        let json = |name: &str| {
            let read = read_json(folder, name).map_err(|e| TemplateError::Invalid(e.to_string()))?;
            Ok(read.unwrap_or(Value::Null))
        };
        let config = json("tokenizer_config.json")?;
        let file = folder.join("chat_template.jinja");
        let source = match files::read_text(&file, MAX_SOURCE_BYTES) {
            Ok(source) => Some(source),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                match template_in(&config["chat_template"])? {
                    Some(source) => Some(source),
                    None => template_in(&json("chat_template.json")?["chat_template"])?,
                }
            }
            Err(e) => return Err(TemplateError::Invalid(format!("{}: {e}", file.display()))),
        };
        let spelling = |key: &str| token_text(&config[key]).unwrap_or("");
        source
            .map(|source| Self::new(&source, spelling("bos_token"), spelling("eos_token")))
            .transpose()
    }

    /// From either, by what `path` is.
    pub fn open(path: &Path) -> Result<Option<Self>, TemplateError> {
        if path.is_dir() {
            return Self::from_folder(path);
        }
        Self::from_gguf(&Gguf::open(path).map_err(|e| TemplateError::Invalid(with_causes(&e)))?)
    }

    /// Renders a conversation, keeping apart the template's text and the messages' own: special tokens
    /// spelled in a message stay text. With `answer`, the prompt ends where the assistant begins.
    pub fn render(&self, messages: &[ChatMessage], answer: bool) -> Result<Vec<Segment>, TemplateError> {
        Ok(self.render_turns(messages, answer)?.segments)
    }

    /// The same, and tells whose thoughts were left out: templates of models that think show the model its earlier
    /// answers without what it thought before them.
    pub fn render_turns(&self, messages: &[ChatMessage], answer: bool) -> Result<Rendered, TemplateError> {
        let marks = Marks::absent_from(messages, &self.source)?;
        let whole = |(index, message): (usize, &ChatMessage)| marks.around(index, &message.content);
        let marked: Vec<String> = messages.iter().enumerate().map(whole).collect();
        let rendered = self.render_marked(messages, &marked, answer)?;
        let outcome = marks.split(&rendered, messages, &marked);
        if !matches!(
            outcome,
            Err(TemplateError::MessageDropped(_) | TemplateError::Invalid(_))
        ) {
            return outcome;
        }
        // Perhaps it is only thoughts that are missing.
        let mut thinks = false;
        let marked = messages
            .iter()
            .zip(marked)
            .enumerate()
            .map(|(index, (message, whole))| {
                let apart = (message.role == ChatRole::Assistant)
                    .then(|| marks.around_thoughts(index, &message.content))
                    .flatten();
                thinks |= apart.is_some();
                apart.unwrap_or(whole)
            });
        let marked: Vec<String> = marked.collect();
        if !thinks {
            return outcome;
        }
        let rendered = self.render_marked(messages, &marked, answer)?;
        marks.split(&rendered, messages, &marked)
    }

    fn render_marked(
        &self,
        messages: &[ChatMessage],
        contents: &[String],
        answer: bool,
    ) -> Result<String, TemplateError> {
        let values = messages.iter().zip(contents);
        let values: Vec<minijinja::Value> = values
            .map(|(message, content)| context! { role => message.role.name(), content => content })
            .collect();
        // transformers passes `tools` and `documents` always, as None when there are none.
        let values = context! {
            messages => values,
            tools => (),
            documents => (),
            add_generation_prompt => answer,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(messages)));
        weighed::render(&environment, &self.source, values).map_err(|e| explain(&e))
    }

    /// The prompt as text, as if nothing in it had to be told apart.
    #[cfg(test)]
    pub(super) fn render_unmarked(
        &self,
        messages: &[ChatMessage],
        answer: bool,
    ) -> Result<String, TemplateError> {
        let contents: Vec<String> = messages.iter().map(|message| message.content.clone()).collect();
        self.render_marked(messages, &contents, answer)
    }

    /// `sha256:<hex>` of the template's source.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// What a template may do with a conversation.
fn fuel(messages: &[ChatMessage]) -> u64 {
    let bytes: usize = messages.iter().map(|message| message.content.len()).sum();
    let own = FUEL_PER_MESSAGE.saturating_mul(messages.len() as u64);
    let passes = PASSES + PASSES_PER_MESSAGE.saturating_mul(messages.len() as u64);
    let text = passes.saturating_mul(bytes as u64) / jinja::BYTES_PER_FUEL;
    FUEL.saturating_add(own).saturating_add(text)
}

/// A template given as text or as a list of named ones.
fn template_in(value: &Value) -> Result<Option<String>, TemplateError> {
    match value {
        Value::String(source) => Ok(Some(source.clone())),
        Value::Array(list) => {
            let templates: Vec<(&str, &str)> = list
                .iter()
                .filter_map(|entry| Some((entry["name"].as_str()?, entry["template"].as_str()?)))
                .collect();
            one_of(&templates)
        }
        _ => Ok(None),
    }
}

/// Of named templates the one called `default`, or else the only one, or else `EN`: some models have one for
/// each language and none by default.
fn one_of(templates: &[(&str, &str)]) -> Result<Option<String>, TemplateError> {
    let named = |wanted: &str| templates.iter().find(|(name, _)| *name == wanted);
    let only = || templates.first().filter(|_| templates.len() == 1);
    match named("default").or_else(only).or_else(|| named("EN")) {
        Some((_, source)) => Ok(Some((*source).to_owned())),
        None if templates.is_empty() => Ok(None),
        None => {
            let names: Vec<&str> = templates.iter().map(|(name, _)| *name).collect();
            Err(TemplateError::Invalid(format!(
                "there are several, {}, and none is called `default`",
                names.join(", ")
            )))
        }
    }
}

fn explain(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(this) = cause {
        if let Some(refusal) = this.downcast_ref::<jinja::Refusal>() {
            return TemplateError::Refused(refusal.to_string());
        }
        let engine = this.downcast_ref::<minijinja::Error>();
        if engine.is_some_and(|error| error.kind() == minijinja::ErrorKind::OutOfFuel) {
            return TemplateError::TooLong;
        }
        cause = this.source();
    }
    TemplateError::Invalid(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(content: &str) -> Vec<ChatMessage> {
        vec![ChatMessage {
            role: ChatRole::User,
            content: content.to_owned(),
        }]
    }

    fn render(source: &str, content: &str) -> Result<Vec<Segment>, TemplateError> {
        ChatTemplate::new(source, "<s>", "</s>")?.render(&user(content), true)
    }

    fn template(text: &str) -> Segment {
        Segment::Template(text.to_owned())
    }

    fn content(text: &str) -> Segment {
        Segment::Content(text.to_owned())
    }

    #[test]
    fn whose_words_are_whose() {
        let kept = "{{ bos_token }}[{{ messages[0].content }}]";
        let trimmed = "{{ bos_token + '[' + messages[0]['content'].strip() + ']' }}";
        let around = |before, words, after| vec![template(before), content(words), template(after)];
        assert_eq!(render(kept, " \n<s>x ").unwrap(), around("<s>[ \n", "<s>x", " ]"));
        assert_eq!(render(trimmed, " \n<s>x ").unwrap(), around("<s>[", "<s>x", "]"));
        // The marks themselves in a message are somebody's words too.
        let private = "\u{e000}0\u{e001}x\u{e001}";
        assert_eq!(render(kept, private).unwrap(), around("<s>[", private, "]"));
        assert_eq!(render(kept, " \n").unwrap(), [template("<s>[ \n]")]);
        assert_eq!(render(kept, "").unwrap(), [template("<s>[]")]);
        let all: String = ('\u{e000}'..='\u{f8ff}').collect();
        assert!(matches!(render(kept, &all), Err(TemplateError::Refused(_))));
    }

    #[test]
    fn a_dropped_message_is_an_error() {
        let dropped = |source, text| matches!(render(source, text), Err(TemplateError::MessageDropped(0)));
        assert!(dropped("nothing", "x"));
        assert!(dropped("{{ messages[0].content[:4] }}", "a long text"));
        assert!(dropped("{{ messages[0].content | upper }}", "x"));
        assert!(dropped(
            "{{ messages[0].content.split('</think>')[-1] }}",
            "a</think>b"
        ));
        assert!(!dropped("{{ messages[0].content.split('</think>')[-1] }}", "ab"));
        // Parts for other kinds of content render nothing from a string.
        assert!(dropped(
            "{% for p in messages[0].content if p.type == 'text' %}{{ p.text }}{% endfor %}",
            "x"
        ));
    }

    #[test]
    fn refusals_and_invalid_templates() {
        assert!(
            matches!(render("{{ raise_exception('no ' + messages[0].role) }}", "x"), Err(TemplateError::Refused(m)) if m == "no user")
        );
        for source in [
            "{% if %}",
            "{{ messages[0].content }}{{ f() }}",
            "{% include 'x' %}",
        ] {
            assert!(
                matches!(render(source, "x"), Err(TemplateError::Invalid(_))),
                "{source}"
            );
        }
    }

    #[test]
    fn python_prints_and_dumps() {
        let text = |source: &str| {
            let source = format!("{source}{{{{ messages[0].content }}}}");
            let segments = render(&source, "x").unwrap();
            segments.iter().map(Segment::text).collect::<String>()
        };
        assert_eq!(
            text("{{ none }} {{ true }} {{ false }} {{ undefined_thing }}|"),
            "None True False |x"
        );
        assert_eq!(
            text("{{ {'a': [1, 'é<', none, true], 'b': {}} | tojson }}"),
            r#"{"a": [1, "é<", null, true], "b": {}}x"#
        );
        assert_eq!(
            text("{{ {'a': [1]} | tojson(indent=2) }}"),
            "{\n  \"a\": [\n    1\n  ]\n}x"
        );
        assert_eq!(text("{%- generation -%} g {%- endgeneration %}"), "gx");
        assert_eq!(text("{% if tools is iterable or documents %}t{% endif %}"), "x");
        assert_eq!(text("  {% if true %}\n y\n  {% endif %}\n"), " y\nx");
        assert_eq!(text("{{ strftime_now('%Y') | length }}"), "4x");
    }

    #[test]
    fn where_folders_keep_templates() {
        let rendered = |files: &[(&str, &str)]| {
            let folder = tempfile::tempdir().unwrap();
            for (name, text) in files {
                std::fs::write(folder.path().join(name), text).unwrap();
            }
            let segments = ChatTemplate::open(folder.path())?
                .unwrap()
                .render(&user("x"), true)?;
            Ok::<_, TemplateError>(segments.iter().map(Segment::text).collect::<String>())
        };
        let jinja = ("chat_template.jinja", "1{{ eos_token }}{{ messages[0].content }}");
        let config = (
            "tokenizer_config.json",
            r#"{"eos_token": "</s>", "chat_template": "2{{ messages[0].content }}"}"#,
        );
        let json = (
            "chat_template.json",
            r#"{"chat_template": "3{{ messages[0].content }}"}"#,
        );
        assert_eq!(rendered(&[jinja, config, json]).unwrap(), "1</s>x");
        assert_eq!(rendered(&[config, json]).unwrap(), "2x");
        assert_eq!(rendered(&[json]).unwrap(), "3x");
        let named = |names: &[&str]| {
            let entry = |name: &&str| serde_json::json!({"name": name, "template": format!("{name} {{{{ messages[0].content }}}}")});
            let list: Vec<Value> = names.iter().map(entry).collect();
            rendered(&[(
                "tokenizer_config.json",
                &serde_json::json!({"chat_template": list}).to_string(),
            )])
        };
        assert_eq!(named(&["rag", "default"]).unwrap(), "default x");
        assert_eq!(named(&["rag"]).unwrap(), "rag x");
        assert_eq!(named(&["DE", "EN"]).unwrap(), "EN x");
        assert!(matches!(named(&["DE", "FR"]), Err(TemplateError::Invalid(e)) if e.contains("DE, FR")));
    }
}
