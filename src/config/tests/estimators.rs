//! Quality estimators and classifiers, which are told by their folder.

use super::*;

fn folder(text: &str) -> Folder {
    let folder = Folder::new(text);
    let kiwi = folder.folder.path().join("kiwi");
    fs::create_dir(&kiwi).unwrap();
    fs::write(
        kiwi.join("config.json"),
        r#"{"architectures": ["UnifiedMetric"]}"#,
    )
    .unwrap();
    folder
}

fn roles(config: &Config) -> Vec<(&str, &[Role])> {
    let models = config.models.iter();
    models.map(|m| (m.id.as_str(), m.roles.as_slice())).collect()
}

#[test]
fn an_estimator_gets_its_role_by_itself_and_is_nobodys_default_target() {
    let folder = folder(
        "[models.a-kiwi]\npath = \"kiwi\"\n[models.auto]\npath = \"weights.gguf\"\nroles = \"auto\"\n",
    );
    let flag = |id: &str, path: PathBuf| FlagModel {
        id: id.to_owned(),
        path,
    };
    let flags = FlagOverrides {
        models: vec![
            flag("b-kiwi", folder.folder.path().join("kiwi")),
            flag("smol", folder.weights()),
        ],
        ..FlagOverrides::default()
    };
    let config = load(&folder.inputs(&[], flags)).config.unwrap();
    let (quality, target): (&[Role], &[Role]) = (&[Role::Quality], &[Role::Target]);
    assert_eq!(
        roles(&config),
        [
            ("a-kiwi", quality),
            ("auto", target),
            ("b-kiwi", quality),
            ("smol", target)
        ]
    );
    assert_eq!(config.defaults.target.as_deref(), Some("smol"));
    assert_eq!(config.defaults.quality.as_deref(), Some("a-kiwi"));
}

#[test]
fn a_default_estimator_is_an_estimator() {
    let defaults = |id: &str| {
        let models = "[models.a]\npath = \"kiwi\"\n[models.b]\npath = \"kiwi\"\n[models.smol]\npath = \"weights.gguf\"\n";
        let folder = folder(&format!("{models}[defaults]\nquality = \"{id}\"\n"));
        load(&folder.inputs(&[], FlagOverrides::default()))
    };
    assert_eq!(
        defaults("b").config.unwrap().defaults.quality.as_deref(),
        Some("b")
    );
    let found = problems(&defaults("smol"));
    assert!(
        found[0].contains("no configured model `smol` has the role quality"),
        "{found:?}"
    );
}

#[test]
fn an_estimator_has_no_other_role() {
    let folder = folder("[models.kiwi]\npath = \"kiwi\"\nroles = [\"quality\", \"guard\"]\n");
    let found = problems(&load(&folder.inputs(&[], FlagOverrides::default())));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`quality,guard` does not fit"), "{found:?}");
}

#[test]
fn a_classifier_gets_its_role_by_itself_and_has_no_other() {
    let text = |roles: &str| {
        format!("[models.watch]\npath = \"watch\"\n{roles}[models.smol]\npath = \"weights.gguf\"\n")
    };
    let with_watch = |roles: &str| {
        let folder = folder(&text(roles));
        let watch = folder.folder.path().join("watch");
        fs::create_dir(&watch).unwrap();
        let config = r#"{"architectures": ["XLMRobertaForSequenceClassification"]}"#;
        fs::write(watch.join("config.json"), config).unwrap();
        folder
    };
    let config = load(&with_watch("").inputs(&[], FlagOverrides::default()));
    let (classifier, target): (&[Role], &[Role]) = (&[Role::Classifier], &[Role::Target]);
    let config = config.config.unwrap();
    assert_eq!(roles(&config), [("smol", target), ("watch", classifier)]);
    assert_eq!(config.defaults.target.as_deref(), Some("smol"));
    let both = with_watch("roles = [\"classifier\", \"guard\"]\n");
    let found = problems(&load(&both.inputs(&[], FlagOverrides::default())));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("`classifier,guard` does not fit"), "{found:?}");
}
