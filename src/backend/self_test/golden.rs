//! Small checkpoints of every family, with the logits that transformers computes of them: a device must compute the same. They
//! are in this program, so that a machine needs nothing else to be tested.

use std::{collections::BTreeMap, fs, io, os::unix::fs::PermissionsExt, path::Path};

use serde::Deserialize;
use tempfile::TempDir;

use super::{last_logits::last_logits, verdict::unusable};
use crate::{
    backend::{
        Backend, BatchLimits, BatchSequence, DecodeLaunch, DeviceFinding, FindingStatus, ForwardBatch,
        LanguageModel, LoadOptions, Readout,
    },
    model::spec::{Precision, TokenKind},
};

/// A checkpoint's files.
struct Checkpoint {
    name: &'static str,
    config: &'static [u8],
    weights: &'static [u8],
    /// Tokens, and the logits behind some of them.
    golden: &'static str,
}

macro_rules! checkpoints {
    ($($name:literal),* $(,)?) => {
        [$(Checkpoint {
            name: $name,
            config: include_bytes!(concat!("../../../tests/golden/models/", $name, "/config.json")),
            weights: include_bytes!(concat!("../../../tests/golden/models/", $name, "/model.safetensors")),
            golden: include_str!(concat!("../../../tests/golden/models/", $name, "/golden.json")),
        }),*]
    };
}

/// One of each family: the smallest with what is special about the family, and together 1.6 MB.
static CHECKPOINTS: [Checkpoint; 11] = checkpoints![
    "cohere",
    "cohere2",
    "gemma2",
    "gemma3",
    "gpt-bigcode",
    "granite",
    "llama3-rope-tied-bf16",
    "ministral-mixed",
    "phi3-longrope",
    "qwen2-window",
    "qwen3",
];

/// What transformers computes.
#[derive(Deserialize)]
struct Golden {
    tokens: Vec<u32>,
    /// Logits by the position of the token that they follow.
    rows: BTreeMap<usize, Vec<f32>>,
}

/// Bytes of a model's KV pool.
const KV_BYTES: usize = 1 << 20;

/// By how much logits may differ from transformers' in f32, in parts of their size: what the order of sums changes, and the
/// seven decimals that are written down.
const MOST_IN_F32: f64 = 3e-5;

/// The same where weights and the operands of products are rounded to eight bits.
const MOST_ROUNDED: f64 = 0.05;

/// How much farther from transformers' logits a device may be than the processor is in the same precision: some devices also
/// round what products return.
const MOST_TIMES: f64 = 2.0;

/// Loads each checkpoint in this precision and compares its logits with transformers'. Where the precision is less than f32, the
/// processor, if there is one, says how far off they may be.
pub(super) fn of_checkpoints(
    backend: &dyn Backend,
    precision: Precision,
    processor: Option<&dyn Backend>,
) -> DeviceFinding {
    let (found, status) = match unpacked() {
        Err(error) => {
            let fix = "let TMPDIR name a folder that can be written to".to_owned();
            (
                format!("they cannot be unpacked: {error}"),
                FindingStatus::Missing { fix },
            )
        }
        Ok(folder) => compared(folder.path(), backend, precision, processor),
    };
    DeviceFinding {
        subject: format!("golden checkpoints in {}", precision.name()),
        found,
        status,
    }
}

/// The checkpoints in a folder that only this user can read, and that is removed when the value is dropped.
fn unpacked() -> io::Result<TempDir> {
    let folder = tempfile::Builder::new()
        .prefix("babelward-golden-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()?;
    for checkpoint in &CHECKPOINTS {
        let path = folder.path().join(checkpoint.name);
        fs::create_dir(&path)?;
        fs::write(path.join("config.json"), checkpoint.config)?;
        fs::write(path.join("model.safetensors"), checkpoint.weights)?;
    }
    Ok(folder)
}

fn compared(
    folder: &Path,
    backend: &dyn Backend,
    precision: Precision,
    processor: Option<&dyn Backend>,
) -> (String, FindingStatus) {
    let mut wrong = Vec::new();
    let mut farthest = (0.0, "");
    let mut rows = 0;
    for checkpoint in &CHECKPOINTS {
        match difference(folder, checkpoint, backend, precision, processor) {
            Ok(found) => {
                rows += found.rows;
                if found.off > farthest.0 {
                    farthest = (found.off, checkpoint.name);
                }
                // A difference that is not a number is not within anything.
                if !matches!(found.off.partial_cmp(&found.most), Some(std::cmp::Ordering::Less)) {
                    let (off, most) = (100.0 * found.off, 100.0 * found.most);
                    wrong.push(format!(
                        "{}: off by {off:.3} %, and {most:.3} % is allowed",
                        checkpoint.name
                    ));
                }
            }
            Err(error) => wrong.push(format!("{}: {error}", checkpoint.name)),
        }
    }
    if !wrong.is_empty() {
        let found = format!("logits are not transformers': {}", wrong.join("; "));
        return (found, unusable());
    }
    let found = format!(
        "{} checkpoints, {rows} rows; logits differ from transformers' by at most {:.1e} of their size ({})",
        CHECKPOINTS.len(),
        farthest.0,
        farthest.1
    );
    (found, FindingStatus::Ok)
}

/// How far a checkpoint's logits are off, in parts of their size.
struct Difference {
    off: f64,
    most: f64,
    rows: usize,
}

fn difference(
    folder: &Path,
    checkpoint: &Checkpoint,
    backend: &dyn Backend,
    precision: Precision,
    processor: Option<&dyn Backend>,
) -> Result<Difference, String> {
    let golden: Golden = serde_json::from_str(checkpoint.golden).map_err(|error| error.to_string())?;
    let path = folder.join(checkpoint.name);
    let off = |backend: &dyn Backend| off(&path, &golden, backend, precision);
    let most = match (precision, processor) {
        (Precision::F32, _) => MOST_IN_F32,
        (Precision::Mixed | Precision::Bf16 | Precision::Int8, None) => MOST_ROUNDED,
        (Precision::Mixed | Precision::Bf16 | Precision::Int8, Some(processor)) => {
            MOST_TIMES * off(processor)?
        }
    };
    Ok(Difference {
        off: off(backend)?,
        most,
        rows: golden.rows.len(),
    })
}

/// The size of all rows' differences, in parts of the size of all rows.
fn off(path: &Path, golden: &Golden, backend: &dyn Backend, precision: Precision) -> Result<f64, String> {
    let options = LoadOptions {
        kv_bytes: KV_BYTES,
        max_context: None,
        precision,
        batch: BatchLimits {
            sequences: 1,
            tokens: golden.tokens.len(),
        },
        decode: DecodeLaunch::Recorded,
    };
    let mut loaded = backend
        .load(path, &[], &options)
        .map_err(|error| error.to_string())?;
    let (mut squares, mut off) = (0.0, 0.0);
    for (row, expected) in &golden.rows {
        let tokens = golden.tokens.get(..=*row).unwrap_or_default();
        let found = logits(loaded.model.as_mut(), tokens)?;
        if found.len() != expected.len() {
            return Err(format!("{} logits in place of {}", found.len(), expected.len()));
        }
        for (found, expected) in found.iter().zip(expected) {
            squares += f64::from(*expected).powi(2);
            off += f64::from(found - expected).powi(2);
        }
    }
    Ok((off / squares).sqrt())
}

/// The logits behind a prompt that is computed in one step.
fn logits(model: &mut dyn LanguageModel, tokens: &[u32]) -> Result<Vec<f32>, String> {
    let blocks = tokens.len().div_ceil(model.limits().block_size);
    let batch = ForwardBatch {
        tokens: tokens.to_vec(),
        sequences: vec![BatchSequence {
            new_tokens: tokens.len(),
            context: 0,
            kind: TokenKind::Prompt,
            block_table: (0..u32::try_from(blocks).unwrap_or(u32::MAX)).collect(),
            adapter: None,
            readout: Readout::Logits,
        }],
    };
    last_logits(model, &batch)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::cpu::CpuBackend;

    fn model_type(config: &[u8]) -> String {
        let config: serde_json::Value = serde_json::from_slice(config).unwrap();
        config["model_type"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_family_has_a_checkpoint_and_all_are_small() {
        let embedded: BTreeSet<String> = CHECKPOINTS.iter().map(|one| model_type(one.config)).collect();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/models");
        for entry in fs::read_dir(folder).unwrap() {
            let config = fs::read(entry.unwrap().path().join("config.json")).unwrap();
            // One family, of which another checkpoint is embedded.
            let family = match model_type(&config).as_str() {
                "gemma3" => "gemma3_text".to_owned(),
                "mistral" => "ministral".to_owned(),
                other => other.to_owned(),
            };
            assert!(embedded.contains(&family), "{family}");
        }
        let bytes = CHECKPOINTS
            .iter()
            .map(|one| one.config.len() + one.weights.len() + one.golden.len());
        assert!(bytes.sum::<usize>() < 1_650_000);
    }

    #[test]
    fn the_folder_of_checkpoints_is_private_and_removed() {
        let folder = unpacked().unwrap();
        let path = folder.path().to_path_buf();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        drop(folder);
        assert!(!path.exists());
    }

    /// What is allowed is less than what the smallest mistake makes: a window that is one token longer than it should be.
    #[test]
    fn a_window_that_is_one_token_too_long_is_farther_off_than_is_allowed() {
        let folder = unpacked().unwrap();
        let processor = CpuBackend::new(1);
        for (name, window) in [
            ("qwen2-window", 24),
            ("ministral-mixed", 20),
            ("gemma2", 24),
            ("cohere2", 24),
        ] {
            let checkpoint = CHECKPOINTS.iter().find(|one| one.name == name).unwrap();
            let golden: Golden = serde_json::from_str(checkpoint.golden).unwrap();
            let path = folder.path().join(name);
            let allowed = MOST_TIMES * off(&path, &golden, &processor, Precision::Bf16).unwrap();
            let mut config: serde_json::Value = serde_json::from_slice(checkpoint.config).unwrap();
            assert_eq!(config["sliding_window"], window, "{name}");
            config["sliding_window"] = (window + 1).into();
            fs::write(path.join("config.json"), config.to_string()).unwrap();
            let longer = off(&path, &golden, &processor, Precision::Bf16).unwrap();
            assert!(longer > allowed, "{name}: {longer}, and {allowed} is allowed");
        }
    }

    #[test]
    fn other_logits_are_a_failure_that_names_the_checkpoint() {
        let folder = unpacked().unwrap();
        // Another model than the one whose logits are expected.
        for file in ["config.json", "model.safetensors"] {
            let other = folder.path().join("qwen3").join(file);
            fs::copy(other, folder.path().join("llama3-rope-tied-bf16").join(file)).unwrap();
        }
        fs::write(folder.path().join("cohere/model.safetensors"), "cut").unwrap();
        let (found, status) = compared(folder.path(), &CpuBackend::new(1), Precision::F32, None);
        assert!(matches!(status, FindingStatus::Unusable { .. }), "{found}");
        assert!(found.contains("; llama3-rope-tied-bf16: "), "{found}");
        assert!(found.contains(": cohere: "), "{found}");
        assert!(!found.contains("gemma2"), "{found}");
    }
}
