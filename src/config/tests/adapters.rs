//! Adapters: models with a base.

use super::*;
use crate::config::FlagAdapter;

fn flag(folder: &Folder, id: &str, base: &str) -> FlagAdapter {
    FlagAdapter {
        id: id.to_owned(),
        base: base.to_owned(),
        path: folder.weights(),
    }
}

#[test]
fn an_adapter_names_its_base_in_the_file_or_with_a_flag() {
    let folder = Folder::new(
        "[models.smol]\npath = \"weights.gguf\"\n\
         [models.a-judge]\nbase = \"smol\"\npath = \"weights.gguf\"\nroles = [\"guard\"]\n",
    );
    let flags = FlagOverrides {
        adapters: vec![flag(&folder, "a-polite-one", "smol")],
        guards: vec!["a-polite-one".to_owned()],
        ..FlagOverrides::default()
    };
    let loaded = load(&folder.inputs(&[], flags));
    let config = loaded.config.clone().unwrap();
    let seen: Vec<_> = config
        .models
        .iter()
        .map(|model| (model.id.as_str(), model.base.as_deref(), model.roles.as_slice()))
        .collect();
    assert_eq!(
        seen,
        [
            ("a-judge", Some("smol"), [Role::Guard].as_slice()),
            ("a-polite-one", Some("smol"), &[Role::Target, Role::Guard]),
            ("smol", None, &[Role::Target]),
        ]
    );
    // Not the first by id: that is an adapter.
    assert_eq!(config.defaults.target.as_deref(), Some("smol"));
    assert_eq!(config.defaults.guard.as_deref(), Some("a-polite-one"));
    let origin = |key| entry(&loaded, key).origin.clone();
    assert_eq!(origin("models.a-polite-one.base"), Origin::Flag("--adapter"));
    assert_eq!(origin("models.smol.base"), Origin::Default);
}

#[test]
fn a_base_must_be_a_model_of_its_own() {
    let folder = Folder::new("[models.smol]\npath = \"weights.gguf\"\n");
    let flags = FlagOverrides {
        adapters: vec![
            flag(&folder, "one", "smoll"),
            flag(&folder, "three", "nothing-like-it"),
            flag(&folder, "two", "one"),
        ],
        ..FlagOverrides::default()
    };
    assert_eq!(
        problems(&load(&folder.inputs(&[], flags))),
        [
            "models.one.base (--adapter): `smoll` is not a configured model; did you mean smol?",
            "models.three.base (--adapter): `nothing-like-it` is not a configured model; configure the model that \
             the adapter was made for, and name its id",
            "models.two.base (--adapter): `one` is itself an adapter; name the model below both",
        ]
    );
}
