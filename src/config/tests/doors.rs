//! What callers of the HTTP port get whose protocol does not say it.

use super::*;

/// The settings of a server with these guards and variables, without `BABELWARD_DOORS__`.
fn settings(guards: &[&str], variables: &[(&str, &str)]) -> Result<DoorSettings, Vec<String>> {
    let tables: String = guards
        .iter()
        .map(|id| format!("[models.{id}]\npath = \"weights.gguf\"\nroles = [\"guard\"]\n"))
        .collect();
    let folder = Folder::new(&tables);
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (format!("BABELWARD_DOORS__{name}"), (*value).to_owned()))
        .collect();
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let loaded = load(&folder.inputs(&variables, FlagOverrides::default()));
    match &loaded.config {
        Ok(config) => Ok(config.doors.clone()),
        Err(_) => Err(problems(&loaded)),
    }
}

#[test]
fn the_guard_is_the_one_that_is_named_or_the_only_one() {
    let guard = |guards: &[&str], variables: &[(&str, &str)]| settings(guards, variables).unwrap().guard;
    assert_eq!(guard(&[], &[]), None);
    assert_eq!(guard(&["a"], &[]).as_deref(), Some("a"));
    assert_eq!(guard(&["a", "b"], &[]), None, "nobody has said which of them");
    assert_eq!(guard(&["a", "b"], &[("GUARD", "b")]).as_deref(), Some("b"));
    let unknown = settings(&["ward"], &[("GUARD", "wart")]).unwrap_err();
    assert!(
        unknown[0].starts_with("doors.guard") && unknown[0].contains("ward"),
        "{unknown:?}"
    );
}

#[test]
fn the_doors_fail_closed_unless_somebody_says_otherwise() {
    let defaults = settings(&["a"], &[]).unwrap();
    let expected = DoorSettings {
        guard: Some("a".to_owned()),
        page: true,
        ..DoorSettings::default()
    };
    assert_eq!(defaults, expected);
    assert_eq!(defaults.on_failure, OnFailure::Closed);
    let open = settings(&["a"], &[("ON_FAILURE", "open"), ("UNSAFE_SCORE", "0.7")]).unwrap();
    assert_eq!((open.on_failure, open.unsafe_score), (OnFailure::Open, Some(0.7)));
    for (name, wrong) in [
        ("ON_FAILURE", "maybe"),
        ("UNSAFE_SCORE", "1.5"),
        ("DECISION_POLICY", "none"),
    ] {
        let found = settings(&["a"], &[(name, wrong)]).unwrap_err();
        assert!(found[0].starts_with("doors."), "{found:?}");
    }
}

#[test]
fn the_page_is_there_unless_somebody_says_otherwise() {
    let has_page = |variables: &[(&str, &str)]| settings(&["a"], variables).unwrap().page;
    assert!(has_page(&[]));
    assert!(!has_page(&[("PAGE", "false")]));
}
