//! Tests of attention: against textbook softmax in f64, and to the bit where one way has to equal another: whole tokens
//! against segments, and prompts at once against prompts in chunks.

use super::{
    cases::{Cases, Tolerance},
    inputs::{Inputs, from_bf16, to_bf16},
    runner::{Runner, UNTOUCHED, UNTOUCHED_BF16},
};
use crate::backend::cuda::{
    arguments::{AttentionArgs, Tile},
    attention::{ATTENTION_THREADS, MOST_WHOLE_HEAD},
    driver::{DeviceAddress, DriverError, LaunchSize},
    kernels::{Kernel, attention_shared_bytes},
    kv_cache::BLOCK_TOKENS,
    tiles::{Span, most_tiles, write_tiles},
};

/// The kernels for heads of this size.
pub(super) fn kernels(head: u32) -> Vec<Kernel> {
    let mut kernels = vec![Kernel::AttentionSplit { head }, Kernel::AttentionFold { head }];
    if has_whole(head as usize) {
        kernels.push(Kernel::AttentionWhole { head });
    }
    kernels
}

fn has_whole(head: usize) -> bool {
    head <= MOST_WHOLE_HEAD
}

/// How far a head of a row may be off, in parts of its size: numerators of softmax, and results, are rounded to eight bits.
const ROUNDED: Tolerance = Tolerance {
    relative: 0.0,
    absolute: 0.006,
};

/// A block in which nothing is a number: entries of tables name it where no token is visible.
const POISONED: usize = 0;

#[derive(Clone, Copy)]
struct Shape {
    head: usize,
    heads: usize,
    kv_heads: usize,
    /// Tokens that a token sees, itself included; 0: all.
    window: usize,
    /// 0: none.
    soft_cap: f32,
}

/// New tokens of a sequence, and its tokens before.
type Sizes = [(usize, usize)];

/// One token; a prompt; steps of sequences with one, two and three segments, at the beginnings and ends of blocks.
const MIXED: [(usize, usize); 5] = [(1, 0), (37, 0), (1, 300), (5, 513), (1, 15)];
/// Rows of which some see nothing of a segment that others of their tile see.
const EDGES: [(usize, usize); 4] = [(20, 250), (1, 255), (1, 256), (30, 345)];

pub(super) fn attention(runner: &mut Runner, cases: &mut Cases, head: u32) -> Result<(), DriverError> {
    let mut inputs = Inputs::new(100 + u64::from(head));
    let shape = |heads, kv_heads, window, soft_cap| Shape {
        head: head as usize,
        heads,
        kv_heads,
        window,
        soft_cap,
    };
    compare(
        runner,
        cases,
        &Batch::new(shape(4, 2, 0, 0.0), &MIXED, &mut inputs),
    )?;
    compare(
        runner,
        cases,
        &Batch::new(shape(2, 2, 100, 20.0), &EDGES, &mut inputs),
    )?;
    // The other ways to share heads, and windows that end where segments and blocks do: the same code for all sizes.
    if head <= 32 {
        for (heads, kv_heads, window, soft_cap) in [
            (8, 8, 0, 5.0),
            (8, 1, 1, 0.0),
            (14, 2, 16, 0.0),
            (6, 2, 17, 0.0),
            (2, 1, 256, 50.0),
            (2, 1, 257, 0.0),
        ] {
            let shape = shape(heads, kv_heads, window, soft_cap);
            compare(runner, cases, &Batch::new(shape, &MIXED, &mut inputs))?;
            compare(runner, cases, &Batch::new(shape, &EDGES, &mut inputs))?;
        }
    }
    Ok(())
}

/// Sequences whose keys and values are in scattered blocks.
struct Batch {
    shape: Shape,
    spans: Vec<Span>,
    tables: Vec<u32>,
    rows: usize,
    qkv: Vec<f32>,
    keys: Vec<u16>,
    values: Vec<u16>,
}

impl Shape {
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    fn qkv_width(self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head
    }

    fn scale(self) -> f32 {
        1.0 / (self.head as f32).sqrt()
    }

    /// The first token that a token sees.
    fn first_visible(self, token: usize) -> usize {
        match self.window {
            0 => 0,
            window => (token + 1).saturating_sub(window),
        }
    }
}

impl Batch {
    fn new(shape: Shape, sizes: &Sizes, inputs: &mut Inputs) -> Self {
        let blocks = |(rows, context): &(usize, usize)| (rows + context).div_ceil(BLOCK_TOKENS);
        let most_blocks: usize = sizes.iter().map(blocks).sum();
        let mut free = inputs
            .shuffled(most_blocks)
            .into_iter()
            .map(|block| block + POISONED + 1);
        let elements = (most_blocks + 1) * shape.kv_heads * BLOCK_TOKENS * shape.head;
        let mut batch = Self {
            shape,
            spans: Vec::new(),
            tables: Vec::new(),
            rows: 0,
            qkv: Vec::new(),
            keys: vec![UNTOUCHED_BF16; elements],
            values: vec![UNTOUCHED_BF16; elements],
        };
        for size in sizes {
            let (rows, context) = *size;
            let span = Span {
                first_row: batch.rows,
                rows,
                context,
                table: batch.tables.len(),
            };
            let first = shape.first_visible(context);
            for block in 0..blocks(size) {
                let is_gone = (block + 1) * BLOCK_TOKENS <= first;
                let own = free.next().filter(|_| !is_gone);
                batch.tables.push(own.unwrap_or(POISONED) as u32);
            }
            for token in first..rows + context {
                for kv_head in 0..shape.kv_heads {
                    let at = batch.slot(&span, token, kv_head);
                    for (keys, values) in batch.keys[at..][..shape.head]
                        .iter_mut()
                        .zip(&mut batch.values[at..])
                    {
                        (*keys, *values) = (to_bf16(inputs.normal()), to_bf16(inputs.normal()));
                    }
                }
            }
            for _ in 0..rows {
                // Keys and values of the rows are read from the cache only.
                batch.qkv.extend(inputs.normals(shape.heads * shape.head));
                batch.qkv.extend(vec![UNTOUCHED; 2 * shape.kv_heads * shape.head]);
            }
            batch.rows += rows;
            batch.spans.push(span);
        }
        batch
    }

    /// Where a token's keys and values of a head begin.
    fn slot(&self, span: &Span, token: usize, kv_head: usize) -> usize {
        let block = self.tables[span.table + token / BLOCK_TOKENS] as usize;
        ((block * self.shape.kv_heads + kv_head) * BLOCK_TOKENS + token % BLOCK_TOKENS) * self.shape.head
    }

    /// One head of one row by the textbook, from the same rounded queries.
    fn head(&self, span: &Span, row: usize, head: usize) -> Vec<f64> {
        let shape = self.shape;
        let kv_head = head / shape.group();
        let token = span.context + row;
        let query = &self.qkv[(span.first_row + row) * shape.qkv_width() + head * shape.head..][..shape.head];
        let query: Vec<f64> = query.iter().map(|x| f64::from(from_bf16(to_bf16(*x)))).collect();
        let tokens = || shape.first_visible(token)..=token;
        let score = |token| {
            let keys = &self.keys[self.slot(span, token, kv_head)..];
            let products = query
                .iter()
                .zip(keys)
                .map(|(x, key)| x * f64::from(from_bf16(*key)));
            let score = products.sum::<f64>() * f64::from(shape.scale());
            match f64::from(shape.soft_cap) {
                0.0 => score,
                cap => cap * (score / cap).tanh(),
            }
        };
        let scores: Vec<f64> = tokens().map(score).collect();
        let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = scores.iter().map(|score| (score - most).exp()).sum();
        let mut out = vec![0.0; shape.head];
        for (token, score) in tokens().zip(scores) {
            let weight = (score - most).exp() / sum;
            let values = &self.values[self.slot(span, token, kv_head)..];
            for (out, value) in out.iter_mut().zip(values) {
                *out += weight * f64::from(from_bf16(*value));
            }
        }
        out
    }

    /// The differences of all heads of all rows from the textbook's, in parts of their sizes.
    fn differences(&self, out: &[u16]) -> Vec<f32> {
        let Shape {
            head: dimensions,
            heads,
            ..
        } = self.shape;
        let mut differences = Vec::new();
        for span in &self.spans {
            for row in 0..span.rows {
                for head in 0..heads {
                    let expected = self.head(span, row, head);
                    let found = &out[((span.first_row + row) * heads + head) * dimensions..];
                    let pairs = expected.iter().zip(found);
                    let off: f64 = pairs.map(|(a, b)| (a - f64::from(from_bf16(*b))).powi(2)).sum();
                    let size: f64 = expected.iter().map(|x| x * x).sum();
                    differences.push((off / size).sqrt() as f32);
                }
            }
        }
        differences
    }

    /// The rows in pieces of at most `most` rows of each sequence, one launch after the other.
    fn chunks(&self, most: usize) -> Vec<Vec<Span>> {
        let longest = self.spans.iter().map(|span| span.rows).max().unwrap_or(0);
        let piece = |begin: usize| {
            let rest = self.spans.iter().filter(move |span| span.rows > begin);
            rest.map(move |span| Span {
                first_row: span.first_row + begin,
                rows: most.min(span.rows - begin),
                context: span.context + begin,
                table: span.table,
            })
        };
        (0..longest)
            .step_by(most)
            .map(|begin| piece(begin).collect())
            .collect()
    }

    fn name(&self) -> String {
        let Shape {
            heads,
            kv_heads,
            window,
            soft_cap,
            ..
        } = self.shape;
        format!(
            "{heads} heads and {kv_heads} key heads, window {window}, cap {soft_cap}, {} rows",
            self.rows
        )
    }
}

/// Whether a launch goes through all segments of a row, or each segment has a launch of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Whole,
    Split,
}

fn compare(runner: &mut Runner, cases: &mut Cases, batch: &Batch) -> Result<(), DriverError> {
    let width = batch.shape.heads * batch.shape.head;
    let at_once = [batch.spans.clone()];
    let split = attend(runner, batch, &at_once, Way::Split)?;
    cases.begin(format!("{}, in segments", batch.name()));
    let differences = batch.differences(&split);
    cases.near(
        "heads",
        batch.shape.heads,
        &differences,
        &vec![0.0; differences.len()],
        ROUNDED,
    );
    cases.exact(
        "behind the rows",
        width,
        &split[batch.rows * width..],
        &vec![UNTOUCHED_BF16; width],
    );
    let in_chunks = attend(runner, batch, &batch.chunks(5), Way::Split)?;
    cases.begin(format!("{}, in segments, prompts in chunks", batch.name()));
    cases.exact("heads", width, &in_chunks, &split);
    if has_whole(batch.shape.head) {
        cases.begin(format!("{}, whole", batch.name()));
        cases.exact(
            "heads",
            width,
            &attend(runner, batch, &at_once, Way::Whole)?,
            &split,
        );
        cases.begin(format!("{}, whole, prompts in chunks", batch.name()));
        cases.exact(
            "heads",
            width,
            &attend(runner, batch, &batch.chunks(7), Way::Whole)?,
            &split,
        );
    }
    Ok(())
}

/// Attention of the batch in several launches, and a row behind the last, which nobody may write to.
fn attend(
    runner: &mut Runner,
    batch: &Batch,
    launches: &[Vec<Span>],
    way: Way,
) -> Result<Vec<u16>, DriverError> {
    let shape = batch.shape;
    let (qkv, tables) = (runner.holding(&batch.qkv)?, runner.holding(&batch.tables)?);
    let (keys, values) = (runner.holding(&batch.keys)?, runner.holding(&batch.values)?);
    let untouched = vec![UNTOUCHED_BF16; (batch.rows + 1) * shape.heads * shape.head];
    let out = runner.holding(&untouched)?;
    for spans in launches {
        let rows = spans.iter().map(|span| span.rows).sum();
        let none = Tile {
            first_row: 0,
            sequence_row: 0,
            rows: 0,
            context: 0,
            table: 0,
        };
        // The last tile has nothing to do, as in batches that are filled up.
        let mut tiles = vec![none; most_tiles(rows, spans.len(), shape.group()) + 1];
        let set = write_tiles(spans.iter().copied(), shape.group(), &mut tiles);
        let tiles = runner.holding(&tiles[..=set.count])?;
        let states = match way {
            Way::Whole => 0,
            Way::Split => batch.rows * shape.heads * set.segments * (shape.head + 2),
        };
        let partial = runner.holding(&vec![UNTOUCHED; states])?;
        let argument = AttentionArgs {
            qkv: qkv.address(),
            keys: keys.address(),
            values: values.address(),
            tables: tables.address(),
            tiles: tiles.address(),
            out: out.address(),
            partial: match way {
                Way::Whole => DeviceAddress::NULL,
                Way::Split => partial.address(),
            },
            heads: shape.heads as u32,
            kv_heads: shape.kv_heads as u32,
            qkv_width: shape.qkv_width() as u32,
            window: shape.window as u32,
            segments: set.segments as u32,
            scale: shape.scale(),
            soft_cap: shape.soft_cap,
            padding: 0,
        };
        let head = shape.head as u32;
        let grid = |depth: usize| [set.count as u32 + 1, shape.kv_heads as u32, depth as u32];
        let attends = |depth| LaunchSize {
            grid: grid(depth),
            threads: ATTENTION_THREADS,
            shared_bytes: attention_shared_bytes(shape.head),
        };
        match way {
            Way::Whole => runner.launch(Kernel::AttentionWhole { head }, attends(1), &argument)?,
            Way::Split => {
                runner.launch(Kernel::AttentionSplit { head }, attends(set.segments), &argument)?;
                let folds = LaunchSize {
                    grid: grid(set.most_rows),
                    threads: 32,
                    shared_bytes: 0,
                };
                runner.launch(Kernel::AttentionFold { head }, folds, &argument)?;
            }
        }
    }
    runner.read(&out, untouched.len())
}
