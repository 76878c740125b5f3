//! What the loaders read from a model's files, from which a tokenizer is built.

use super::{added::AddedToken, pipeline::PlainEncoder};

/// Most ids that a vocabulary may have. A file with more is taken to be damaged.
pub(super) const MAX_VOCAB: usize = 1 << 22;

/// Spellings of tokens that end an answer in well-known chat formats, whether or not the file declares them as such.
pub(super) const END_SPELLINGS: [&str; 14] = [
    "<|eot_id|>",
    "<|eom_id|>",
    "<|eot|>",
    "<|eom|>",
    "<|im_end|>",
    "<|end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|return|>",
    "<|END_OF_TURN_TOKEN|>",
    "<end_of_turn>",
    "<turn|>",
    "<EOT>",
    "<｜end▁of▁sentence｜>",
];

/// The bytes of all tokens, one after the other.
#[derive(Default)]
pub(super) struct TokenBytes {
    data: Vec<u8>,
    /// Where the bytes of each token end.
    ends: Vec<usize>,
}

impl TokenBytes {
    /// Number of tokens.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Appends the bytes of the token with the next id.
    pub(super) fn push(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.data);
        self.ends.push(self.data.len());
    }

    /// The bytes of each token, in the order of their ids.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.data[start..end])
    }

    /// The bytes of a token; none for an id that does not exist.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let index = id as usize;
        match self.ends.get(index) {
            Some(&end) => {
                let start = index.checked_sub(1).and_then(|i| self.ends.get(i)).copied();
                &self.data[start.unwrap_or(0)..end]
            }
            None => &[],
        }
    }
}

/// Everything that a tokenizer is built from.
pub(super) struct Parts {
    pub plain: PlainEncoder,
    pub added: Vec<AddedToken>,
    pub bytes: TokenBytes,
    /// The token in front of raw text, if there is one.
    pub bos_for_raw: Option<u32>,
    /// End tokens that the files declare, in any order.
    pub end_tokens: Vec<u32>,
    /// Whether the first space of a decoded text is removed, because encoding adds one.
    pub strips_leading_space: bool,
    pub digest: String,
}
