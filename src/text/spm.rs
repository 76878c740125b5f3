//! SentencePiece's BPE: the two neighbours whose union has the best score are joined first.
//!
//! Algorithm: Kudo and Richardson 2018, <https://aclanthology.org/D18-2012>, section 3.1 (a heap of candidate
//! pairs, so that n characters cost O(n log n)). Of equal scores the leftmost pair goes first, as in
//! SentencePiece and llama.cpp.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap},
};

use super::{pipeline::invalid, tokenizer::TokenizerError};

/// SentencePiece's space.
pub(super) const SPACE: char = '▁';

/// A token that merging may make.
#[derive(Debug, Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
}

/// Vocabulary and scores.
pub(super) struct ScoredMerges {
    pieces: HashMap<Box<str>, Piece>,
    /// Bytes of the longest piece.
    longest: usize,
    /// Tokens `<0xNN>`, for characters that are no piece.
    bytes: [Option<u32>; 256],
    /// Stands for characters that are neither.
    unknown: Option<u32>,
    /// A space goes in front of text.
    adds_space: bool,
}

impl ScoredMerges {
    /// A vocabulary without pieces.
    pub(super) fn new(unknown: Option<u32>, adds_space: bool) -> Self {
        Self {
            pieces: HashMap::new(),
            longest: 0,
            bytes: [None; 256],
            unknown,
            adds_space,
        }
    }

    /// Adds a token; one that is spelled as a byte stands for that byte. A spelling that appears twice keeps
    /// its first id.
    pub(super) fn add(&mut self, id: u32, text: &str, score: f32) -> Result<(), TokenizerError> {
        if !score.is_finite() {
            return Err(invalid(format!("the score of token `{text}` is not a number")));
        }
        if let Some(byte) = byte_of(text) {
            self.bytes[usize::from(byte)].get_or_insert(id);
        } else if !text.is_empty() {
            self.longest = self.longest.max(text.len());
            self.pieces.entry(text.into()).or_insert(Piece { id, score });
        }
        Ok(())
    }

    /// Appends the tokens of plain text.
    pub(super) fn encode(&self, text: &str, out: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if text.is_empty() {
            return Ok(());
        }
        let mut spaced = String::with_capacity(text.len() + text.len() / 4 + SPACE.len_utf8());
        if self.adds_space {
            spaced.push(SPACE);
        }
        spaced.extend(text.chars().map(|c| if c == ' ' { SPACE } else { c }));
        let mut chain = Chain::of(&spaced);
        self.merge(&spaced, &mut chain);
        let mut last_is_unknown = false;
        for (start, end) in chain.spans() {
            let piece = &spaced[start..end];
            last_is_unknown = match self.pieces.get(piece) {
                Some(found) => {
                    out.push(found.id);
                    false
                }
                None => self.spell(piece, last_is_unknown, out)?,
            };
        }
        Ok(())
    }

    fn merge(&self, text: &str, chain: &mut Chain) {
        let mut candidates = BinaryHeap::with_capacity(chain.symbols.len());
        for left in 0..chain.symbols.len() {
            candidates.extend(self.candidate(text, chain, left));
        }
        while let Some(Candidate { left, end, .. }) = candidates.pop() {
            // Either side may have been joined to something else since.
            if chain.end_of_pair(left) != Some(end) {
                continue;
            }
            chain.join(left);
            if let Some(before) = chain.before(left) {
                candidates.extend(self.candidate(text, chain, before));
            }
            candidates.extend(self.candidate(text, chain, left));
        }
    }

    /// The pair that begins with the symbol `left`, if its union is a piece.
    fn candidate(&self, text: &str, chain: &Chain, left: usize) -> Option<Candidate> {
        let start = chain.symbols.get(left)?.start;
        let end = chain.end_of_pair(left)?;
        if end - start > self.longest {
            return None;
        }
        let score = self.pieces.get(&text[start..end])?.score;
        Some(Candidate { score, left, end })
    }

    /// Appends the byte tokens of a character that is no piece, or else the unknown token, one for a run.
    /// Returns whether it was the latter.
    fn spell(&self, piece: &str, after_unknown: bool, out: &mut Vec<u32>) -> Result<bool, TokenizerError> {
        let bytes = piece.bytes().map(|b| self.bytes[usize::from(b)]);
        if let Some(ids) = bytes.collect::<Option<Vec<u32>>>() {
            out.extend(ids);
            return Ok(false);
        }
        match self.unknown {
            Some(_) if after_unknown => {}
            Some(unknown) => out.push(unknown),
            None => {
                return Err(invalid(format!(
                    "the vocabulary has no token for `{}`, which the text contains",
                    piece.escape_unicode()
                )));
            }
        }
        Ok(true)
    }
}

/// The byte that a token such as `<0x0A>` stands for.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && !hex.starts_with('+'))
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

/// The bytes of a SentencePiece token: `▁` is a space, `<0x0A>` a byte.
pub(super) fn piece_bytes(piece: &str, out: &mut Vec<u8>) {
    if let Some(byte) = byte_of(piece) {
        out.push(byte);
        return;
    }
    for c in piece.chars() {
        let c = if c == SPACE { ' ' } else { c };
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
}

/// A pair that may be joined.
struct Candidate {
    score: f32,
    /// Index of the left symbol.
    left: usize,
    /// Where the right one ended when the pair was found.
    end: usize,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let key = |c: &Self| (Reverse(c.left), c.end);
        self.score
            .total_cmp(&other.score)
            .then_with(|| key(self).cmp(&key(other)))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Candidate {}

/// A piece of text between two neighbours; one that was joined to its left neighbour has no length.
struct Symbol {
    start: usize,
    end: usize,
    before: Option<usize>,
    after: Option<usize>,
}

/// Symbols in the order of the text.
struct Chain {
    symbols: Vec<Symbol>,
}

impl Chain {
    /// Each character is a symbol.
    fn of(text: &str) -> Self {
        let count = text.chars().count();
        let symbols = text.char_indices().enumerate().map(|(i, (start, c))| Symbol {
            start,
            end: start + c.len_utf8(),
            before: i.checked_sub(1),
            after: (i + 1 < count).then_some(i + 1),
        });
        Self {
            symbols: symbols.collect(),
        }
    }

    fn before(&self, index: usize) -> Option<usize> {
        self.symbols[index].before
    }

    /// Where the right neighbour of a symbol ends; `None` when there is none or the symbol is gone.
    fn end_of_pair(&self, left: usize) -> Option<usize> {
        let symbol = &self.symbols[left];
        if symbol.start == symbol.end {
            return None;
        }
        symbol.after.map(|right| self.symbols[right].end)
    }

    /// Joins a symbol with its right neighbour.
    fn join(&mut self, left: usize) {
        let Some(right) = self.symbols[left].after else {
            return;
        };
        let (end, after) = (self.symbols[right].end, self.symbols[right].after);
        self.symbols[left].end = end;
        self.symbols[left].after = after;
        self.symbols[right].start = end;
        if let Some(after) = after {
            self.symbols[after].before = Some(left);
        }
    }

    /// Where the remaining symbols begin and end.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let alive = self.symbols.iter().filter(|s| s.start < s.end);
        alive.map(|s| (s.start, s.end))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vocabulary(pieces: &[(&str, f32)], unknown: Option<u32>, adds_space: bool) -> ScoredMerges {
        let mut merges = ScoredMerges::new(unknown, adds_space);
        for (id, (text, score)) in pieces.iter().enumerate() {
            merges.add(id as u32, text, *score).unwrap();
        }
        merges
    }

    fn encode(merges: &ScoredMerges, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        merges.encode(text, &mut ids).unwrap();
        ids
    }

    #[test]
    fn best_score_first_then_leftmost() {
        let merges = vocabulary(
            &[("a", -9.0), ("b", -9.0), ("ab", -1.0), ("ba", -0.5), ("aa", -1.0)],
            None,
            false,
        );
        assert_eq!(encode(&merges, "aba"), [0, 3]);
        assert_eq!(encode(&merges, "aaa"), [4, 0]);
        assert_eq!(encode(&merges, "aab"), [4, 1]);
        assert!(merges.encode("c", &mut Vec::new()).is_err());
    }

    #[test]
    fn bytes_then_unknown() {
        let merges = vocabulary(
            &[
                ("<unk>", 0.0),
                ("a", 0.0),
                ("▁", 0.0),
                ("<0xC3>", 0.0),
                ("<0xA9>", 0.0),
            ],
            Some(0),
            true,
        );
        assert!(encode(&merges, "").is_empty());
        assert_eq!(encode(&merges, "aé a"), [2, 1, 3, 4, 2, 1]);
        // A run of unknown characters is one token; `<0xC3>` in a text is no byte.
        assert_eq!(encode(&merges, "xya<0xC3>"), [2, 0, 1, 0]);
    }

    #[test]
    fn spellings_of_bytes() {
        assert_eq!(byte_of("<0x0A>"), Some(10));
        for text in ["<0x0A", "0x0A", "<0x+A>", "<0x00A>", "<0xGG>", "<0x>", "▁"] {
            assert_eq!(byte_of(text), None, "{text}");
        }
    }

    /// The definition: join the best pair of the whole text, leftmost of equals, until there is none.
    fn slowly(pieces: &[(&str, f32)], text: &str) -> Vec<u32> {
        let find = |text: &str| pieces.iter().position(|(p, _)| *p == text);
        let mut symbols: Vec<String> = text.chars().map(String::from).collect();
        loop {
            let pairs = symbols
                .windows(2)
                .enumerate()
                .filter_map(|(i, pair)| find(&pair.concat()).map(|id| (pieces[id].1, Reverse(i))));
            let Some((_, Reverse(at))) = pairs.max_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1))) else {
                return symbols.iter().map(|s| find(s).unwrap() as u32).collect();
            };
            let right = symbols.remove(at + 1);
            symbols[at].push_str(&right);
        }
    }

    proptest! {
        #[test]
        fn equals_the_definition(text in "[abc]{0,24}", scores in prop::collection::vec(0u8..4, 12)) {
            let spellings = ["a", "b", "c", "ab", "bc", "ca", "aa", "abc", "aab", "bca", "aaaa", "abcab"];
            let pieces: Vec<(&str, f32)> = spellings.iter().zip(&scores).map(|(t, s)| (*t, f32::from(*s))).collect();
            prop_assert_eq!(encode(&vocabulary(&pieces, None, false), &text), slowly(&pieces, &text));
        }
    }
}
