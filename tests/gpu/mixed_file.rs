//! A GGUF file of a tiny Llama whose matrices have different formats, also those that are multiplied side by side.

use std::path::{Path, PathBuf};

use half::f16;

/// GGUF's number of a format.
#[derive(Clone, Copy)]
enum Format {
    F32 = 0,
    F16 = 1,
    Q8_0 = 8,
}

const HIDDEN: usize = 64;
const FFN: usize = 96;
const VOCABULARY: usize = 1000;

/// Name, outputs, inputs (0 for vectors), and format of each tensor.
fn tensors() -> Vec<(&'static str, usize, usize, Format)> {
    use Format::{F16, F32, Q8_0};
    vec![
        ("token_embd.weight", VOCABULARY, HIDDEN, Q8_0),
        ("output_norm.weight", HIDDEN, 0, F32),
        ("blk.0.attn_norm.weight", HIDDEN, 0, F32),
        ("blk.0.attn_q.weight", HIDDEN, HIDDEN, Q8_0),
        ("blk.0.attn_k.weight", HIDDEN, HIDDEN, F16),
        ("blk.0.attn_v.weight", HIDDEN, HIDDEN, Q8_0),
        ("blk.0.attn_output.weight", HIDDEN, HIDDEN, Q8_0),
        ("blk.0.ffn_norm.weight", HIDDEN, 0, F32),
        ("blk.0.ffn_gate.weight", FFN, HIDDEN, F16),
        ("blk.0.ffn_up.weight", FFN, HIDDEN, Q8_0),
        ("blk.0.ffn_down.weight", HIDDEN, FFN, Q8_0),
    ]
}

/// Numbers from 0 to 255 that look random.
fn noise(count: usize, mut state: u32) -> Vec<u8> {
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..count).map(|_| next()).collect()
}

fn data(outputs: usize, inputs: usize, format: Format, seed: u32) -> Vec<u8> {
    let noise = noise(outputs * inputs.max(1), seed);
    let small = |byte: &u8| (f32::from(*byte) - 127.5) / 1000.0;
    match format {
        // Weights of norms.
        Format::F32 => noise
            .iter()
            .flat_map(|x| (1.0 + small(x)).to_le_bytes())
            .collect(),
        Format::F16 => noise
            .iter()
            .flat_map(|x| f16::from_f32(small(x)).to_le_bytes())
            .collect(),
        Format::Q8_0 => noise
            .chunks_exact(32)
            .flat_map(|block| [&f16::from_f32(0.001).to_le_bytes(), block].concat())
            .collect(),
    }
}

/// Writes the file to the folder.
pub fn write(folder: &Path) -> PathBuf {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let numbers = [
        ("embedding_length", HIDDEN),
        ("feed_forward_length", FFN),
        ("block_count", 1),
        ("context_length", 512),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 4),
    ];
    let tensors = tensors();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend((numbers.len() as u64 + 2).to_le_bytes());
    file.extend(
        [
            string("general.architecture"),
            8u32.to_le_bytes().to_vec(),
            string("llama"),
        ]
        .concat(),
    );
    file.extend(string("llama.attention.layer_norm_rms_epsilon"));
    file.extend([6u32.to_le_bytes(), 1e-5f32.to_le_bytes()].concat());
    for (key, number) in numbers {
        file.extend(string(&format!("llama.{key}")));
        file.extend([4u32.to_le_bytes(), (number as u32).to_le_bytes()].concat());
    }
    let mut contents = Vec::new();
    for (seed, (name, outputs, inputs, format)) in tensors.into_iter().enumerate() {
        file.extend(string(name));
        // GGUF has the fastest dimension first.
        let dimensions = [inputs, outputs].into_iter().filter(|size| *size > 0);
        file.extend((dimensions.clone().count() as u32).to_le_bytes());
        file.extend(dimensions.flat_map(|size| (size as u64).to_le_bytes()));
        file.extend((format as u32).to_le_bytes());
        file.extend((contents.len() as u64).to_le_bytes());
        contents.extend(data(outputs, inputs, format, seed as u32));
        contents.resize(contents.len().next_multiple_of(32), 0);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    file.extend(contents);
    let path = folder.join("mixed.gguf");
    std::fs::write(&path, file).unwrap();
    path
}
