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
