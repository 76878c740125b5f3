//! Files of policies.

use super::*;

const SHOP: &str = "name = \"shop\"\n[[categories]]\ncode = \"S1\"\nname = \"Fraud\"\n";

#[test]
fn policies_are_read_from_files_beside_the_configuration() {
    let folder = Folder::new("[policies]\nfiles = [\"shop.toml\", \"market.json\"]\n");
    fs::write(folder.folder.path().join("shop.toml"), SHOP).unwrap();
    let market = r#"{"name": "market", "categories": [{"code": "S4", "name": "Weights"}]}"#;
    fs::write(folder.folder.path().join("market.json"), market).unwrap();
    let config = load(&folder.inputs(&[], FlagOverrides::default()))
        .config
        .unwrap();
    let names: Vec<_> = config.policies.iter().map(|policy| policy.name()).collect();
    assert_eq!(names, ["shop", "market"]);
    assert_eq!(config.policies[1].lines(), "S4: Weights.\n");
}

#[test]
fn every_wrong_policy_is_told_with_its_file() {
    let folder =
        Folder::new("[policies]\nfiles = [\"shop.toml\", \"twin.toml\", \"bad.toml\", \"none.toml\"]\n");
    let bad = SHOP.replace("S1", "T1").replace("\"shop\"", "\"a b\"");
    for (name, text) in [
        ("shop.toml", SHOP),
        ("twin.toml", SHOP),
        ("bad.toml", bad.as_str()),
    ] {
        fs::write(folder.folder.path().join(name), text).unwrap();
    }
    let found = problems(&load(&folder.inputs(&[], FlagOverrides::default())));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(
        found
            .iter()
            .all(|problem| problem.starts_with("policies.files (")),
        "{found:?}"
    );
    assert!(
        found[0].contains("twin.toml: `shop` is another file's name too"),
        "{found:?}"
    );
    assert!(
        found[1].contains("bad.toml: name must be") && found[1].contains("categories[0].code"),
        "{found:?}"
    );
    assert!(found[2].contains("none.toml: "), "{found:?}");
}
