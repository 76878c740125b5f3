//! Which roles a model gets from a file and from flags.

use super::{FlagOverrides, Role, load, tests::Folder};

#[test]
fn a_model_has_the_roles_that_were_asked_for_and_no_other() {
    let cases: [(&str, &[&str], &[Role]); 4] = [
        ("", &["smol"], &[Role::Guard]),
        ("roles = \"auto\"\n", &["smol"], &[Role::Guard]),
        ("roles = [\"target\"]\n", &["smol"], &[Role::Target, Role::Guard]),
        ("", &[], &[Role::Target]),
    ];
    for (roles, guards, expected) in cases {
        let folder = Folder::new(&format!("[models.smol]\npath = \"weights.gguf\"\n{roles}"));
        let flags = FlagOverrides {
            guards: guards.iter().map(|guard| (*guard).to_owned()).collect(),
            ..FlagOverrides::default()
        };
        let config = load(&folder.inputs(&[], flags)).config.unwrap();
        assert_eq!(config.models[0].roles, expected, "{roles:?} {guards:?}");
        let generates = config.defaults.target.is_some();
        assert_eq!(generates, expected.contains(&Role::Target));
    }
    let folder = Folder::new("");
    let path = folder.weights().display().to_string();
    let flags = FlagOverrides {
        guards: vec![format!("smol={path}")],
        ..FlagOverrides::default()
    };
    let config = load(&folder.inputs(&[], flags)).config.unwrap();
    assert_eq!(config.models[0].roles, [Role::Guard]);
    assert_eq!(config.defaults.target, None);
}
