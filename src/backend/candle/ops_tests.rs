//! What a fault of the device does to the step that it happens in, and to the one after it.

use candle_core::{Device, Tensor};

use super::{CandleOps, CandleRows, CandleState};
use crate::{
    backend::{
        BatchSequence, ForwardBatch, Readout, StepError, StepOutput,
        candle::{faults::Faults, kv_cache::CandleCache},
        decoder::ops::{DecoderOps as _, Embedding, LogitScaling, NormParameters, Output},
    },
    model::spec::{
        Family, KvFormat, MatrixSource, ModelConfig, NormKind, Products, RawElements, Rope, Sizes, TokenKind,
    },
};

const WIDTH: usize = 16;
const VOCAB: usize = 4;

fn ops() -> CandleOps {
    let sizes = Sizes {
        vocab: VOCAB,
        hidden: WIDTH,
        ffn: WIDTH,
        heads: 1,
        kv_heads: 1,
        head_dim: WIDTH,
    };
    let config = ModelConfig::new(Family::Llama, sizes, 1, Rope::plain(10_000.0, WIDTH));
    let device = Device::Cpu;
    let cache = CandleCache::new(&config, KvFormat::F32, 2, &device).unwrap();
    let state = CandleState {
        device,
        products: Products::F32,
        cache,
        adapters: Vec::new(),
        faults: Faults::default(),
    };
    CandleOps::new(&config, state)
}

fn batch() -> ForwardBatch {
    ForwardBatch {
        tokens: vec![2],
        sequences: vec![BatchSequence {
            new_tokens: 1,
            context: 0,
            kind: TokenKind::Prompt,
            block_table: vec![1],
            adapter: None,
            readout: Readout::Logits,
        }],
    }
}

#[test]
fn a_fault_ends_its_step_is_reported_once_and_leaves_the_next_step_alone() {
    let mut ops = ops();
    let values: Vec<f32> = (0..VOCAB * WIDTH).map(|i| i as f32 / 64.0).collect();
    let matrix = |rows, cols| MatrixSource {
        rows,
        cols,
        elements: RawElements::F32(&values),
    };
    let embedding = ops.linear(&[matrix(VOCAB, WIDTH)]).unwrap();
    // Its inputs are not as wide as the rows are.
    let misfit = ops.linear(&[matrix(WIDTH, VOCAB)]).unwrap();
    let scaling = LogitScaling {
        scale: 1.0,
        soft_cap: None,
    };
    let batch = batch();
    for faulty in [true, false, true, false] {
        let step = ops.begin(&batch, StepOutput::default());
        let tables = Embedding {
            tokens: &embedding,
            scale: 1.0,
            positions: None,
        };
        let (mut hidden, mut out) = (CandleRows::default(), CandleRows::default());
        ops.embed(&step, tables, &mut hidden);
        if faulty {
            ops.product(&misfit, &hidden, &mut out, Output::Replace);
            assert!(out.0.is_none());
        }
        ops.read_logits(&step, &embedding, &hidden, scaling);
        match (faulty, ops.finish()) {
            (true, Err(StepError::Device(reason))) => assert!(reason.contains("matmul"), "{reason}"),
            (false, Ok(output)) => assert_eq!(output.logits.len(), VOCAB),
            (_, other) => panic!("{faulty}: {other:?}"),
        }
    }
}

#[test]
fn rows_that_nothing_has_written_are_a_fault_and_no_panic() {
    let mut ops = ops();
    let batch = batch();
    let step = ops.begin(&batch, StepOutput::default());
    let norm = ops.norm_weights(NormParameters {
        kind: NormKind::Rms,
        eps: 1e-5,
        weight: vec![1.0; WIDTH],
        bias: None,
    });
    let mut out = CandleRows::default();
    ops.norm(&norm, &CandleRows::default(), &mut out, Output::Add);
    ops.keep_read_rows(&step, &mut out);
    assert!(matches!(ops.finish(), Err(StepError::Device(_))));
}

#[test]
fn a_block_outside_of_the_pool_is_a_fault() {
    let mut ops = ops();
    let mut batch = batch();
    batch.sequences[0].block_table = vec![2];
    let step = ops.begin(&batch, StepOutput::default());
    let rows = Tensor::ones((1, 3 * WIDTH), candle_core::DType::F32, &Device::Cpu).unwrap();
    let mut qkv = CandleRows(Some(rows));
    ops.rotate_and_store(&step, 0, crate::model::spec::Rotation::Global, &mut qkv);
    assert!(matches!(ops.finish(), Err(StepError::Device(_))));
    // Without any block, the step does not even begin.
    batch.sequences[0].block_table.clear();
    let step = ops.begin(&batch, StepOutput::default());
    assert!(step.tensors.is_none());
    let error = ops.finish().unwrap_err();
    assert_eq!(error.to_string(), "device fault: position 0 has no KV block");
}
