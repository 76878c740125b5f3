//! SentencePiece's BPE: of all pairs of neighbours, the one whose union has the best score is joined first.
//!
//! Algorithm: Kudo and Richardson 2018, <https://aclanthology.org/D18-2012>, section 3.1 (a heap of candidate
//! pairs, so that n characters cost O(n log n)). Of equal scores the leftmost pair goes first, as in
//! SentencePiece and llama.cpp.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BinaryHeap, HashMap, HashSet},
};

use super::{
    allowance::Meter,
    error::{TokenizerError, invalid},
};

/// Least bytes of the parts in which text is merged, if it can be split there.
const PART_BYTES: usize = 1 << 10;

/// Most bytes of a part, because positions in it have 32 bits.
const MOST_PART_BYTES: usize = u32::MAX as usize / 4;

/// SentencePiece's space.
pub(super) const SPACE: char = '▁';

/// A token that may result from merging.
#[derive(Debug, Clone, Copy)]
struct Piece {
    id: u32,
    score: f32,
}

/// A vocabulary with scores.
pub(super) struct ScoredMerges {
    pieces: HashMap<Box<str>, Piece>,
    /// Bytes of the longest piece.
    longest: usize,
    /// The tokens `<0xNN>`, for characters that are no piece.
    bytes: [Option<u32>; 256],
    /// The token for characters without a piece or byte tokens.
    unknown: Option<u32>,
    /// Whether a space is added in front of text.
    adds_space: bool,
    /// Characters that some piece has directly before a space.
    before_space: HashSet<char>,
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
            before_space: HashSet::from([SPACE]),
        }
    }

    /// Whether every character has a token or tokens of its own, so that none is left out or joined into one unknown token.
    pub(super) fn keeps_text(&self) -> bool {
        self.unknown.is_none() || self.bytes.iter().all(Option::is_some)
    }

    /// Adds a token. A token that is spelled as a byte stands for that byte. A spelling that occurs twice keeps its first id.
    pub(super) fn add(&mut self, id: u32, text: &str, score: f32) -> Result<(), TokenizerError> {
        if !score.is_finite() {
            return Err(invalid(format!("the score of token `{text}` is not a number")));
        }
        if let Some(byte) = byte_of(text) {
            self.bytes[usize::from(byte)].get_or_insert(id);
        } else if !text.is_empty() {
            self.longest = self.longest.max(text.len());
            let pairs = text.chars().zip(text.chars().skip(1));
            self.before_space
                .extend(pairs.filter(|(_, c)| *c == SPACE).map(|(before, _)| before));
            self.pieces.entry(text.into()).or_insert(Piece { id, score });
        }
        Ok(())
    }

    /// Appends the tokens of plain text.
    pub(super) fn encode(&self, text: &str, out: &mut Meter<'_>) -> Result<(), TokenizerError> {
        let mut last_is_unknown = false;
        let mut spaced = String::new();
        for (index, part) in self.parts(text).enumerate() {
            out.begin(part.len(), 0)?;
            if part.len() > MOST_PART_BYTES {
                return Err(invalid("a text of more than a GiB cannot be split anywhere"));
            }
            spaced.clear();
            if self.adds_space && index == 0 {
                spaced.push(SPACE);
            }
            spaced.extend(part.chars().map(|c| if c == ' ' { SPACE } else { c }));
            let mut chain = Chain::of(&spaced);
            self.merge(&spaced, &mut chain);
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
        }
        Ok(())
    }

    /// Splits a text where no piece reaches across: in front of a space, after a character that no piece has before a space.
    /// Merging never joins text that is no piece, so the tokens of the parts are those of the whole.
    fn parts<'t>(&self, text: &'t str) -> impl Iterator<Item = &'t str> {
        let mut rest = text;
        std::iter::from_fn(move || {
            let mut before = SPACE;
            let cut = rest.char_indices().find(|(at, c)| {
                let c = if *c == ' ' { SPACE } else { *c };
                let found = c == SPACE && *at >= PART_BYTES && !self.before_space.contains(&before);
                before = c;
                found
            });
            let (part, later) = rest.split_at(cut.map_or(rest.len(), |(at, _)| at));
            rest = later;
            (!part.is_empty()).then_some(part)
        })
    }

    fn merge(&self, text: &str, chain: &mut Chain) {
        let mut candidates = BinaryHeap::with_capacity(chain.symbols.len());
        for left in 0..chain.len() {
            candidates.extend(self.candidate(text, chain, left));
        }
        while let Some(Candidate { left, end, .. }) = candidates.pop() {
            // Either side may have been joined to another symbol since the pair was found.
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

    /// The pair that begins with the symbol `left`, if the union of its symbols is a piece.
    fn candidate(&self, text: &str, chain: &Chain, left: u32) -> Option<Candidate> {
        let start = chain.symbols.get(left as usize)?.start;
        let end = chain.end_of_pair(left)?;
        let (from, to) = (start as usize, end as usize);
        if to - from > self.longest {
            return None;
        }
        let score = self.pieces.get(&text[from..to])?.score;
        Some(Candidate { score, left, end })
    }

    /// Appends the byte tokens of a character that is no piece, otherwise the unknown token, once for a run of such
    /// characters. Returns whether it was the unknown token.
    fn spell(&self, piece: &str, after_unknown: bool, out: &mut Meter<'_>) -> Result<bool, TokenizerError> {
        let bytes = piece.bytes().map(|b| self.bytes[usize::from(b)]);
        if let Some(ids) = bytes.collect::<Option<Vec<u32>>>() {
            ids.into_iter().for_each(|id| out.push(id));
            return Ok(false);
        }
        match self.unknown {
            Some(_) if after_unknown => {}
            Some(unknown) => out.push(unknown),
            None => {
                let lost = piece.chars().next();
                return Err(TokenizerError::NotEncodable(
                    lost.unwrap_or(char::REPLACEMENT_CHARACTER),
                ));
            }
        }
        Ok(true)
    }
}

/// The byte that a token such as `<0x0A>` stands for; `None` for other tokens.
pub(super) fn byte_of(piece: &str) -> Option<u8> {
    let hex = piece.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2 && !hex.starts_with('+'))
        .then(|| u8::from_str_radix(hex, 16).ok())
        .flatten()
}

/// Appends the bytes of a SentencePiece token, in which `▁` is a space and `<0x0A>` a byte.
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
    left: u32,
    /// End of the right symbol when the pair was found.
    end: u32,
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

/// In place of a neighbour that does not exist.
const NONE: u32 = u32::MAX;

/// A piece of text with its two neighbours. A symbol that was joined to its left neighbour is empty. Positions have 32 bits,
/// because a long text has a symbol for each character.
struct Symbol {
    start: u32,
    end: u32,
    before: u32,
    after: u32,
}

/// The symbols of a text, in order.
struct Chain {
    symbols: Vec<Symbol>,
}

impl Chain {
    /// The symbols of a text, one for each character.
    fn of(text: &str) -> Self {
        let mut symbols = Vec::with_capacity(text.chars().count());
        let mut start = 0;
        for (index, c) in (0u32..).zip(text.chars()) {
            let end = start + c.len_utf8() as u32;
            symbols.push(Symbol {
                start,
                end,
                before: index.wrapping_sub(1),
                after: index + 1,
            });
            start = end;
        }
        if let Some(last) = symbols.last_mut() {
            last.after = NONE;
        }
        Self { symbols }
    }

    fn len(&self) -> u32 {
        self.symbols.len() as u32
    }

    fn before(&self, index: u32) -> Option<u32> {
        let before = self.symbols[index as usize].before;
        (before != NONE).then_some(before)
    }

    /// End of the right neighbour of a symbol; `None` if there is none, or the symbol is empty.
    fn end_of_pair(&self, left: u32) -> Option<u32> {
        let symbol = &self.symbols[left as usize];
        if symbol.start == symbol.end || symbol.after == NONE {
            return None;
        }
        Some(self.symbols[symbol.after as usize].end)
    }

    /// Joins a symbol with its right neighbour.
    fn join(&mut self, left: u32) {
        let right = self.symbols[left as usize].after;
        if right == NONE {
            return;
        }
        let right = &mut self.symbols[right as usize];
        let (end, after) = (right.end, right.after);
        right.start = end;
        let left_symbol = &mut self.symbols[left as usize];
        left_symbol.end = end;
        left_symbol.after = after;
        if after != NONE {
            self.symbols[after as usize].before = left;
        }
    }

    /// Ranges of the symbols that are not empty.
    fn spans(&self) -> impl Iterator<Item = (usize, usize)> {
        let alive = self.symbols.iter().filter(|s| s.start < s.end);
        alive.map(|s| (s.start as usize, s.end as usize))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::text::{Allowance, Watch};

    fn vocabulary(pieces: &[(&str, f32)], unknown: Option<u32>, adds_space: bool) -> ScoredMerges {
        let mut merges = ScoredMerges::new(unknown, adds_space);
        for (id, (text, score)) in pieces.iter().enumerate() {
            merges.add(id as u32, text, *score).unwrap();
        }
        merges
    }

    fn encode(merges: &ScoredMerges, text: &str) -> Vec<u32> {
        try_encode(merges, text).unwrap()
    }

    fn try_encode(merges: &ScoredMerges, text: &str) -> Result<Vec<u32>, TokenizerError> {
        let watch = Watch::default();
        let mut out = Meter::new(Allowance {
            tokens: usize::MAX,
            watch: &watch,
        });
        merges.encode(text, &mut out)?;
        out.finish()
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
        let lost = try_encode(&merges, "abc");
        assert!(matches!(lost, Err(TokenizerError::NotEncodable('c'))));
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

    #[test]
    fn text_is_cut_where_no_piece_reaches_across() {
        let merges = vocabulary(
            &[("a", 0.0), ("b", 0.0), ("▁", 0.0), ("b▁", 0.0), ("▁▁", 0.0)],
            None,
            false,
        );
        let long = "a".repeat(PART_BYTES);
        let text = format!("{long} a▁{long}  b {long}b a");
        let parts: Vec<&str> = merges.parts(&text).collect();
        assert_eq!(parts.concat(), text);
        assert_eq!(
            parts,
            [long.clone(), format!(" a▁{long}"), format!("  b {long}b a")]
        );
        assert_eq!(merges.parts("").count(), 0);
    }

    proptest! {
        /// Long texts, which are cut, have the tokens that they have as one part.
        #[test]
        fn parts_have_the_tokens_of_the_whole(
            units in prop::collection::vec("[abc ]{1,9}", 300..800),
            scores in prop::collection::vec(0u8..4, 14),
        ) {
            let spellings = [
                "a", "b", "c", "▁", "ab", "bc", "▁a", "▁▁", "▁▁▁▁", "c▁", "c▁a", "▁ab", "bb", "▁c▁",
            ];
            let pieces: Vec<(&str, f32)> = spellings.iter().zip(&scores).map(|(t, s)| (*t, f32::from(*s))).collect();
            let merges = vocabulary(&pieces, None, true);
            let text = units.concat();
            let mut whole = vocabulary(&pieces, None, true);
            whole.before_space.extend("abc".chars());
            prop_assume!(merges.parts(&text).count() > 1);
            prop_assert_eq!(whole.parts(&text).count(), 1);
            prop_assert_eq!(encode(&merges, &text), encode(&whole, &text));
        }

        #[test]
        fn equals_the_definition(text in "[abc]{0,24}", scores in prop::collection::vec(0u8..4, 12)) {
            let spellings = ["a", "b", "c", "ab", "bc", "ca", "aa", "abc", "aab", "bca", "aaaa", "abcab"];
            let pieces: Vec<(&str, f32)> = spellings.iter().zip(&scores).map(|(t, s)| (*t, f32::from(*s))).collect();
            prop_assert_eq!(encode(&vocabulary(&pieces, None, false), &text), slowly(&pieces, &text));
        }
    }
}
