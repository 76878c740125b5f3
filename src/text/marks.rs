//! Keeps the messages' words apart from the template's own text.
//!
//! Each message is handed to the template between two private-use characters that occur nowhere in the
//! conversation. They go inside of the message's outer whitespace, so that a template which trims still trims,
//! and they are taken out of the result, where they show what is whose. A template that looks for markup at the
//! beginning of a message (`content.startswith('<tool_response>')`) does not find it: somebody's words do not
//! steer the template.

use super::{ChatMessage, Segment, TemplateError, python};

/// The characters around messages: `open`, the message's index in decimal, `close`, the words, `close`.
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    /// Two characters that neither the messages nor the template have.
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

    /// The message with marks inside of its outer whitespace; a message of nothing but whitespace has none.
    pub(super) fn around(&self, index: usize, content: &str) -> String {
        let words = python::strip(content);
        if words.is_empty() {
            return content.to_owned();
        }
        let before = content.len() - content.trim_start_matches(python::is_space).len();
        let (Marks { open, close }, after) = (self, &content[before + words.len()..]);
        format!("{}{open}{index}{close}{words}{close}{after}", &content[..before])
    }

    /// Takes the marks out of what was rendered. That every message is there, whole, is checked.
    pub(super) fn split(
        &self,
        rendered: &str,
        messages: &[ChatMessage],
    ) -> Result<Vec<Segment>, TemplateError> {
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
