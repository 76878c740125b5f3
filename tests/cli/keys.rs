//! `keys`: making, listing and revoking API keys.

use std::fs;

use serde_json::Value;

use crate::support::{command, run};

#[test]
fn a_key_is_made_listed_and_revoked_and_shown_once() {
    let folder = tempfile::tempdir().unwrap();
    let keys = |arguments: &[&str]| run(command(folder.path()).arg("keys").args(arguments));
    let made = keys(&["new", "--tenant", "team-a", "--scopes", "classify,score"]);
    assert_eq!(made.code, 0, "{}", made.stderr);
    let key = made.stdout.trim();
    assert!(key.starts_with("bw_") && key.len() > 40, "{key}");
    assert!(!made.stderr.contains(key) && made.stderr.contains("not shown again"));
    let file = fs::read_to_string(folder.path().join("keys.toml")).unwrap();
    assert!(
        !file.contains(key) && file.contains("tenant = \"team-a\""),
        "{file}"
    );
    let arguments = [
        "--format", "json", "new", "--tenant", "team-b", "--scopes", "admin",
    ];
    let second = keys(&[&arguments[..], &["--expires", "2030-01-01T00:00:00Z"]].concat());
    let second: Value = serde_json::from_str(&second.stdout).unwrap();
    assert_eq!(second["scopes"], serde_json::json!(["admin"]));
    let listed = keys(&["ls"]);
    assert!(
        listed.stdout.contains("team-b") && listed.stdout.contains("2030-01-01"),
        "{}",
        listed.stdout
    );
    assert!(!listed.stdout.contains(key));
    assert_eq!(keys(&["revoke", "team-a"]).code, 0);
    assert!(!keys(&["ls"]).stdout.contains("team-a"));
    let again = keys(&["revoke", "team-a"]);
    assert_eq!(again.code, 2, "{}", again.stderr);
}

#[test]
fn what_is_wrong_with_a_new_key_is_told_and_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let keys = |arguments: &[&str]| run(command(folder.path()).args(["keys", "new"]).args(arguments));
    for (arguments, code, says) in [
        (
            &["--tenant", "a b", "--scopes", "classify"][..],
            2,
            "letters, digits",
        ),
        (&["--tenant", "a", "--scopes", "root"], 2, "classify, generate"),
        (&["--tenant", "a"], 2, "--scopes"),
        (
            &["--tenant", "a", "--scopes", "score", "--id", "a b"],
            7,
            "an id has",
        ),
    ] {
        let outcome = keys(arguments);
        assert_eq!(outcome.code, code, "{}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{}", outcome.stderr);
        assert_eq!(outcome.stdout, "");
        assert!(!path.exists());
    }
    fs::write(&path, "not a file of keys").unwrap();
    let outcome = keys(&["--tenant", "a", "--scopes", "score"]);
    assert_eq!(outcome.code, 7, "{}", outcome.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), "not a file of keys");
}

#[test]
fn a_key_that_was_written_or_given_as_a_name_is_not_repeated() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let keys = |arguments: &[&str]| run(command(folder.path()).arg("keys").args(arguments));
    let made = keys(&["new", "--tenant", "team-a", "--scopes", "classify"]);
    let key = made.stdout.trim();
    let good = fs::read_to_string(&path).unwrap();
    let told = keys(&["revoke", key]);
    assert_eq!(told.code, 2, "{}", told.stderr);
    assert!(
        told.stderr.contains("looks like a key") && !told.stderr.contains(key),
        "{}",
        told.stderr
    );
    let new = keys(&["new", "--tenant", "team-b", "--scopes", "classify", "--id", key]);
    assert_eq!(new.code, 7, "{}", new.stderr);
    assert!(!new.stderr.contains(key), "{}", new.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), good);
    for bad in [
        good.replace("id = \"team-a\"", &format!("id = \"{key}\"")),
        format!("{good}{key} = \"team-a\"\n"),
    ] {
        fs::write(&path, bad).unwrap();
        for arguments in [&["ls"][..], &["revoke", "team-a"]] {
            let outcome = keys(arguments);
            assert_eq!(outcome.code, 7, "{}", outcome.stderr);
            assert!(
                !outcome.stderr.contains(key) && !outcome.stdout.contains(key),
                "{}",
                outcome.stderr
            );
        }
    }
}
