//! Decision policies of the configuration.

use super::*;

const CHAT: &str = "name = \"chat\"\nversion = 1\nthresholds.block = 0.5\n";

#[test]
fn decision_policies_are_read_and_named() {
    let folder = Folder::new(
        "[decisions]\nfiles = [\"chat.toml\", \"next.toml\"]\ndefault = \"chat@1\"\nshadows = [\"chat\"]\n",
    );
    fs::write(folder.folder.path().join("chat.toml"), CHAT).unwrap();
    fs::write(folder.folder.path().join("next.toml"), CHAT.replace("= 1", "= 2")).unwrap();
    let config = load(&folder.inputs(&[], FlagOverrides::default()))
        .config
        .unwrap();
    let names: Vec<_> = config.decisions.iter().map(|policy| policy.full_name()).collect();
    assert_eq!(names, ["chat@1", "chat@2"]);
    assert_eq!(config.decisions.default_policy().unwrap().full_name(), "chat@1");
    let shadows = config.decisions.shadows().iter();
    assert_eq!(
        shadows.map(|policy| policy.full_name()).collect::<Vec<_>>(),
        ["chat@2"]
    );
}

#[test]
fn every_wrong_decision_policy_is_told() {
    let folder = Folder::new(
        "[decisions]\nfiles = [\"chat.toml\", \"twin.toml\", \"bad.toml\"]\ndefault = \"chta\"\nshadows = [\"chat@7\"]\n",
    );
    for (name, text) in [
        ("chat.toml", CHAT),
        ("twin.toml", CHAT),
        ("bad.toml", &CHAT.replace("0.5", "5.0")),
    ] {
        fs::write(folder.folder.path().join(name), text).unwrap();
    }
    let found = problems(&load(&folder.inputs(&[], FlagOverrides::default())));
    assert_eq!(found.len(), 4, "{found:?}");
    for (found, wanted) in found.iter().zip([
        "twin.toml: `chat@1` is in another file too",
        "bad.toml: thresholds.block must be from 0 to 1",
        "did you mean `chat`?",
        "there is no decision policy `chat@7`",
    ]) {
        assert!(found.contains(wanted), "{found}");
    }
}

#[test]
fn a_policy_has_thresholds_of_classifiers_that_are_served() {
    let with_model = |role: &str| {
        format!(
            "[decisions]\nfiles = [\"chat.toml\"]\n[models.watch]\npath = \"watch.gguf\"\nroles = [\"{role}\"]\n"
        )
    };
    let policy = format!("{CHAT}[classifiers.watch]\nblock = 0.5\n[classifiers.other]\nflag = 0.5\n");
    let found = |role: &str| {
        let folder = Folder::new(&with_model(role));
        fs::write(folder.folder.path().join("chat.toml"), &policy).unwrap();
        fs::write(folder.folder.path().join("watch.gguf"), "").unwrap();
        problems(&load(&folder.inputs(&[], FlagOverrides::default())))
    };
    let served = found("classifier");
    assert_eq!(served.len(), 1, "{served:?}");
    assert!(served[0].contains("the classifier `other`"), "{served:?}");
    assert_eq!(found("target").len(), 2);
}

#[test]
fn calibrators_are_read_and_policies_find_theirs() {
    use crate::calibrator::{
        CalibrationMethod, ErrorRates, FitOptions, FittedFor, FittedOn, LabelledScore, LabelledText, fit,
    };
    let text = |at: u32| LabelledText {
        language: "de".to_owned(),
        score: LabelledScore {
            score: f64::from(at) / 200.0,
            is_unsafe: at % 7 < at / 30,
            weight: 1.0,
        },
    };
    let texts: Vec<_> = (0..200).map(text).collect();
    let options = FitOptions {
        method: CalibrationMethod::Platt,
        min_labels: 100,
        error_rates: ErrorRates {
            safe: 0.1,
            unsafe_: 0.1,
        },
    };
    let calibrator = fit(FittedFor::default(), FittedOn::default(), &texts, options).unwrap();
    let named = |digest: &str| CHAT.replace("version", &format!("calibrator = \"{digest}\"\nversion"));
    let folder = Folder::new("[decisions]\nfiles = [\"chat.toml\"]\ncalibrators = [\"calibrator.json\"]\n");
    let write = |name: &str, text: &str| fs::write(folder.folder.path().join(name), text).unwrap();
    let load = || load(&folder.inputs(&[], FlagOverrides::default()));
    write("calibrator.json", &calibrator.to_json());
    write("chat.toml", &named(calibrator.digest()));
    let decisions = load().config.unwrap().decisions;
    let policy = decisions.find("chat").unwrap();
    assert_eq!(**decisions.calibrator_of(policy).unwrap(), calibrator);

    write("chat.toml", &named(&format!("sha256:{:064}", 7)));
    let found = problems(&load());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("which no file of decisions.calibrators is"),
        "{found:?}"
    );

    write("chat.toml", &named(calibrator.digest()));
    write(
        "calibrator.json",
        &calibrator
            .to_json()
            .replace("\"min_labels\": 100", "\"min_labels\": 101"),
    );
    let found = problems(&load());
    assert!(found[0].contains("changed after it was fitted"), "{found:?}");
}
