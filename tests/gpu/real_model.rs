//! A real model over emulated kernels.

use babelward::{backend::Backend as _, model::spec::Precision};
use serde_json::Value;

use crate::{
    card::EmulatedCard,
    common::{golden, smollm2},
    models::{self, ENOUGH, Part, options},
    queue::Timing,
};

/// Tokens that are generated: each takes the emulator a second or two.
const TOKENS: usize = 4;

fn tokens(value: &Value) -> Vec<u32> {
    let tokens = value.as_array().unwrap().iter();
    tokens
        .map(|token| u32::try_from(token.as_u64().unwrap()).unwrap())
        .collect()
}

/// SmolLM2 begins its answer as it does with transformers, with its 4-bit weights rounded and as they are.
#[test]
fn smollm2_begins_an_answer_as_transformers_does() {
    let text = std::fs::read_to_string(golden("smollm2_greedy.json")).unwrap();
    let golden: Value = serde_json::from_str(&text).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    let shortest = cases
        .iter()
        .min_by_key(|case| case["tokens"].as_array().unwrap().len())
        .unwrap();
    let (prompt, expected) = (tokens(&shortest["tokens"]), tokens(&shortest["answer"]));
    for precision in [Precision::Bf16, Precision::Int8] {
        let options = babelward::backend::LoadOptions {
            precision,
            max_context: Some(512),
            kv_bytes: 32 << 20,
            ..options()
        };
        let backend = models::backend(EmulatedCard::new(Timing::Late, 2 * ENOUGH));
        let mut model = backend.load(&smollm2(), &[], &options).unwrap().model;
        let blocks: Vec<u32> = (0..32).collect();
        let (mut sequence, mut context) = (prompt.clone(), 0);
        for expected in &expected[..TOKENS] {
            let part = Part {
                tokens: &sequence[context..],
                context,
                blocks: &blocks,
                readout: babelward::backend::Readout::Logits,
            };
            let logits = models::step(&mut *model, &[part]).logits;
            let best = (0..logits.len())
                .max_by(|&a, &b| logits[a].total_cmp(&logits[b]))
                .unwrap() as u32;
            assert_eq!(best, *expected, "{precision:?} at {context}");
            context = sequence.len();
            sequence.push(best);
        }
    }
}
