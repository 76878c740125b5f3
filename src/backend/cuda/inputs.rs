//! The inputs of a step, packed on the host and copied to the card in one go.
//!
//! Each kind of input has a section of fixed place and size, so that recorded launches find them in every step. Behind the
//! sections lie the probes' tokens and the block tables, as much as a step has of them.

use std::sync::Arc;

use super::{
    arguments::{Probe, Tile},
    buffer::{Buffer, HostBuffer},
    driver::{DeviceAddress, DriverError, PRODUCT_ROWS, Queue},
    kv_cache::BLOCK_TOKENS,
    tiles::{Span, TILE_ROWS, TileSet, most_tiles, write_tiles},
};
use crate::backend::{BatchLimits, ForwardBatch, Readout};

/// Stands for no slot of the cache and for no adapter.
const NONE: u32 = u32::MAX;

/// Most tokens that all probes of a step name together, for each sequence of the largest batch.
const PROBE_TOKENS: usize = 64;

/// Bytes of a word; all inputs are made of words.
const WORD: usize = size_of::<u32>();

/// The largest steps that there is room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepLimits {
    /// Rows: new tokens of all sequences, rounded up to what products compute.
    pub rows: usize,
    /// Sequences, rounded up likewise.
    pub sequences: usize,
    /// Tiles of all rows.
    pub tiles: usize,
    /// Tiles of the rows that are read.
    pub read_tiles: usize,
    /// Words behind the sections.
    pub tail: usize,
    /// Query heads that share a key head.
    pub group: usize,
}

impl StepLimits {
    /// Room for the largest batches of sequences of up to `context` tokens.
    pub(super) fn new(batch: BatchLimits, context: usize, group: usize) -> Self {
        let sequences = batch.sequences.max(1).next_multiple_of(PRODUCT_ROWS);
        let rows = batch.tokens.next_multiple_of(PRODUCT_ROWS).max(sequences);
        Self {
            rows,
            sequences,
            tiles: most_tiles(rows, sequences, group),
            read_tiles: most_tiles(sequences, sequences, group),
            tail: sequences * (PROBE_TOKENS + context.div_ceil(BLOCK_TOKENS)),
            group,
        }
    }

    /// Bytes of all inputs.
    pub(super) fn bytes(&self) -> usize {
        Sections::new(self).end * WORD + self.tail * WORD
    }
}

/// Where the sections begin, in words.
#[derive(Debug, Clone, Copy)]
struct Sections {
    /// First, because its elements have eight bytes.
    inverse_temperatures: usize,
    tokens: usize,
    positions: usize,
    slots: usize,
    adapters: usize,
    read_rows: usize,
    read_adapters: usize,
    probes: usize,
    tiles: usize,
    read_tiles: usize,
    end: usize,
}

impl Sections {
    fn new(limits: &StepLimits) -> Self {
        let tile = size_of::<Tile>() / WORD;
        let mut end = 0;
        let mut section = |words: usize| {
            end += words;
            end - words
        };
        Self {
            inverse_temperatures: section(limits.sequences * size_of::<f64>() / WORD),
            tokens: section(limits.rows),
            positions: section(limits.rows),
            slots: section(limits.rows),
            adapters: section(limits.rows),
            read_rows: section(limits.sequences),
            read_adapters: section(limits.sequences),
            probes: section(limits.sequences * size_of::<Probe>() / WORD),
            tiles: section(limits.tiles * tile),
            read_tiles: section(limits.read_tiles * tile),
            end: section(0),
        }
    }
}

/// The inputs of the step under way.
pub(super) struct StepInputs {
    pub limits: StepLimits,
    sections: Sections,
    pub host: HostBuffer,
    pub device: Buffer,
}

/// What a step consists of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StepShape {
    /// New tokens of all sequences.
    pub rows: usize,
    /// Rows that are read.
    pub reads: usize,
    /// Whether the largest logits of any row are wanted.
    pub candidates: bool,
    /// Tokens that probes name.
    pub probe_tokens: usize,
    pub tiles: TileSet,
    pub read_tiles: TileSet,
    /// Whether any row is a sequence's with an adapter.
    pub adapted: bool,
    /// Whether any row that is read is.
    pub read_adapted: bool,
    /// Words that are used behind the sections.
    tail: usize,
}

impl StepInputs {
    pub(super) fn new(queue: &Arc<dyn Queue>, limits: StepLimits) -> Result<Self, DriverError> {
        Ok(Self {
            limits,
            sections: Sections::new(&limits),
            host: HostBuffer::new(queue, limits.bytes())?,
            device: Buffer::new(queue, limits.bytes())?,
        })
    }

    /// Why there is no room for a batch; `None` when there is.
    pub(super) fn refusal(&self, batch: &ForwardBatch) -> Option<String> {
        let limits = &self.limits;
        let (rows, sequences) = (batch.tokens.len(), batch.sequences.len());
        if rows > limits.rows || sequences > limits.sequences {
            return Some(format!(
                "it has {rows} tokens and {sequences} sequences; the model was loaded for {} and {}",
                limits.rows, limits.sequences
            ));
        }
        let tail: usize = batch
            .sequences
            .iter()
            .map(|s| probe_tokens(&s.readout).len() + (s.context + s.new_tokens).div_ceil(BLOCK_TOKENS))
            .sum();
        (tail > limits.tail).then(|| {
            format!(
                "its block tables and probes have {tail} entries; there is room for {}",
                limits.tail
            )
        })
    }

    /// Packs the inputs of a batch, for which [`StepInputs::refusal`] returned `None`. Launches may compute `padded` rows,
    /// more than the batch has: the entries behind its own stand for no token.
    pub(super) fn pack(&mut self, batch: &ForwardBatch, padded: usize) -> StepShape {
        let mut shape = StepShape {
            rows: batch.tokens.len(),
            ..StepShape::default()
        };
        let (sections, group) = (self.sections, self.limits.group);
        let words = self.host.slice_mut::<u32>();
        let tail = sections.end;
        let mut row = 0;
        for sequence in &batch.sequences {
            let adapter = sequence.adapter.map_or(NONE, |adapter| adapter.0 as u32);
            shape.adapted |= adapter != NONE;
            for position in sequence.context..sequence.context + sequence.new_tokens {
                let block = sequence.block_table[position / BLOCK_TOKENS] as usize;
                words[sections.tokens + row] = batch.tokens[row];
                words[sections.positions + row] = position as u32;
                words[sections.slots + row] = (block * BLOCK_TOKENS + position % BLOCK_TOKENS) as u32;
                words[sections.adapters + row] = adapter;
                row += 1;
            }
            let asked = probe_tokens(&sequence.readout);
            if sequence.readout != Readout::None {
                shape.read_adapted |= adapter != NONE;
                words[sections.read_rows + shape.reads] = row as u32 - 1;
                words[sections.read_adapters + shape.reads] = adapter;
                words[sections.probes + 2 * shape.reads] = shape.tail as u32;
                words[sections.probes + 2 * shape.reads + 1] = asked.len() as u32;
                let inverse_temperature = match sequence.readout {
                    Readout::Candidates { filter } => {
                        shape.candidates = true;
                        filter.map_or(1.0, |filter| filter.inverse_temperature())
                    }
                    _ => 1.0,
                };
                let bits = inverse_temperature.to_bits();
                words[sections.inverse_temperatures + 2 * shape.reads] = bits as u32;
                words[sections.inverse_temperatures + 2 * shape.reads + 1] = (bits >> 32) as u32;
                shape.reads += 1;
            }
            words[tail + shape.tail..][..asked.len()].copy_from_slice(asked);
            shape.tail += asked.len();
        }
        shape.probe_tokens = shape.tail;
        for row in row..padded {
            words[sections.tokens + row] = 0;
            words[sections.positions + row] = 0;
            words[sections.slots + row] = NONE;
            words[sections.adapters + row] = NONE;
        }
        for read in shape.reads..padded.min(self.limits.sequences) {
            words[sections.read_rows + read] = 0;
            words[sections.read_adapters + read] = NONE;
            words[sections.probes + 2 * read] = 0;
            words[sections.probes + 2 * read + 1] = 0;
        }
        let (mut spans, mut read_spans) = (Vec::new(), Vec::new());
        let mut first_row = 0;
        for sequence in &batch.sequences {
            let blocks = (sequence.context + sequence.new_tokens).div_ceil(BLOCK_TOKENS);
            let span = Span {
                first_row,
                rows: sequence.new_tokens,
                context: sequence.context,
                table: shape.tail,
            };
            if sequence.readout != Readout::None {
                read_spans.push(Span {
                    first_row: read_spans.len(),
                    rows: 1,
                    context: sequence.context + sequence.new_tokens - 1,
                    ..span
                });
            }
            spans.push(span);
            first_row += sequence.new_tokens;
            words[tail + shape.tail..][..blocks].copy_from_slice(&sequence.block_table[..blocks]);
            shape.tail += blocks;
        }
        let limits = self.limits;
        let tiles = self.host.part_mut::<Tile>(sections.tiles * WORD, limits.tiles);
        shape.tiles = TileSet {
            address: self.device.address().offset(sections.tiles * WORD),
            offset: sections.tiles * WORD,
            ..write_tiles(spans.into_iter(), group, tiles)
        };
        let tiles = self
            .host
            .part_mut::<Tile>(sections.read_tiles * WORD, limits.read_tiles);
        shape.read_tiles = TileSet {
            address: self.device.address().offset(sections.read_tiles * WORD),
            offset: sections.read_tiles * WORD,
            ..write_tiles(read_spans.into_iter(), group, tiles)
        };
        // Tiles of the rows that stand for no token have no rows.
        let padding = padded.saturating_sub(shape.rows) * group.div_ceil(TILE_ROWS);
        for (section, written, most) in [
            (sections.tiles, shape.tiles.count, limits.tiles),
            (sections.read_tiles, shape.read_tiles.count, limits.read_tiles),
        ] {
            let tiles = self
                .host
                .part_mut::<u32>(section * WORD, most * size_of::<Tile>() / WORD);
            let used = written * size_of::<Tile>() / WORD;
            let end = ((written + padding).min(most)) * size_of::<Tile>() / WORD;
            tiles[used..end].fill(0);
        }
        shape
    }

    /// Bytes of the sections, and of what is used behind them.
    pub(super) fn bytes(&self, shape: &StepShape) -> usize {
        (self.sections.end + shape.tail) * WORD
    }

    pub(super) fn inverse_temperatures(&self) -> DeviceAddress {
        self.at(self.sections.inverse_temperatures)
    }

    pub(super) fn tokens(&self) -> DeviceAddress {
        self.at(self.sections.tokens)
    }

    pub(super) fn positions(&self) -> DeviceAddress {
        self.at(self.sections.positions)
    }

    pub(super) fn slots(&self) -> DeviceAddress {
        self.at(self.sections.slots)
    }

    pub(super) fn adapters(&self) -> DeviceAddress {
        self.at(self.sections.adapters)
    }

    pub(super) fn read_rows(&self) -> DeviceAddress {
        self.at(self.sections.read_rows)
    }

    pub(super) fn read_adapters(&self) -> DeviceAddress {
        self.at(self.sections.read_adapters)
    }

    pub(super) fn probes(&self) -> DeviceAddress {
        self.at(self.sections.probes)
    }

    /// Index of the first row that a tile has a part in.
    pub(super) fn row_of_tile(&self, set: &TileSet, tile: usize) -> usize {
        if tile >= set.written {
            // It stands for no token, in a step of one row for each sequence.
            return tile / self.limits.group.div_ceil(TILE_ROWS);
        }
        let tiles = self.host.part::<Tile>(set.offset, set.written);
        tiles[tile].first_row as usize + tiles[tile].sequence_row as usize / self.limits.group
    }

    /// The probes' tokens and the block tables, whose places are counted from here.
    pub(super) fn tail(&self) -> DeviceAddress {
        self.at(self.sections.end)
    }

    fn at(&self, word: usize) -> DeviceAddress {
        self.device.address().offset(word * WORD)
    }
}

/// The tokens whose logits a readout asks for.
pub(super) fn probe_tokens(readout: &Readout) -> &[u32] {
    match readout {
        Readout::Probe { tokens } => tokens,
        Readout::None | Readout::Logits | Readout::Candidates { .. } | Readout::Score => &[],
    }
}
