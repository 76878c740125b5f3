//! Renders a model's own chat template (Jinja) as transformers does.
//!
//! The text of messages is kept apart from the template's own text, see [`super::marks`].

use std::path::Path;

use minijinja::{Environment, context};
use serde_json::Value;

use super::{
    chat::{ChatMessage, ChatRole, ChatTurn, TemplateError, ToolUse},
    folder_settings::{read_json, token_text},
    jinja,
    marks::{Marks, Rendered},
    metered,
    segment::Segment,
    strftime,
    tool_words::ToolWords,
};
use crate::{digest, errors::with_causes, files, gguf::Gguf};

/// Most bytes of a template. The longest known one has 30 kB.
const MAX_SOURCE_BYTES: u64 = 512 << 10;

/// Fuel for a template, whatever the conversation is. minijinja consumes one unit for an instruction, and one for 64 bytes
/// of text that the template produces or reads.
const FUEL: u64 = 400_000;
/// Additional fuel for each message.
const FUEL_PER_MESSAGE: u64 = 4_000;
/// Additional fuel: as much as producing or reading the whole conversation this many times. The most demanding known template
/// does so eighteen times.
const PASSES: u64 = 40;
/// Further times for each message, because some templates append each message to a copy of all earlier ones.
const PASSES_PER_MESSAGE: u64 = 3;

/// A compiled chat template.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    bos: String,
    eos: String,
    digest: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are the spellings of the tokens that it may use.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self, TemplateError> {
        Self::with_clock(source, bos, eos, strftime::now)
    }

    /// The same with a given clock, for templates that print the date.
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
        metered::check(&environment, &plain).map_err(|e| explain(&e))?;
        let template = Self {
            environment,
            source: plain,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            digest: digest::of_bytes(source),
        };
        // A template that takes too long for one word takes too long for every conversation. Other errors depend on the
        // conversation.
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

    /// The template of a Hugging Face folder, if it has one: that of `chat_template.jinja`, otherwise of
    /// `tokenizer_config.json`, otherwise of `chat_template.json`.
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

    /// The template of a Hugging Face folder or of a GGUF file, whichever `path` is.
    pub fn open(path: &Path) -> Result<Option<Self>, TemplateError> {
        if path.is_dir() {
            return Self::from_folder(path);
        }
        Self::from_gguf(&Gguf::open(path).map_err(|e| TemplateError::Invalid(with_causes(&e)))?)
    }

    /// Renders a conversation. The template's own text and that of the messages are separate segments, so that special tokens
    /// which are spelled in a message stay text. With `answer`, the prompt ends where the assistant begins.
    pub fn render(&self, messages: &[ChatMessage], answer: bool) -> Result<Vec<Segment>, TemplateError> {
        Ok(self.render_turns(messages, answer)?.segments)
    }

    /// The same, with the messages whose thoughts were left out: the templates of models that think leave the thoughts out of
    /// the model's earlier answers.
    pub fn render_turns(&self, messages: &[ChatMessage], answer: bool) -> Result<Rendered, TemplateError> {
        self.render_conversation(messages, &[], answer)
    }

    /// The same for a conversation in which tools may have been called.
    ///
    /// # Errors
    /// [`TemplateError::CallsDropped`] where the template does not show a call with all of its arguments.
    pub fn render_tool_turns(&self, turns: &[ChatTurn], answer: bool) -> Result<Rendered, TemplateError> {
        let messages: Vec<ChatMessage> = turns.iter().map(|turn| turn.message.clone()).collect();
        let uses: Vec<&ToolUse> = turns.iter().map(|turn| &turn.tools).collect();
        self.render_conversation(&messages, &uses, answer)
    }

    fn render_conversation(
        &self,
        messages: &[ChatMessage],
        uses: &[&ToolUse],
        answer: bool,
    ) -> Result<Rendered, TemplateError> {
        let texts = messages.iter().map(|message| message.content.as_str());
        let texts = texts.chain(uses.iter().flat_map(|tools| tools.texts()));
        let unescaped: Vec<String> = uses.iter().flat_map(|tools| tools.unescaped()).collect();
        let texts = texts.chain(unescaped.iter().map(String::as_str));
        let marks = Marks::absent_from(texts, &self.source)?;
        let tools = ToolWords::of(uses, &marks);
        let marked = messages.iter().enumerate();
        let marked: Vec<String> = marked
            .map(|(index, message)| marks.around(index, &message.content))
            .collect();
        let rendered = self.render_marked(messages, &marked, &tools, answer)?;
        let outcome = marks.split(&rendered, messages, &marked, tools.words());
        if !matches!(
            outcome,
            Err(TemplateError::MessageDropped(_) | TemplateError::Invalid(_))
        ) {
            return outcome;
        }
        // Perhaps only thoughts are missing, so messages with thoughts are marked in two parts.
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
        let rendered = self.render_marked(messages, &marked, &tools, answer)?;
        marks.split(&rendered, messages, &marked, tools.words())
    }

    fn render_marked(
        &self,
        messages: &[ChatMessage],
        contents: &[String],
        tools: &ToolWords,
        answer: bool,
    ) -> Result<String, TemplateError> {
        let values = messages.iter().zip(contents).enumerate();
        let values: Vec<minijinja::Value> = values
            .map(|(index, (message, content))| tools.message(index, message.role.name(), content))
            .collect();
        // transformers always passes `tools` and `documents`, as None if there are none.
        let values = context! {
            messages => values,
            tools => (),
            documents => (),
            add_generation_prompt => answer,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        let mut environment = self.environment.clone();
        environment.set_fuel(Some(fuel(messages, tools)));
        metered::render(&environment, &self.source, values).map_err(|e| explain(&e))
    }

    /// The prompt as text, without marks.
    #[cfg(test)]
    pub(super) fn render_unmarked(
        &self,
        messages: &[ChatMessage],
        answer: bool,
    ) -> Result<String, TemplateError> {
        let contents: Vec<String> = messages.iter().map(|message| message.content.clone()).collect();
        self.render_marked(messages, &contents, &ToolWords::default(), answer)
    }

    /// The template itself, without tags that only training needs.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// `sha256:<hex>` of the template's source.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// The fuel for rendering a conversation.
fn fuel(messages: &[ChatMessage], tools: &ToolWords) -> u64 {
    let contents = messages.iter().map(|message| message.content.len());
    // Marks and quotes are around each word.
    let words = tools.words().iter().map(|word| word.text.len() + 16);
    let bytes: usize = contents.chain(words).sum();
    let own = FUEL_PER_MESSAGE.saturating_mul(messages.len() as u64);
    let passes = PASSES + PASSES_PER_MESSAGE.saturating_mul(messages.len() as u64);
    let text = passes.saturating_mul(bytes as u64) / metered::BYTES_PER_FUEL;
    FUEL.saturating_add(own).saturating_add(text)
}

/// A template that is given as text, or as a list of named templates.
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

/// Of named templates, the one called `default`, otherwise the only one, otherwise `EN`: some models have a template for each
/// language and no default.
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
    fn text_of_messages_is_content_and_the_rest_is_template() {
        let kept = "{{ bos_token }}[{{ messages[0].content }}]";
        let trimmed = "{{ bos_token + '[' + messages[0]['content'].strip() + ']' }}";
        let around = |before, words, after| vec![template(before), content(words), template(after)];
        assert_eq!(render(kept, " \n<s>x ").unwrap(), around("<s>[ \n", "<s>x", " ]"));
        assert_eq!(render(trimmed, " \n<s>x ").unwrap(), around("<s>[", "<s>x", "]"));
        // Private-use characters in a message are its text too.
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
            text("{{ {'a': 'é🦀'} | tojson(ensure_ascii=true) }}"),
            r#"{"a": "\u00e9\ud83e\udd80"}x"#
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
