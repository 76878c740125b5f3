//! Text to work on: from the command line, from a file or standard input, or from a file of JSON lines.

use std::{
    collections::HashMap,
    fmt, fs,
    io::{self, IsTerminal as _, Read as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

use super::{CommandError, chat_message::LineMessage};
use crate::proto::{Conversation, Message, Role};

/// Most invalid lines of a file that an error message lists.
const LISTED_LINES: usize = 20;

/// Longest extension of a file's name, in bytes.
const MAX_EXTENSION_BYTES: usize = 5;

/// Some programs write it in front of UTF-8 text.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Stands for standard input where a file's name is wanted.
const STDIN: &str = "-";

/// Where a text comes from; every command that takes a text has these flags.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub(super) struct TextArgs {
    /// The text, or - to read it from standard input. What could be a file's name is refused: say --file or --text
    #[arg(value_name = "TEXT|-")]
    given: Option<String>,
    /// The text, even where it looks like a file's name
    #[arg(
        long,
        value_name = "TEXT",
        conflicts_with = "given",
        allow_hyphen_values = true
    )]
    text: Option<String>,
    /// File that holds the text; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["given", "text"])]
    file: Option<PathBuf>,
}

impl TextArgs {
    /// Reads the text. A final line break of a file is not part of it. An empty text is an error: a verdict on nothing must not
    /// look as if all were well.
    pub(super) fn read(&self) -> anyhow::Result<String> {
        let text = self.source()?;
        if text.trim().is_empty() {
            return Err(CommandError::nothing("the text is empty: there is nothing to work on").into());
        }
        Ok(text)
    }

    /// The file that holds the text, or the file that is named where the text should stand.
    pub(super) fn named_file(&self) -> Option<&Path> {
        let given = self
            .given
            .as_deref()
            .filter(|given| FileName::of(given).is_some());
        self.file.as_deref().or(given.map(Path::new))
    }

    fn source(&self) -> anyhow::Result<String> {
        match (&self.given, &self.text, &self.file) {
            (_, Some(text), _) => Ok(text.clone()),
            (_, _, Some(path)) => content(path),
            (Some(given), ..) if given == STDIN => content(Path::new(STDIN)),
            (Some(given), ..) => match FileName::of(given) {
                None => Ok(given.clone()),
                Some(name) => {
                    let what = match name {
                        FileName::Exists => format!("say --file {given} for the text in it"),
                        FileName::Looks => "correct it and say --file for the text in it".to_owned(),
                    };
                    let message =
                        format!("`{given}` {name}: {what}, or --text {given} for these words themselves");
                    Err(CommandError::usage(message).into())
                }
            },
            (None, ..) if io::stdin().is_terminal() => Err(CommandError::usage(
                "there is no text: give one, --file FILE, or - and the text on standard input",
            )
            .into()),
            (None, ..) => content(Path::new(STDIN)),
        }
    }
}

/// Why a text could be meant as the name of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileName {
    /// A file or folder has this name.
    Exists,
    /// It is written like a file's name, but no file has it: perhaps the file is missing.
    Looks,
}

impl FileName {
    /// Whether `text` could name a file: something has this name, or it is a single word with a `/` or with an extension such as
    /// `.txt`.
    pub(super) fn of(text: &str) -> Option<Self> {
        if Path::new(text).symlink_metadata().is_ok() {
            return Some(Self::Exists);
        }
        let has_extension = text.rsplit_once('.').is_some_and(|(name, extension)| {
            !name.is_empty()
                && extension.len() <= MAX_EXTENSION_BYTES
                && extension.bytes().all(|byte| byte.is_ascii_alphanumeric())
                && extension.bytes().any(|byte| byte.is_ascii_alphabetic())
        });
        let is_word = !text.contains(char::is_whitespace);
        (is_word && (text.contains('/') || has_extension)).then_some(Self::Looks)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exists => "is the name of a file or folder",
            Self::Looks => "looks like the name of a file, but no file has it",
        })
    }
}

/// A whole file as text, without its final line break.
pub(super) fn content(path: &Path) -> anyhow::Result<String> {
    let text = String::from_utf8(bytes(path)?)
        .map_err(|_| CommandError::invalid_data(format!("{} is not UTF-8 text", shown(path))))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    Ok(text.strip_suffix('\r').unwrap_or(text).to_owned())
}

fn bytes(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = if path == Path::new(STDIN) {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    Ok(read.map_err(|error| CommandError::invalid_data(format!("{}: {error}", shown(path))))?)
}

/// A file's name for a message.
fn shown(path: &Path) -> String {
    if path == Path::new(STDIN) {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    }
}

/// A message of a conversation.
pub(super) fn message(role: Role, content: &str) -> Message {
    Message {
        role: role.into(),
        content: content.to_owned(),
        ..Message::default()
    }
}

/// The conversation to judge: `text` alone, or as the answer to `prompt`.
pub(super) fn conversation_of(text: &str, role: JudgedRole, prompt: Option<&str>) -> Conversation {
    let question = prompt.map(|prompt| message(Role::User, prompt));
    let role = match (role, &question) {
        (JudgedRole::User, None) => Role::User,
        _ => Role::Assistant,
    };
    Conversation {
        messages: question.into_iter().chain([message(role, text)]).collect(),
    }
}

/// Who wrote the text that is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub(super) enum JudgedRole {
    /// A user: the text is a prompt.
    User,
    /// An assistant: the text is an answer, and needs the prompt that it answers.
    Assistant,
}

/// One item of a file of JSON lines.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    /// The id in the file, or the number of the line.
    pub(super) id: String,
    /// The conversation whose last message is judged.
    pub(super) conversation: Conversation,
}

/// One line of a file: a text, with or without a prompt, or a whole conversation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ItemLine {
    #[serde(default, deserialize_with = "id")]
    id: Option<String>,
    text: Option<String>,
    prompt: Option<String>,
    messages: Option<Vec<LineMessage>>,
}

/// Reads an id. Many data sets number their items, so an integer is taken as the text that it is written as.
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

/// Reads and checks a whole file, so that a wrong line is reported before anything is sent. A file without items is an error:
/// what should be judged is not in it.
pub(super) fn items(path: &Path) -> anyhow::Result<Vec<Item>> {
    let name = shown(path);
    let bytes = bytes(path)?;
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
            // An item without an id is named by its line number, so no other item may have that id.
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
    if wrong.is_empty() && items.is_empty() {
        return Err(CommandError::nothing(format!("{name} has no items: nothing was judged")).into());
    }
    if wrong.is_empty() {
        return Ok(items);
    }
    let more = wrong.len().saturating_sub(LISTED_LINES);
    wrong.truncate(LISTED_LINES);
    if more > 0 {
        wrong.push(format!("and {more} more lines"));
    }
    Err(CommandError::invalid_data(wrong.join("\n")).into())
}

fn item(number: usize, line: &str) -> Result<Item, String> {
    let line: ItemLine = serde_json::from_str(line).map_err(|error| {
        // The parser counts lines from the start of this one; the line in the file is in front of the message already.
        let (message, column) = (error.to_string(), error.column());
        let place = format!(" at line {} column {column}", error.line());
        match message.strip_suffix(&place) {
            _ if !line.starts_with('{') => "is no JSON object: write {\"text\": …}".to_owned(),
            Some(what) => format!("column {column}: {what}"),
            None => message,
        }
    })?;
    let conversation = match (line.text, line.messages) {
        (Some(text), None) => conversation_of(&text, JudgedRole::User, line.prompt.as_deref()),
        (None, Some(messages)) if line.prompt.is_none() => {
            let messages = messages.into_iter().map(LineMessage::message);
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
    use crate::cli::Exit;

    #[test]
    fn names_of_files_are_told_apart_from_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("some words");
        fs::write(&path, "x").unwrap();
        assert_eq!(FileName::of(path.to_str().unwrap()), Some(FileName::Exists));
        assert_eq!(
            FileName::of(folder.path().to_str().unwrap()),
            Some(FileName::Exists)
        );
        for looks in ["missing.txt", "answers/1", "a.jsonl", "./x", "x.tar.gz"] {
            assert_eq!(FileName::of(looks), Some(FileName::Looks), "{looks}");
        }
        for words in [
            "",
            "hello",
            "Yes.",
            "3.14",
            "Open a.txt now.",
            "wait...",
            ".",
            "either / or",
            "größe.größe",
        ] {
            let expected = (words == ".").then_some(FileName::Exists);
            assert_eq!(FileName::of(words), expected, "{words}");
        }
    }

    #[test]
    fn a_text_comes_from_where_it_was_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.txt");
        let name = path.to_str().unwrap().to_owned();
        fs::write(&path, "two\nlines\r\n").unwrap();
        let given = |text: &str| TextArgs {
            given: Some(text.to_owned()),
            ..TextArgs::default()
        };
        let words = TextArgs {
            text: Some(name.clone()),
            ..TextArgs::default()
        };
        let file = TextArgs {
            file: Some(path.clone()),
            ..TextArgs::default()
        };
        assert_eq!(given("hello").read().unwrap(), "hello");
        assert_eq!(words.read().unwrap(), name);
        assert_eq!(file.read().unwrap(), "two\nlines");
        let refused = given(&name).read().unwrap_err();
        assert_eq!(Exit::of_error(&refused), Exit::Usage);
        for part in ["--file", "--text"] {
            assert!(refused.to_string().contains(part), "{refused}");
        }
        fs::write(&path, " \n").unwrap();
        for empty in [file, given(""), given(" ")] {
            assert_eq!(Exit::of_error(&empty.read().unwrap_err()), Exit::Nothing);
        }
    }

    #[test]
    fn a_text_with_a_prompt_is_its_answer() {
        let alone = conversation_of("t", JudgedRole::User, None);
        assert_eq!(alone.messages, [message(Role::User, "t")]);
        let answer = conversation_of("t", JudgedRole::User, Some("p"));
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
        assert_eq!(
            found[1].conversation,
            conversation_of("b", JudgedRole::User, Some("p"))
        );
        assert_eq!(
            found[2].conversation,
            conversation_of("c", JudgedRole::User, None)
        );

        let marked = "\u{feff}{\"text\": \"a\"}\r\n  {\"text\": \"b\"}  \r\n\r\n";
        fs::write(&path, marked).unwrap();
        assert_eq!(items(&path).unwrap().len(), 2);

        let mut cut = b"{\"text\": \"a\"}\n{\"text\": \"".to_vec();
        cut.extend(b"\xff\"}\nhello\n{\"text\": \"b\", \"id\": 1}\n");
        fs::write(&path, cut).unwrap();
        let error = items(&path).unwrap_err().to_string();
        let lines: Vec<_> = error.lines().collect();
        assert_eq!(lines.len(), 3, "{error}");
        assert!(lines[0].ends_with("items.jsonl:2: is not UTF-8"), "{error}");
        assert!(lines[1].contains("items.jsonl:3: is no JSON object"), "{error}");
        assert!(lines[2].contains("items.jsonl:4: line 1 is `1`, too"), "{error}");

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

        fs::write(&path, "\n \n").unwrap();
        assert_eq!(Exit::of_error(&items(&path).unwrap_err()), Exit::Nothing);

        let wrong = "{\"text\": 5}\n{\"txt\": \"a\"}\n{\"text\": \"a\", \"messages\": []}\n{}\n";
        fs::write(&path, wrong).unwrap();
        let error = items(&path).unwrap_err().to_string();
        assert_eq!(error.lines().count(), 4, "{error}");
        assert!(error.lines().all(|line| line.contains("items.jsonl:")));
    }
}
