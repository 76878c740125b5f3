//! What cannot be loaded or computed is an error that says why, and the next step works again.

use std::{fs, path::Path};

use babelward::{
    backend::{Backend as _, ForwardBatch, LoadedModel, StepError, StepOutput, candle::CandleBackend},
    errors::with_causes,
    model::spec::{CandleDevice, Precision},
};

use crate::common::{candle, distance, forward, golden, load_options, sequence, whole};

fn load(path: &Path, kv_bytes: usize) -> Result<LoadedModel, String> {
    let loaded = candle().load(path, &[], &load_options(Precision::F32, kv_bytes));
    loaded.map_err(|error| with_causes(&error))
}

fn refused(path: &Path, kv_bytes: usize) -> String {
    load(path, kv_bytes).err().expect("it was loaded")
}

#[test]
fn a_missing_file_is_named() {
    let error = refused(Path::new("no/such/model.gguf"), 1 << 20);
    assert!(error.starts_with("cannot read no/such/model.gguf: "), "{error}");
    let path = Path::new("no/such/model.gguf");
    let options = load_options(Precision::F32, 1 << 20);
    assert!(candle().footprint(path, &[], &options).is_err());
}

/// Its products are the same for all tokens.
#[test]
fn a_precision_by_the_kind_of_token_is_refused_before_anything_is_read() {
    let path = golden("models/gqa-untied-f32");
    let options = load_options(Precision::Mixed, 1 << 20);
    let said = "do not compute in mixed; set the precision to auto, int8, bf16 or f32";
    let refusals = [
        candle().footprint(&path, &[], &options).err(),
        candle().load(&path, &[], &options).err(),
    ];
    for error in refusals {
        let error = with_causes(&error.expect("it was not refused"));
        assert!(error.ends_with(said), "{error}");
    }
}

#[test]
fn a_pool_that_is_too_small_says_what_is_needed() {
    // Two layers of two heads of 16, keys and values, 16 tokens in f32: 8,192 bytes for a block.
    let folder = golden("models/gqa-untied-f32");
    let error = refused(&folder, 16_383);
    let said = "the KV pool of 16383 bytes is too small: this model needs at least 16384";
    assert!(error.ends_with(said), "{error}");
    assert_eq!(load(&folder, 16_384).unwrap().model.limits().num_blocks, 2);
}

#[test]
fn a_pool_that_no_machine_holds_is_an_error() {
    let error = refused(&golden("models/gqa-untied-f32"), usize::MAX / 4 * 3);
    assert!(error.contains("no memory for "), "{error}");
}

#[test]
fn a_missing_tensor_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let from = golden("models/linear-rope-f16-sharded");
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let shard = folder.path().join("model-00002-of-00005.safetensors");
    let len = fs::metadata(&shard).unwrap().len();
    fs::OpenOptions::new()
        .write(true)
        .open(&shard)
        .unwrap()
        .set_len(len / 2)
        .unwrap();
    let error = refused(folder.path(), 1 << 20);
    assert!(error.contains(&folder.path().display().to_string()), "{error}");
}

#[test]
fn an_estimator_of_quality_is_refused_with_the_device_that_computes_it() {
    for (folder, kind) in [("comet", "comet-kiwi"), ("metricx", "metricx-2")] {
        let estimators = fs::read_dir(golden(folder))
            .unwrap()
            .map(|entry| entry.unwrap().path());
        let checkpoints: Vec<_> = estimators
            .filter(|path| path.join("config.json").exists())
            .collect();
        assert!(!checkpoints.is_empty(), "{folder}");
        for path in checkpoints {
            let error = refused(&path, 1 << 20);
            assert!(
                error.contains("the device candle:cpu does not compute"),
                "{error}"
            );
            assert!(error.contains(kind) && error.contains("\"cpu\""), "{error}");
        }
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    for device in [CandleDevice::Metal, CandleDevice::Cuda(0)] {
        let error = CandleBackend::new(device).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("candle:{device} ")) && error.contains("--features"),
            "{error}"
        );
    }
}

#[test]
fn a_batch_that_does_not_fit_is_refused_and_the_next_one_is_computed() {
    let mut loaded = load(&golden("models/qwen2"), 1 << 20).unwrap();
    let prompt: Vec<u32> = (0..40).collect();
    let before = whole(&mut loaded, &prompt);
    let short_table = ForwardBatch {
        tokens: prompt.clone(),
        sequences: vec![sequence(0, 40, vec![0, 1])],
    };
    let unknown_token = ForwardBatch {
        tokens: vec![1 << 20],
        sequences: vec![sequence(0, 1, vec![0])],
    };
    for batch in [short_table, unknown_token] {
        let error = loaded.model.forward(&batch, StepOutput::default()).unwrap_err();
        assert!(matches!(error, StepError::InvalidBatch(_)), "{error}");
    }
    assert!(matches!(loaded.model.wait(), Err(StepError::NotSubmitted)));
    assert_eq!(distance(&whole(&mut loaded, &prompt), &before), 0.0);
    let batch = ForwardBatch {
        tokens: vec![5],
        sequences: vec![sequence(40, 1, vec![0, 1, 2])],
    };
    assert_eq!(forward(&mut *loaded.model, &batch).len(), 1);
}
