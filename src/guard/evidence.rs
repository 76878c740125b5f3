//! Evidence: the shortest spans of a text without which its verdict is safe.
//!
//! Spans are left out of the text, and what remains is judged again (leave-out, as in Li, Monroe & Jurafsky 2016, "Understanding
//! Neural Networks through Representation Erasure"). First every sentence is left out alone. Where no sentence decides by
//! itself, those that matter most by score are left out together. Then each span is made shorter, by words, while the rest
//! stays safe. Last, each span is put back alone, and one that is not needed is given up. All removals of a round are
//! judged at the same time. A guard may judge by what is far apart, so the search is not complete: it finds spans that turn
//! the verdict, which is checked, and not always the shortest of all.

use std::{ops::Range, sync::Arc};

use unicode_segmentation::UnicodeSegmentation as _;

/// A part of a text, in bytes, at the boundaries of code points.
pub type Span = Range<usize>;

/// Most windows of a span that are tried in one round.
const WINDOWS: usize = 8;

/// What a guard says of a text from which spans have been left out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Remainder {
    /// Whether its label is safe.
    pub is_safe: bool,
    /// Its `unsafe_score`, 0..=1, if it has one.
    pub unsafe_score: Option<f64>,
}

impl Remainder {
    fn score(&self) -> f64 {
        self.unsafe_score.unwrap_or(1.0)
    }
}

/// What a search has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// The spans without which the text is safe, in the text's order; empty where none were found.
    pub spans: Vec<Span>,
    /// Whether it is known that each span is needed: with any one of them put back, the text is not safe.
    pub each_is_needed: bool,
    /// Texts that were judged.
    pub passes: usize,
    /// Whether more would have been judged if the budget had allowed it.
    pub out_of_budget: bool,
}

/// The text without some spans, which are in order and do not overlap.
pub fn without(text: &str, spans: &[Span]) -> String {
    let mut kept = String::new();
    let mut from = 0;
    for span in spans {
        kept.push_str(text.get(from..span.start).unwrap_or_default());
        from = span.end;
    }
    kept.push_str(text.get(from..).unwrap_or_default());
    kept
}

/// What a search wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchStep {
    /// The guard's word on the text without each of these, in their order.
    Judge(Vec<Vec<Span>>),
    /// Nothing more: this was found.
    Done(Evidence),
}

/// A search for the evidence in a text that is not safe. It asks for the guard's word, round by round.
#[derive(Debug)]
pub struct EvidenceSearch {
    text: Arc<str>,
    budget: usize,
    /// What the guard has said, by rounds.
    said: Vec<Vec<Remainder>>,
}

impl EvidenceSearch {
    /// A search that asks for the guard's word at most `budget` times.
    pub fn new(text: &str, budget: usize) -> Self {
        Self {
            text: Arc::from(text),
            budget,
            said: Vec::new(),
        }
    }

    /// What is wanted next. A search is a function of what the guard has said, so it is followed from its beginning each time. That
    /// reads the text a few times, which costs little beside a guard's word, and is work for a thread that may be kept busy.
    pub fn step(&self) -> SearchStep {
        let mut search = Search {
            text: &self.text,
            said: self.said.iter(),
            left: self.budget,
            passes: 0,
            out_of_budget: false,
        };
        match search.follow() {
            Ok(evidence) => SearchStep::Done(evidence),
            Err(Wanted(removals)) => SearchStep::Judge(removals),
        }
    }

    /// Takes the guard's word on the removals that were wanted, in their order.
    pub fn tell(&mut self, said: Vec<Remainder>) {
        self.said.push(said);
    }
}

/// Removals on which the guard has not yet said anything.
struct Wanted(Vec<Vec<Span>>);

/// A search that is followed.
struct Search<'a> {
    text: &'a str,
    said: std::slice::Iter<'a, Vec<Remainder>>,
    left: usize,
    passes: usize,
    out_of_budget: bool,
}

/// A removal, and what the guard says of the rest.
struct Tried {
    removed: Vec<Span>,
    remainder: Remainder,
}

impl Tried {
    fn removed_bytes(&self) -> usize {
        self.removed.iter().map(ExactSizeIterator::len).sum()
    }
}

impl Search<'_> {
    fn follow(&mut self) -> Result<Evidence, Wanted> {
        let spans = self.first()?;
        let spans = self.narrow(spans)?;
        let (spans, each_is_needed) = self.put_back(spans)?;
        Ok(Evidence {
            spans,
            each_is_needed,
            passes: self.passes,
            out_of_budget: self.out_of_budget,
        })
    }

    /// Tries removals, as many as the budget allows. Those that leave nothing to be judged are not tried.
    fn try_all(&mut self, removals: Vec<Vec<Span>>) -> Result<Vec<Tried>, Wanted> {
        let leaves_words = |spans: &Vec<Span>| without(self.text, spans).contains(char::is_alphanumeric);
        let mut removals: Vec<_> = removals.into_iter().filter(leaves_words).collect();
        if removals.len() > self.left {
            self.out_of_budget = true;
            removals.truncate(self.left);
        }
        if removals.is_empty() {
            return Ok(Vec::new());
        }
        let Some(said) = self.said.next() else {
            return Err(Wanted(removals));
        };
        self.left -= removals.len();
        self.passes += removals.len();
        let tried = removals.into_iter().zip(said);
        Ok(tried
            .map(|(removed, &remainder)| Tried { removed, remainder })
            .collect())
    }

    /// Sentences, or else words, whose removal turns the verdict: one alone, or as few as are found together. Empty if there are
    /// none.
    fn first(&mut self) -> Result<Vec<Span>, Wanted> {
        // Half of the budget is for what follows.
        let most = self.left.div_ceil(2).max(2);
        for units in [sentences(self.text), words(self.text, 0..self.text.len())] {
            let units = joined(units, most);
            if units.len() < 2 {
                continue;
            }
            let alone = self.try_all(units.into_iter().map(|unit| vec![unit]).collect())?;
            if let Some(found) = shortest(&alone) {
                return Ok(found.removed.clone());
            }
            let found = self.together(alone)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Ok(Vec::new())
    }

    /// The fewest of some units whose removal together turns the verdict, in the order of what each does to the score alone.
    fn together(&mut self, mut units: Vec<Tried>) -> Result<Vec<Span>, Wanted> {
        units.sort_by(|a, b| a.remainder.score().total_cmp(&b.remainder.score()));
        let removals = (2..=units.len()).map(|count| {
            let mut removed: Vec<_> = units[..count]
                .iter()
                .flat_map(|unit| unit.removed.clone())
                .collect();
            removed.sort_by_key(|span| span.start);
            removed
        });
        let removals = removals.collect();
        let tried = self.try_all(removals)?;
        let first = tried.into_iter().find(|tried| tried.remainder.is_safe);
        Ok(first.map_or_else(Vec::new, |tried| tried.removed))
    }

    /// Makes each span shorter while the verdict stays turned.
    fn narrow(&mut self, mut spans: Vec<Span>) -> Result<Vec<Span>, Wanted> {
        for index in 0..spans.len() {
            loop {
                let windows = windows(&words(self.text, spans[index].clone()));
                let removals = windows.into_iter().map(|window| {
                    let mut removed = spans.clone();
                    removed[index] = window;
                    removed
                });
                let removals = removals.collect();
                let tried = self.try_all(removals)?;
                match shortest(&tried) {
                    Some(found) => spans.clone_from(&found.removed),
                    None => break,
                }
            }
        }
        Ok(spans)
    }

    /// Puts spans back that are not needed. Also returns whether each of the others is known to be needed.
    fn put_back(&mut self, mut spans: Vec<Span>) -> Result<(Vec<Span>, bool), Wanted> {
        // One span is needed, because the whole text is not safe.
        while spans.len() > 1 {
            let removals: Vec<Vec<Span>> = (0..spans.len())
                .map(|index| {
                    let others = spans.iter().enumerate().filter(|(other, _)| *other != index);
                    others.map(|(_, span)| span.clone()).collect()
                })
                .collect();
            let wanted = removals.len();
            let tried = self.try_all(removals)?;
            match shortest(&tried) {
                Some(found) => spans.clone_from(&found.removed),
                None => return Ok((spans, tried.len() == wanted)),
            }
        }
        let is_found = !spans.is_empty();
        Ok((spans, is_found))
    }
}

/// Of the removals that turn the verdict, the one that removes least.
fn shortest(tried: &[Tried]) -> Option<&Tried> {
    let turned = tried.iter().filter(|tried| tried.remainder.is_safe);
    turned.min_by_key(|tried| tried.removed_bytes())
}

/// Shorter parts of a span of these words: its halves and windows between them, and the span without a quarter of it or a single
/// word at either end.
fn windows(words: &[Span]) -> Vec<Span> {
    let count = words.len();
    let part = |words: &[Span]| match (words.first(), words.last()) {
        (Some(first), Some(last)) => Some(first.start..last.end),
        _ => None,
    };
    let mut found: Vec<Span> = Vec::new();
    let mut add = |span: Option<Span>| {
        if let Some(span) = span.filter(|span| !found.contains(span)) {
            found.push(span);
        }
    };
    if count < 2 {
        return found;
    }
    let half = count.div_ceil(2);
    let step = (count - half).div_ceil(WINDOWS - 4).max(1);
    for start in (0..=count - half).step_by(step) {
        add(part(&words[start..start + half]));
    }
    for less in [count / 4, 1] {
        add(part(&words[less..]));
        add(part(&words[..count - less]));
    }
    let whole = part(words);
    found.retain(|span| Some(span) != whole.as_ref());
    found
}

/// The sentences of a text (Unicode Standard Annex 29), each with the white space behind it. Together they are the text.
fn sentences(text: &str) -> Vec<Span> {
    let pieces = text.split_sentence_bound_indices();
    with_words(pieces.map(|(start, piece)| (start..start + piece.len(), piece)))
}

/// The words of a part of a text (Unicode Standard Annex 29), each with what is no word behind it. Together they are that part.
fn words(text: &str, part: Span) -> Vec<Span> {
    let pieces = text
        .get(part.clone())
        .unwrap_or_default()
        .split_word_bound_indices();
    with_words(pieces.map(|(start, piece)| {
        let start = part.start + start;
        (start..start + piece.len(), piece)
    }))
}

/// Joins pieces without letters and digits to what stands before them; those at the beginning, to what follows.
fn with_words<'a>(pieces: impl Iterator<Item = (Span, &'a str)>) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut last_has_words = false;
    for (span, piece) in pieces {
        let has_words = piece.contains(char::is_alphanumeric);
        match spans.last_mut() {
            Some(last) if !has_words || !last_has_words => last.end = span.end,
            _ => spans.push(span),
        }
        last_has_words |= has_words;
    }
    spans
}

/// Neighbours joined, so that there are at most `most` spans.
fn joined(spans: Vec<Span>, most: usize) -> Vec<Span> {
    let size = spans.len().div_ceil(most).max(1);
    spans
        .chunks(size)
        .filter_map(|chunk| Some(chunk.first()?.start..chunk.last()?.end))
        .collect()
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
