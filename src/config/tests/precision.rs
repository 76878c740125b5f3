//! How models compute: all of them, or one.

use super::*;
use crate::model::spec::{Precision, PrecisionChoice};

const MODELS: &str = "[engine]\nprecision = \"f32\"\n\
    [models.smol]\npath = \"weights.gguf\"\n\
    [models.judge]\npath = \"weights.gguf\"\nroles = [\"guard\"]\nprecision = \"bf16\"\n";

fn flag(id: Option<&str>, precision: &str) -> FlagPrecision {
    FlagPrecision {
        id: id.map(str::to_owned),
        precision: precision.to_owned(),
    }
}

fn flags(precisions: Vec<FlagPrecision>) -> FlagOverrides {
    FlagOverrides {
        precisions,
        ..FlagOverrides::default()
    }
}

fn precisions(config: &Config) -> Vec<(&str, Option<PrecisionChoice>)> {
    let models = config.models.iter();
    models.map(|model| (model.id.as_str(), model.precision)).collect()
}

#[test]
fn a_model_has_its_own_or_that_of_the_engine() {
    let folder = Folder::new(MODELS);
    let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
    let config = loaded.config.clone().unwrap();
    assert_eq!(config.engine.precision, PrecisionChoice::Only(Precision::F32));
    assert_eq!(
        precisions(&config),
        [
            ("judge", Some(PrecisionChoice::Only(Precision::Bf16))),
            ("smol", None)
        ]
    );
    assert_eq!(entry(&loaded, "models.smol.precision").value, None);

    let env = [("BABELWARD_MODELS__SMOL__PRECISION", "bf16")];
    let given = flags(vec![flag(Some("judge"), "f32"), flag(None, "int8")]);
    let loaded = load(&folder.inputs(&env, given));
    let config = loaded.config.clone().unwrap();
    assert_eq!(config.engine.precision, PrecisionChoice::Only(Precision::Int8));
    assert_eq!(
        precisions(&config),
        [
            ("judge", Some(PrecisionChoice::Only(Precision::F32))),
            ("smol", Some(PrecisionChoice::Only(Precision::Bf16)))
        ]
    );
    let origin = |key| entry(&loaded, key).origin.clone();
    assert_eq!(origin("engine.precision"), Origin::Flag("--precision"));
    assert_eq!(origin("models.judge.precision"), Origin::Flag("--precision"));
    assert_eq!(
        origin("models.smol.precision"),
        Origin::Env("BABELWARD_MODELS__SMOL__PRECISION".to_owned())
    );
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let folder = Folder::new(
        "[models.smol]\npath = \"weights.gguf\"\nprecision = \"int4\"\n\
         [models.polite]\nbase = \"smol\"\npath = \"weights.gguf\"\nprecision = \"bf16\"\n",
    );
    let given = flags(vec![
        flag(Some("smoll"), "bf16"),
        flag(None, "int8"),
        flag(None, "int8"),
        flag(None, "f32"),
    ]);
    let file = folder.file().display().to_string();
    assert_eq!(
        problems(&load(&folder.inputs(&[], given))),
        [
            "--precision: `smoll` is not the id of a configured model; did you mean smol?".to_owned(),
            "--precision: engine.precision is int8 and f32; say it once".to_owned(),
            format!(
                "models.polite.precision ({file}): an adapter computes as its base does; set \
                 models.smol.precision instead"
            ),
            format!(
                "models.smol.precision ({file}): `int4` does not fit; write auto, mixed, int8, bf16 or f32"
            ),
        ]
    );
}

#[test]
fn without_a_word_it_is_auto_and_a_model_can_go_back_to_it() {
    let folder = Folder::new("[models.smol]\npath = \"weights.gguf\"\n");
    let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
    assert_eq!(loaded.config.unwrap().engine.precision, PrecisionChoice::Auto);
    let given = flags(vec![flag(Some("smol"), "auto"), flag(None, "f32")]);
    let config = load(&folder.inputs(&[], given)).config.unwrap();
    assert_eq!(precisions(&config), [("smol", Some(PrecisionChoice::Auto))]);
}
