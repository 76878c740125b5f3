//! Keeps the text of messages apart from the template's own text.
//!
//! Each message is given to the template between two private-use characters that do not occur in the conversation. They are
//! put inside of the message's outer whitespace, so that a template which trims still trims it, and they are removed from
//! the result, where they show which text belongs to a message. A template that looks for markup at the beginning of a
//! message (`content.startswith('<tool_response>')`) does not find it, so the text of a user does not steer the template.

use std::{collections::BTreeSet, ops::RangeInclusive};

use super::{
    chat::{ChatMessage, TemplateError},
    python,
    segment::Segment,
};

/// The characters of which marks are made: those that Unicode leaves to private use in its first plane.
pub(super) const PRIVATE_USE: RangeInclusive<char> = '\u{e000}'..='\u{f8ff}';

/// The characters around messages. A marked message is `open`, its index in decimal, `close`, its text, `close`.
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    /// Two characters that occur neither in these texts of a conversation nor in the template.
    pub(super) fn absent_from<'a>(
        texts: impl Iterator<Item = &'a str>,
        source: &str,
    ) -> Result<Self, TemplateError> {
        let used: std::collections::HashSet<char> = texts
            .flat_map(str::chars)
            .chain(source.chars())
            .filter(|c| PRIVATE_USE.contains(c))
            .collect();
        let mut free = PRIVATE_USE.filter(|c| !used.contains(c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Self { open, close }),
            _ => Err(TemplateError::Refused(
                "it uses every private-use character from U+E000 to U+F8FF".into(),
            )),
        }
    }

    /// A message with marks inside of its outer whitespace. A message of whitespace only gets none.
    pub(super) fn around(&self, index: usize, content: &str) -> String {
        self.part(index, Part::Whole, content)
    }

    /// The same for a message of the assistant that begins with its thoughts. Thoughts and answer are marked separately and the
    /// tags stay visible, so that a template which leaves thoughts out can find them.
    pub(super) fn around_thoughts(&self, index: usize, content: &str) -> Option<String> {
        let Thoughts {
            before,
            open,
            thought,
            close,
            answer,
        } = Thoughts::of(content)?;
        let (thought, answer) = (
            self.part(index, Part::Thought, thought),
            self.part(index, Part::Answer, answer),
        );
        Some(format!("{before}{open}{thought}{close}{answer}"))
    }

    /// A word of calls or results of tools with marks, by its index among these.
    pub(super) fn around_word(&self, index: usize, text: &str) -> String {
        self.part(index, Part::Word, text)
    }

    fn part(&self, index: usize, part: Part, text: &str) -> String {
        let words = python::strip(text);
        if words.is_empty() {
            return text.to_owned();
        }
        let before = text.len() - text.trim_start_matches(python::is_space).len();
        let (Marks { open, close }, after) = (self, &text[before + words.len()..]);
        let letter = part.letter();
        format!(
            "{}{open}{index}{letter}{close}{words}{close}{after}",
            &text[..before]
        )
    }

    /// Splits rendered text at the marks and removes them. Checks that it contains every message and every word of calls
    /// completely; only thoughts of the assistant and words that may be left out may be missing.
    pub(super) fn split(
        &self,
        rendered: &str,
        messages: &[ChatMessage],
        marked: &[String],
        words: &[ToolWord],
    ) -> Result<Rendered, TemplateError> {
        let dropped = |(index, part): (usize, Part)| match (part, words.get(index)) {
            (Part::Word, Some(word)) => TemplateError::CallsDropped(word.message),
            _ => TemplateError::MessageDropped(index),
        };
        let present = |index: usize, part: Part| {
            let mark = format!("{}{index}{}{}", self.open, part.letter(), self.close);
            marked.get(index).is_some_and(|marked| marked.contains(&mark))
        };
        // Parts that have not been found yet.
        let mut missing: BTreeSet<(usize, Part)> = (0..messages.len())
            .flat_map(|index| Part::ALL.map(|part| (index, part)))
            .filter(|(index, part)| present(*index, *part))
            .chain((0..words.len()).map(|index| (index, Part::Word)))
            .collect();
        let all = missing.clone();
        let mut segments = Vec::new();
        let mut template = String::new();
        let mut pieces = rendered.split(self.open);
        template.extend(pieces.next());
        // Set if the template has cut a message into pieces.
        let mut cut = template.contains(self.close);
        for piece in pieces {
            let mut parts = piece.split(self.close);
            let (name, text, after) = (parts.next(), parts.next(), parts.next());
            let known = name.and_then(Part::parse).filter(|known| all.contains(known));
            let is_whole = |(index, part): (usize, Part), text: &str| match part {
                Part::Word => words.get(index).is_some_and(|word| word.is_written_as(text)),
                _ => messages
                    .get(index)
                    .and_then(|message| part.text(&message.content))
                    .is_some_and(|whole| whole == text),
            };
            match (known, text, after) {
                (Some(known), Some(text), Some(after)) if is_whole(known, text) => {
                    missing.remove(&known);
                    if !template.is_empty() {
                        segments.push(Segment::Template(std::mem::take(&mut template)));
                    }
                    segments.push(Segment::Content(text.to_owned()));
                    template.push_str(after);
                    cut |= parts.next().is_some();
                }
                (Some(known), ..) => return Err(dropped(known)),
                _ => cut = true,
            }
        }
        let may_be_missing = |(index, part): &(usize, Part)| match part {
            Part::Thought => true,
            Part::Word => words
                .get(*index)
                .is_some_and(|word| word.need == Need::MayBeLeftOut),
            Part::Whole | Part::Answer => false,
        };
        if let Some(known) = missing.iter().find(|known| !may_be_missing(known)) {
            return Err(dropped(*known));
        }
        if cut {
            return Err(TemplateError::Invalid("it cuts messages into pieces".into()));
        }
        if !template.is_empty() {
            segments.push(Segment::Template(template));
        }
        Ok(Rendered {
            segments,
            thoughts_left_out: missing
                .into_iter()
                .filter(|(_, part)| *part == Part::Thought)
                .map(|(index, _)| index)
                .collect(),
        })
    }
}

/// A name of a tool, or a text in the arguments of a call.
pub(super) struct ToolWord {
    /// Index of the message that has it.
    pub(super) message: usize,
    /// Without white space around it; not empty.
    pub(super) text: String,
    pub(super) need: Need,
}

/// Whether a template has to show a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Without it, the model would not see what was called.
    Shown,
    /// Many templates say nothing of it.
    MayBeLeftOut,
}

impl ToolWord {
    /// Whether a template has written this word: as it is, or as JSON writes it between quotes.
    pub(super) fn is_written_as(&self, words: &str) -> bool {
        let from_json = || serde_json::from_str::<String>(&format!("\"{words}\"")).ok();
        words == self.text || from_json().is_some_and(|text| text == self.text)
    }
}

/// A conversation that was rendered to a prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    /// The prompt, with the text of messages as content.
    pub segments: Vec<Segment>,
    /// Indices of the assistant's messages whose thoughts the template left out.
    pub thoughts_left_out: Vec<usize>,
}

/// The part of a message that is between marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Whole,
    Thought,
    Answer,
    /// A word of calls or results of tools.
    Word,
}

impl Part {
    /// Those of a message's text.
    const ALL: [Self; 3] = [Self::Whole, Self::Thought, Self::Answer];

    /// The letter after the index of the message in a mark.
    fn letter(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Thought => "t",
            Self::Answer => "a",
            Self::Word => "w",
        }
    }

    /// Reads a mark.
    fn parse(name: &str) -> Option<(usize, Self)> {
        let (index, part) = match name.as_bytes().last()? {
            b't' => (&name[..name.len() - 1], Self::Thought),
            b'a' => (&name[..name.len() - 1], Self::Answer),
            b'w' => (&name[..name.len() - 1], Self::Word),
            _ => (name, Self::Whole),
        };
        Some((index.parse().ok()?, part))
    }

    /// The text of this part of a message, without outer whitespace.
    fn text(self, content: &str) -> Option<&str> {
        Some(python::strip(match self {
            Self::Whole => content,
            Self::Thought => Thoughts::of(content)?.thought,
            Self::Answer => Thoughts::of(content)?.answer,
            Self::Word => return None,
        }))
    }
}

/// The tags around the thoughts of models. The opening one may be missing, because some prompts end with it.
const THOUGHT_TAGS: [(&str, &str); 5] = [
    ("<think>", "</think>"),
    ("[THINK]", "[/THINK]"),
    ("<seed:think>", "</seed:think>"),
    ("<mm:think>", "</mm:think>"),
    ("◁think▷", "◁/think▷"),
];

/// The parts of a message of the assistant that begins with its thoughts.
struct Thoughts<'a> {
    /// Whitespace in front.
    before: &'a str,
    open: &'a str,
    thought: &'a str,
    close: &'a str,
    answer: &'a str,
}

impl<'a> Thoughts<'a> {
    fn of(content: &'a str) -> Option<Self> {
        let words = content.trim_start_matches(python::is_space);
        let before = &content[..content.len() - words.len()];
        THOUGHT_TAGS.iter().find_map(|(open, close)| {
            let (thought, answer) = words.split_once(close)?;
            let (tag, thought) = match thought.strip_prefix(open) {
                Some(inside) => (*open, inside),
                None => ("", thought),
            };
            // Text in front of the opening tag is not a thought.
            (!thought.contains(open)).then_some(Self {
                before,
                open: tag,
                thought,
                close,
                answer,
            })
        })
    }
}
