//! Text to work on: from the command line, from stdin, or from a JSON Lines file.

use std::{
    collections::HashMap,
    fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::CommandError;
use crate::proto::{Conversation, Message, Role};

/// Most invalid lines of a file that are told.
const LINES_TOLD: usize = 20;

/// What some programs write in front of UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Where text comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Input {
    /// This text.
    Text(String),
    /// Everything on stdin.
    Stdin,
    /// Each line of this file.
    File(PathBuf),
}

/// `-` or nothing is stdin, a name that ends in `.jsonl` is a file, everything else is text.
pub(super) fn input(argument: Option<&str>) -> anyhow::Result<Input> {
    match argument {
        Some("-") => Ok(Input::Stdin),
        Some(name) if name.ends_with(".jsonl") => Ok(Input::File(PathBuf::from(name))),
        Some(text) => Ok(Input::Text(text.to_owned())),
        None if io::stdin().is_terminal() => {
            Err(CommandError::usage("nothing to work on: give a text, or - and the text on stdin").into())
        }
        None => Ok(Input::Stdin),
    }
}

/// The text itself; a final line break of stdin is not part of it.
pub(super) fn text(argument: Option<&str>) -> anyhow::Result<String> {
    match input(argument)? {
        Input::Text(text) => Ok(text),
        Input::Stdin => stdin(),
        Input::File(path) => {
            let message = format!("{}: a file is not taken here; give a text or -", path.display());
            Err(CommandError::usage(message).into())
        }
    }
}

/// Everything on stdin, without its final line break.
pub(super) fn stdin() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    io::stdin().read_to_end(&mut bytes).context("stdin")?;
    let text = String::from_utf8(bytes).map_err(|_| CommandError::invalid_data("stdin is not UTF-8"))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

/// One message of one person.
pub(super) fn message(role: Role, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.to_owned(),
    }
}

/// What to judge: `text`, as the answer to `prompt` if there is one.
pub(super) fn judged(text: &str, role: JudgedRole, prompt: Option<&str>) -> Conversation {
    let question = prompt.map(|prompt| message(Role::User, prompt));
    let role = match (role, &question) {
        (JudgedRole::User, None) => Role::User,
        _ => Role::Assistant,
    };
    Conversation {
        messages: question.into_iter().chain([message(role, text)]).collect(),
    }
}

/// Who said the text that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum JudgedRole {
    /// A user: a prompt.
    User,
    /// An assistant: an answer; needs the prompt that it answers.
    Assistant,
}

/// An item of a file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// Its own, or the number of its line.
    pub(super) id: String,
    /// What to judge.
    pub(super) conversation: Conversation,
}

/// A line: a text with at most a prompt, or a whole conversation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default, deserialize_with = "id")]
    id: Option<String>,
    text: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<LineMessage>>,
}

/// Data sets number their items: an integer is the text that it is written as.
fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let wrong = |what: &str| {
        let fix = "an `id` is a string or an integer of 64 bits: put it in quotes, or leave it out";
        D::Error::custom(format!("`id` is {what}; {fix}"))
    };
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Err(wrong("empty")),
        Value::String(text) => Ok(Some(text)),
        Value::Number(number) if number.is_i64() || number.is_u64() => Ok(Some(number.to_string())),
        Value::Number(number) => Err(wrong(&format!("the number {number}"))),
        Value::Bool(value) => Err(wrong(&value.to_string())),
        Value::Array(_) => Err(wrong("a list")),
        Value::Object(_) => Err(wrong("an object")),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineMessage {
    role: JudgedRole,
    content: String,
}

/// Reads a whole file before anything is sent, so that a wrong line is found before work is done.
pub(super) fn items(path: &Path) -> anyhow::Result<Vec<Item>> {
    let name = path.display();
    let bytes = fs::read(path).map_err(|error| CommandError::invalid_data(format!("{name}: {error}")))?;
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&bytes);
    let mut items: Vec<Item> = Vec::new();
    let mut lines = HashMap::new();
    let mut wrong = Vec::new();
    for (number, line) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let read = str::from_utf8(line).map_err(|_| "is not UTF-8".to_owned());
        match read.and_then(|line| item(number, line.trim())) {
            // What has no id is told by its line: nobody else may be called so.
            Ok(item) => match lines.insert(item.id.clone(), number) {
                None => items.push(item),
                Some(first) => wrong.push(format!(
                    "{name}:{number}: line {first} is `{}`, too: ids are unique",
                    item.id
                )),
            },
            Err(reason) => wrong.push(format!("{name}:{number}: {reason}")),
        }
    }
    if wrong.is_empty() {
        return Ok(items);
    }
    let more = wrong.len().saturating_sub(LINES_TOLD);
    wrong.truncate(LINES_TOLD);
    if more > 0 {
        wrong.push(format!("and {more} more lines"));
    }
    Err(CommandError::invalid_data(wrong.join("\n")).into())
}

fn item(number: usize, line: &str) -> Result<Item, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| {
        // Its line is one of one; the file's is told already.
        let (told, column) = (error.to_string(), error.column());
        let place = format!(" at line {} column {column}", error.line());
        match told.strip_suffix(&place) {
            _ if !line.starts_with('{') => "is no JSON object: write {\"text\": …}".to_owned(),
            Some(what) => format!("column {column}: {what}"),
            None => told,
        }
    })?;
    let conversation = match (line.text, line.messages) {
        (Some(text), None) => judged(&text, JudgedRole::User, line.prompt.as_deref()),
        (None, Some(messages)) if line.prompt.is_none() => {
            let messages = messages.iter().map(|said| {
                let role = match said.role {
                    JudgedRole::User => Role::User,
                    JudgedRole::Assistant => Role::Assistant,
                };
                message(role, &said.content)
            });
            Conversation {
                messages: messages.collect(),
            }
        }
        _ => return Err("write either `text` (and the `prompt` that it answers) or `messages`".to_owned()),
    };
    Ok(Item {
        id: line.id.unwrap_or_else(|| number.to_string()),
        conversation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_text_stdin_or_a_file() {
        assert_eq!(input(Some("-")).unwrap(), Input::Stdin);
        assert_eq!(
            input(Some("a.jsonl")).unwrap(),
            Input::File(PathBuf::from("a.jsonl"))
        );
        assert_eq!(input(Some("hello")).unwrap(), Input::Text("hello".to_owned()));
    }

    #[test]
    fn a_text_with_a_prompt_is_its_answer() {
        let alone = judged("t", JudgedRole::User, None);
        assert_eq!(alone.messages, [message(Role::User, "t")]);
        let answer = judged("t", JudgedRole::User, Some("p"));
        assert_eq!(
            answer.messages,
            [message(Role::User, "p"), message(Role::Assistant, "t")]
        );
    }

    #[test]
    fn files_hold_texts_or_conversations_and_wrong_lines_are_told_together() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("items.jsonl");
        let good = concat!(
            "{\"text\": \"a\"}\n\n",
            "{\"id\": \"x\", \"text\": \"b\", \"prompt\": \"p\"}\n",
            "{\"messages\": [{\"role\": \"user\", \"content\": \"c\"}]}\n"
        );
        fs::write(&path, good).unwrap();
        let found = items(&path).unwrap();
        let ids: Vec<_> = found.iter().map(|item| item.id.as_str()).collect();
        assert_eq!(ids, ["1", "x", "4"]);
        assert_eq!(found[1].conversation, judged("b", JudgedRole::User, Some("p")));
        assert_eq!(found[2].conversation, judged("c", JudgedRole::User, None));

        let marked = "\u{feff}{\"text\": \"a\"}\r\n  {\"text\": \"b\"}  \r\n\r\n";
        fs::write(&path, marked).unwrap();
        assert_eq!(items(&path).unwrap().len(), 2);

        let mut cut = b"{\"text\": \"a\"}\n{\"text\": \"".to_vec();
        cut.extend(b"\xff\"}\nhello\n{\"text\": \"b\", \"id\": 1}\n");
        fs::write(&path, cut).unwrap();
        let error = items(&path).unwrap_err().to_string();
        let told: Vec<_> = error.lines().collect();
        assert_eq!(told.len(), 3, "{error}");
        assert!(told[0].ends_with("items.jsonl:2: is not UTF-8"), "{error}");
        assert!(told[1].contains("items.jsonl:3: is no JSON object"), "{error}");
        assert!(told[2].contains("items.jsonl:4: line 1 is `1`, too"), "{error}");

        let numbered = "{\"id\": 17, \"text\": \"a\"}\n{\"id\": -3, \"text\": \"a\"}\n{\"id\": null, \"text\": \"a\"}\n\
                        {\"id\": 18446744073709551615, \"text\": \"a\"}\n";
        fs::write(&path, numbered).unwrap();
        let ids: Vec<_> = items(&path).unwrap().into_iter().map(|item| item.id).collect();
        assert_eq!(ids, ["17", "-3", "3", "18446744073709551615"]);
        for id in ["1.5", "18446744073709551616", "true", "[1]", "{}", "\"\""] {
            fs::write(&path, format!("\n{{\"id\": {id}, \"text\": \"a\"}}\n")).unwrap();
            let error = items(&path).unwrap_err().to_string();
            assert!(
                error.contains("items.jsonl:2: ") && error.contains("`id` is") && error.contains("quotes"),
                "{error}"
            );
        }

        let wrong = "{\"text\": 5}\n{\"txt\": \"a\"}\n{\"text\": \"a\", \"messages\": []}\n{}\n";
        fs::write(&path, wrong).unwrap();
        let error = items(&path).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 4, "{error}");
        assert!(error.lines().all(|line| line.contains("items.jsonl:")));
    }
}
