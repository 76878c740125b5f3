//! Keeps the text of messages apart from the template's own text.
//!
//! Each message is given to the template between two private-use characters that do not occur in the conversation. They are
//! put inside of the message's outer whitespace, so that a template which trims still trims it, and they are removed from
//! the result, where they show which text belongs to a message. A template that looks for markup at the beginning of a
//! message (`content.startswith('<tool_response>')`) does not find it, so the text of a user does not steer the template.

use std::collections::BTreeSet;

use super::{
    chat::{ChatMessage, TemplateError},
    python,
    segment::Segment,
};

/// The characters around messages. A marked message is `open`, its index in decimal, `close`, its text, `close`.
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    /// Two characters that occur neither in the messages nor in the template.
    pub(super) fn absent_from(messages: &[ChatMessage], source: &str) -> Result<Self, TemplateError> {
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

    /// Splits rendered text at the marks and removes them. Checks that it contains every message completely; only thoughts of
    /// the assistant may be left out.
    pub(super) fn split(
        &self,
        rendered: &str,
        messages: &[ChatMessage],
        marked: &[String],
    ) -> Result<Rendered, TemplateError> {
        let present = |index: usize, part: Part| {
            let mark = format!("{}{index}{}{}", self.open, part.letter(), self.close);
            marked.get(index).is_some_and(|marked| marked.contains(&mark))
        };
        // Parts that have not been found yet.
        let mut missing: BTreeSet<(usize, Part)> = (0..messages.len())
            .flat_map(|index| Part::ALL.map(|part| (index, part)))
            .filter(|(index, part)| present(*index, *part))
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
            let (name, words, after) = (parts.next(), parts.next(), parts.next());
            let known = name.and_then(Part::parse).filter(|known| all.contains(known));
            let expected = known.and_then(|(index, part)| part.text(&messages.get(index)?.content));
            match (known, words, after) {
                (Some(known), Some(words), Some(after)) if Some(words) == expected => {
                    missing.remove(&known);
                    if !template.is_empty() {
                        segments.push(Segment::Template(std::mem::take(&mut template)));
                    }
                    segments.push(Segment::Content(words.to_owned()));
                    template.push_str(after);
                    cut |= parts.next().is_some();
                }
                (Some((index, _)), ..) => return Err(TemplateError::MessageDropped(index)),
                _ => cut = true,
            }
        }
        if let Some((index, _)) = missing.iter().find(|(_, part)| *part != Part::Thought) {
            return Err(TemplateError::MessageDropped(*index));
        }
        if cut {
            return Err(TemplateError::Invalid("it cuts messages into pieces".into()));
        }
        if !template.is_empty() {
            segments.push(Segment::Template(template));
        }
        Ok(Rendered {
            segments,
            thoughts_left_out: missing.into_iter().map(|(index, _)| index).collect(),
        })
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
}

impl Part {
    const ALL: [Self; 3] = [Self::Whole, Self::Thought, Self::Answer];

    /// The letter after the index of the message in a mark.
    fn letter(self) -> &'static str {
        match self {
            Self::Whole => "",
            Self::Thought => "t",
            Self::Answer => "a",
        }
    }

    /// Reads a mark.
    fn parse(name: &str) -> Option<(usize, Self)> {
        let (index, part) = match name.as_bytes().last()? {
            b't' => (&name[..name.len() - 1], Self::Thought),
            b'a' => (&name[..name.len() - 1], Self::Answer),
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
