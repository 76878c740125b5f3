//! Which device models are on, how much of its memory they may take, and what it must promise.

use super::*;
use crate::model::spec::{DeviceChoice, DeviceName};

const MODELS: &str = "[engine]\ndevice = \"cpu\"\ndeterministic = \"required\"\n\
    [memory]\ndevice_budget = \"75%\"\n\
    [models.smol]\npath = \"weights.gguf\"\n\
    [models.judge]\npath = \"weights.gguf\"\nroles = [\"guard\"]\ndevice = \"cuda:1\"\n";

fn flag(id: Option<&str>, device: &str) -> FlagDevice {
    FlagDevice {
        id: id.map(str::to_owned),
        device: device.parse().unwrap(),
    }
}

fn flags(devices: Vec<FlagDevice>) -> FlagOverrides {
    FlagOverrides {
        devices,
        ..FlagOverrides::default()
    }
}

fn devices(config: &Config) -> Vec<(&str, Option<DeviceChoice>)> {
    let models = config.models.iter();
    models.map(|model| (model.id.as_str(), model.device)).collect()
}

fn only(device: DeviceName) -> DeviceChoice {
    DeviceChoice::Only(device)
}

#[test]
fn a_model_has_its_own_or_that_of_the_engine() {
    let folder = Folder::new(MODELS);
    let loaded = load(&folder.inputs(&[], FlagOverrides::default()));
    let config = loaded.config.clone().unwrap();
    assert_eq!(config.engine.device, only(DeviceName::Cpu));
    let cuda = |number| Some(only(DeviceName::Cuda(number)));
    assert_eq!(devices(&config), [("judge", cuda(1)), ("smol", None)]);
    assert_eq!(config.engine.deterministic, DeterminismPolicy::Required);
    assert_eq!(config.device_budget, DeviceBudget::Percent(75));

    let env = [("BABELWARD_MODELS__SMOL__DEVICE", "cuda:2")];
    let given = flags(vec![flag(Some("judge"), "auto"), flag(None, "cuda:0")]);
    let loaded = load(&folder.inputs(&env, given));
    let config = loaded.config.clone().unwrap();
    assert_eq!(config.engine.device, only(DeviceName::Cuda(0)));
    assert_eq!(
        devices(&config),
        [("judge", Some(DeviceChoice::Auto)), ("smol", cuda(2))]
    );
    let origin = |key| entry(&loaded, key).origin.clone();
    assert_eq!(origin("engine.device"), Origin::Flag("--device"));
    assert_eq!(origin("models.judge.device"), Origin::Flag("--device"));
}

#[test]
fn without_a_word_it_is_auto_and_reported() {
    let config = load(&Inputs::default()).config.unwrap();
    assert_eq!(config.engine.device, DeviceChoice::Auto);
    assert_eq!(config.engine.deterministic, DeterminismPolicy::Report);
    assert_eq!(config.device_budget, DeviceBudget::AUTO);
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    let folder = Folder::new(
        "[engine]\ndevice = \"gpu\"\ndeterministic = \"always\"\n\
         [memory]\ndevice_budget = \"110%\"\n\
         [models.smol]\npath = \"weights.gguf\"\n\
         [models.polite]\nbase = \"smol\"\npath = \"weights.gguf\"\ndevice = \"cpu\"\n",
    );
    let given = flags(vec![
        flag(Some("smoll"), "cpu"),
        flag(Some("smol"), "cpu"),
        flag(Some("smol"), "cuda:0"),
    ]);
    let file = folder.file().display().to_string();
    let names = "auto, cpu, cuda:N (such as cuda:0), candle:cpu, candle:metal or candle:cuda:N";
    assert_eq!(
        problems(&load(&folder.inputs(&[], given))),
        [
            "--device: `smoll` is not the id of a configured model; did you mean smol?".to_owned(),
            "--device: models.smol.device is cpu and cuda:0; say it once".to_owned(),
            format!(
                "models.polite.device ({file}): an adapter is on the device of its base; set models.smol.device \
                 instead"
            ),
            format!("engine.device ({file}): `gpu` does not fit; write {names}"),
            format!("engine.deterministic ({file}): `always` does not fit; write report or required"),
            format!(
                "memory.device_budget ({file}): `110%` does not fit; write a size such as 20GiB, a percentage from \
                 1% to 100%, or auto"
            ),
        ]
    );
}
