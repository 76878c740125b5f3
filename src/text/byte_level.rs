//! GPT-2's byte-level alphabet, in which every byte has a printable character, so that merges are pairs of texts.
//!
//! Definition: <https://github.com/openai/gpt-2/blob/master/src/encoder.py> (`bytes_to_unicode`).

/// The character that stands for a byte.
pub(super) fn to_char(byte: u8) -> char {
    if is_printable(byte) {
        return char::from(byte);
    }
    // The others follow in order from U+0100.
    let rank = (0..byte).filter(|&b| !is_printable(b)).count() as u32;
    char::from_u32(0x100 + rank).unwrap_or(char::REPLACEMENT_CHARACTER)
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// Maps characters of the alphabet to bytes, to decode a vocabulary.
pub(super) struct ByteAlphabet {
    bytes: [Option<u8>; 0x180],
}

impl ByteAlphabet {
    pub(super) fn new() -> Self {
        let mut bytes = [None; 0x180];
        for byte in 0..=u8::MAX {
            if let Some(slot) = bytes.get_mut(to_char(byte) as usize) {
                *slot = Some(byte);
            }
        }
        Self { bytes }
    }

    /// Appends the bytes that a token stands for. A token with characters outside of the alphabet stands for its own
    /// spelling.
    pub(super) fn decode(&self, token: &str, out: &mut Vec<u8>) {
        let start = out.len();
        for c in token.chars() {
            match self.bytes.get(c as usize).copied().flatten() {
                Some(byte) => out.push(byte),
                None => {
                    out.truncate(start);
                    out.extend_from_slice(token.as_bytes());
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_characters_and_round_trip() {
        assert_eq!(to_char(b' '), 'Ġ');
        assert_eq!(to_char(b'\n'), 'Ċ');
        assert_eq!(to_char(b'A'), 'A');
        let alphabet = ByteAlphabet::new();
        for byte in 0..=u8::MAX {
            let mut out = Vec::new();
            alphabet.decode(&to_char(byte).to_string(), &mut out);
            assert_eq!(out, [byte]);
        }
        let mut out = b"x".to_vec();
        alphabet.decode("Ġ漢", &mut out);
        assert_eq!(out, "xĠ漢".as_bytes());
    }
}
