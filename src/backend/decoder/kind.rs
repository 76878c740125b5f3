//! Refuses what has no logits of tokens, on devices that compute nothing else.

use std::path::Path;

use crate::model::{
    EncoderKind, LoadError, LoadFault, ResourceProblem,
    spec::{DeviceName, VerdictHeads},
};

/// # Errors
/// When the model at `path` is an encoder, or a decoder whose output is the verdicts of heads, which `device` does not compute.
pub(in crate::backend) fn expect_decoder(path: &Path, device: DeviceName) -> Result<(), LoadError> {
    let what = match EncoderKind::detect(path) {
        Some(kind) => kind.name(),
        None if VerdictHeads::are_in(path) => "Qwen3Guard-Stream",
        None => return Ok(()),
    };
    let not_computed = ResourceProblem::NotOnDevice { what, device };
    Err(LoadFault::from(not_computed).at(path.display().to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_without_logits_of_tokens_are_refused_by_name_and_others_are_not() {
        let device: DeviceName = "cuda:0".parse().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let refusal = |architecture: &str| {
            let config = format!(r#"{{"architectures": ["{architecture}"]}}"#);
            std::fs::write(folder.path().join("config.json"), config).unwrap();
            expect_decoder(folder.path(), device).map_err(|error| error.to_string())
        };
        assert_eq!(refusal("Qwen3ForCausalLM"), Ok(()));
        for (architecture, name) in [
            (VerdictHeads::ARCHITECTURE, "Qwen3Guard-Stream"),
            ("XLMRobertaForSequenceClassification", "classifier"),
        ] {
            let error = refusal(architecture).unwrap_err();
            let expected = format!("the device cuda:0 does not compute `{name}` models");
            assert!(error.contains(&expected), "{error}");
        }
    }
}
