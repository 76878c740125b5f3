//! Server-sent events, as endpoints send answers (WHATWG HTML, section 9.2): only the data of each event is read.

use super::error::RemoteError;

/// Most bytes of the data of one event, and of one line. An event is one token with what is said of it.
const EVENT_BYTES: usize = 256 << 10;

/// Splits bytes into events as they arrive.
#[derive(Debug, Default)]
pub(super) struct SseReader {
    /// The line that has not ended.
    line: Vec<u8>,
    /// Lines of the event that has not ended.
    data: Vec<u8>,
    has_data: bool,
    /// Whether the last byte was a carriage return, after which a line feed ends no further line.
    after_return: bool,
}

impl SseReader {
    /// Takes bytes, and adds the data of each event that ends with them to `events`.
    pub(super) fn push(&mut self, bytes: &[u8], events: &mut Vec<String>) -> Result<(), RemoteError> {
        for &byte in bytes {
            let follows_return = std::mem::replace(&mut self.after_return, byte == b'\r');
            match byte {
                b'\n' if follows_return => {}
                b'\n' | b'\r' => self.end_line(events)?,
                _ if self.line.len() >= EVENT_BYTES => return Err(too_large()),
                _ => self.line.push(byte),
            }
        }
        Ok(())
    }

    fn end_line(&mut self, events: &mut Vec<String>) -> Result<(), RemoteError> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            if std::mem::take(&mut self.has_data) {
                let data = String::from_utf8(std::mem::take(&mut self.data));
                events.push(data.map_err(|_| RemoteError::malformed("an event is not UTF-8"))?);
            }
            return Ok(());
        }
        // Comments and other fields say nothing of the answer.
        let value = match line.strip_prefix(b"data:") {
            Some(value) => value.strip_prefix(b" ").unwrap_or(value),
            None if line == b"data" => &[],
            None => return Ok(()),
        };
        if self.has_data {
            self.data.push(b'\n');
        }
        self.has_data = true;
        if self.data.len() + value.len() > EVENT_BYTES {
            return Err(too_large());
        }
        self.data.extend_from_slice(value);
        Ok(())
    }
}

fn too_large() -> RemoteError {
    RemoteError::TooLarge {
        what: "an event of its answer",
        limit: EVENT_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn events(pieces: &[&[u8]]) -> Result<Vec<String>, RemoteError> {
        let (mut reader, mut events) = (SseReader::default(), Vec::new());
        for piece in pieces {
            reader.push(piece, &mut events)?;
        }
        Ok(events)
    }

    #[test]
    fn events_end_with_an_empty_line_whatever_ends_lines() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!(
                ": hello{end}data: one{end}{end}event: x{end}data:two{end}data: 2{end}{end}id: 7{end}{end}"
            );
            assert_eq!(events(&[text.as_bytes()]).unwrap(), ["one", "two\n2"], "{end:?}");
        }
        // The stream ended within an event, which is no event then.
        assert_eq!(events(&[b"data: cut"]).unwrap(), [""; 0]);
        assert_eq!(events(&[b"data\n\n"]).unwrap(), [""]);
    }

    #[test]
    fn endless_lines_endless_events_and_other_bytes_are_refused() {
        let chunk = vec![b'x'; EVENT_BYTES];
        assert_eq!(events(&[b"data: ", &chunk]), Err(too_large()));
        assert_eq!(events(&[b": ", &chunk]), Err(too_large()));
        let half = format!("data: {}\n", "x".repeat(EVENT_BYTES / 2));
        assert_eq!(events(&[half.as_bytes(), half.as_bytes()]), Err(too_large()));
        let wrong = events(&[b"data: \xff\n\n"]);
        assert_eq!(wrong, Err(RemoteError::malformed("an event is not UTF-8")));
    }

    proptest! {
        #[test]
        fn where_bytes_are_cut_does_not_matter(text in "(data:|: | |x|é|\n|\r){0,40}", cut in 0..80usize) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(events(&[bytes]), events(&[&bytes[..cut], &bytes[cut..]]));
        }
    }
}
