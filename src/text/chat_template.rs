//! The model's own chat template (Jinja), rendered as transformers renders it.
//!
//! To keep the messages' words apart from the template's own text, each message is handed to the template
//! between two private-use characters that occur nowhere in the conversation. They go inside of the
//! message's outer whitespace, so that a template which trims still trims, and they are taken out of the
//! result, where they show what is whose. A template that looks for markup at the beginning of a message
//! (`content.startswith('<tool_response>')`) does not find it: somebody's words do not steer the template.

use std::path::Path;

use minijinja::{Environment, context};
use serde_json::Value;

use super::{
    Segment, jinja,
    load_folder::{read_json, token_text},
    python,
};
use crate::{digest, gguf::Gguf};

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
        let environment = jinja::environment().map_err(|e| explain(&e))?;
        let plain = jinja::without_generation_tags(source);
        environment.template_from_str(&plain).map_err(|e| explain(&e))?;
        Ok(Self {
            environment,
            source: plain,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            digest: digest::of_bytes(source),
        })
    }

    /// The template of a GGUF file, if it has one.
    pub fn from_gguf(gguf: &Gguf) -> Result<Option<Self>, TemplateError> {
        let Some(source) = gguf.get_str("tokenizer.chat_template") else {
            return Ok(None);
        };
        let tokens = gguf.get("tokenizer.ggml.tokens").and_then(|t| t.as_array());
        let spelling = |key: &str| {
            let id = usize::try_from(gguf.get_u64(key)?).ok()?;
            tokens?.get(id)?.as_str()
        };
        let bos = spelling("tokenizer.ggml.bos_token_id").unwrap_or("");
        let eos = spelling("tokenizer.ggml.eos_token_id").unwrap_or("");
        Self::new(source, bos, eos).map(Some)
    }

    /// The template of a Hugging Face folder (`chat_template.jinja` or `tokenizer_config.json`), if any.
    pub fn from_folder(folder: &Path) -> Result<Option<Self>, TemplateError> {
        let config = read_json(folder, "tokenizer_config.json")
            .map_err(|e| TemplateError::Invalid(e.to_string()))?
            .unwrap_or(Value::Null);
        let file = folder.join("chat_template.jinja");
        let source = match std::fs::read_to_string(&file) {
            Ok(source) => Some(source),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => default_template(&config["chat_template"]),
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
        Self::from_gguf(&Gguf::open(path).map_err(|e| TemplateError::Invalid(e.to_string()))?)
    }

    /// Renders a conversation, keeping apart the template's text and the messages' own: special tokens
    /// spelled in a message stay text. With `answer`, the prompt ends where the assistant begins.
    pub fn render(&self, messages: &[ChatMessage], answer: bool) -> Result<Vec<Segment>, TemplateError> {
        let marks = Marks::absent_from(messages, &self.source)?;
        let marked: Vec<minijinja::Value> = messages
            .iter()
            .enumerate()
            .map(|(index, m)| context! { role => m.role.name(), content => marks.around(index, &m.content) })
            .collect();
        // transformers passes `tools` and `documents` always, as None when there are none.
        let values = context! {
            messages => marked,
            tools => (),
            documents => (),
            add_generation_prompt => answer,
            bos_token => &self.bos,
            eos_token => &self.eos,
        };
        let template = self
            .environment
            .template_from_str(&self.source)
            .map_err(|e| explain(&e))?;
        let rendered = template.render(values).map_err(|e| explain(&e))?;
        marks.split(&rendered, messages)
    }

    /// `sha256:<hex>` of the template's source.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// A template given as text, or the one named `default` of a list.
fn default_template(value: &Value) -> Option<String> {
    let named = |list: &Vec<Value>| {
        let default = list.iter().find(|t| t["name"] == "default")?;
        default["template"].as_str().map(str::to_owned)
    };
    match value {
        Value::String(source) => Some(source.clone()),
        Value::Array(list) => named(list),
        _ => None,
    }
}

fn explain(error: &minijinja::Error) -> TemplateError {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(this) = cause {
        if let Some(refusal) = this.downcast_ref::<jinja::Refusal>() {
            return TemplateError::Refused(refusal.to_string());
        }
        cause = this.source();
    }
    TemplateError::Invalid(format!("{error:#}").lines().next().unwrap_or_default().to_owned())
}

/// The characters around messages: `open`, the message's index in decimal, `close`, the words, `close`.
struct Marks {
    open: char,
    close: char,
}

impl Marks {
    fn absent_from(messages: &[ChatMessage], source: &str) -> Result<Self, TemplateError> {
        let used: std::collections::HashSet<char> = messages
            .iter()
            .flat_map(|m| m.content.chars())
            .chain(source.chars())
            .filter(|c| ('\u{e000}'..='\u{f8ff}').contains(c))
            .collect();
        let mut free = ('\u{e000}'..='\u{f8ff}').filter(|c| !used.contains(c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Self { open, close }),
            _ => Err(TemplateError::Refused(
                "it uses every private-use character from U+E000 to U+F8FF".into(),
            )),
        }
    }

    /// The message with marks inside of its outer whitespace; a message of nothing but whitespace has none.
    fn around(&self, index: usize, content: &str) -> String {
        let words = python::strip(content);
        if words.is_empty() {
            return content.to_owned();
        }
        let before = content.len() - content.trim_start_matches(python::is_space).len();
        let (Marks { open, close }, after) = (self, &content[before + words.len()..]);
        format!("{}{open}{index}{close}{words}{close}{after}", &content[..before])
    }

    fn split(&self, rendered: &str, messages: &[ChatMessage]) -> Result<Vec<Segment>, TemplateError> {
        let mut seen: Vec<bool> = messages
            .iter()
            .map(|m| python::strip(&m.content).is_empty())
            .collect();
        let mut segments = Vec::new();
        let mut template = String::new();
        let mut pieces = rendered.split(self.open);
        template.extend(pieces.next());
        // What cannot be read is a message that the template took apart.
        let mut taken_apart = template.contains(self.close);
        for piece in pieces {
            let mut parts = piece.split(self.close);
            let (index, words, after) = (parts.next(), parts.next(), parts.next());
            let index = index.and_then(|i| i.parse::<usize>().ok());
            let known = index.and_then(|i| Some((i, python::strip(&messages.get(i)?.content))));
            match (known, words, after) {
                (Some((i, expected)), Some(words), Some(after)) if words == expected => {
                    seen[i] = true;
                    if !template.is_empty() {
                        segments.push(Segment::Template(std::mem::take(&mut template)));
                    }
                    segments.push(Segment::Content(words.to_owned()));
                    template.push_str(after);
                    taken_apart |= parts.next().is_some();
                }
                (Some((i, _)), ..) => return Err(TemplateError::MessageDropped(i)),
                _ => taken_apart = true,
            }
        }
        if let Some(index) = seen.iter().position(|seen| !seen) {
            return Err(TemplateError::MessageDropped(index));
        }
        if taken_apart {
            return Err(TemplateError::Invalid("it cuts messages into pieces".into()));
        }
        if !template.is_empty() {
            segments.push(Segment::Template(template));
        }
        Ok(segments)
    }
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
}
