//! What a file of keys may have, and what is told of one that is wrong.

use sha2::{Digest as _, Sha256};

use super::*;

fn hex(text: &str) -> String {
    crate::digest::of_bytes(text)
        .strip_prefix("sha256:")
        .unwrap()
        .to_owned()
}

fn read_text(text: &str) -> Result<KeyTable, KeyFileError> {
    let path = Path::new("keys.toml");
    table(path, &parse(path, text.as_bytes())?)
}

fn key(id: &str, key: &str, rest: &str) -> String {
    format!(
        "[[keys]]\nid = \"{id}\"\nsha256 = \"{}\"\ntenant = \"team\"\nscopes = [\"score\"]\n{rest}\n",
        hex(key)
    )
}

#[test]
fn keys_are_found_by_their_hash_until_they_expire() {
    let text = key("a", "one", "") + &key("b", "two", "expires = \"2027-01-31T00:00:00Z\"");
    let table = read_text(&text).unwrap();
    let hash = |key: &str| Sha256::digest(key).into();
    let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    let end = 1_801_353_600;
    let Some(Found::Valid(one)) = table.key(&hash("one"), at(end)) else {
        panic!("it has no end");
    };
    assert_eq!(one.tenant.to_string(), "team");
    assert!(one.scopes.has_any(&[Scope::Score]) && !one.scopes.has_any(&[Scope::Admin]));
    assert!(matches!(
        table.key(&hash("two"), at(end - 1)),
        Some(Found::Valid(_))
    ));
    assert_eq!(table.key(&hash("two"), at(end)), Some(Found::Expired));
    assert_eq!(table.key(&hash("three"), at(0)), None);
    // A hash with the same beginning is another one.
    let mut close: [u8; 32] = hash("one");
    close[31] ^= 1;
    assert_eq!(table.key(&close, at(0)), None);
}

#[test]
fn certificates_are_found_by_fingerprint_or_name() {
    let entry = |id: &str, by: &str| {
        format!("[[certificates]]\nid = \"{id}\"\n{by}\ntenant = \"{id}\"\nscopes = [\"classify\"]\n")
    };
    let text = entry("uri", "uri = \"spiffe://x/a\"")
        + &entry("dns", "dns = \"a.example\"")
        + &entry("hash", &format!("sha256 = \"{}\"", hex("certificate")));
    let table = read_text(&text).unwrap();
    let tenant = |sha256: &str, uris: &[&str], dns: &[&str]| {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = PeerCertificate {
            sha256: Sha256::digest(sha256).into(),
            uris: owned(uris),
            dns: owned(dns),
            not_after: SystemTime::now(),
        };
        table
            .certificate(&certificate)
            .map(|principal| principal.tenant.to_string())
    };
    assert_eq!(tenant("certificate", &["spiffe://x/a"], &[]).unwrap(), "hash");
    assert_eq!(tenant("other", &["spiffe://x/a"], &["a.example"]).unwrap(), "uri");
    assert_eq!(tenant("other", &[], &["b.example", "a.example"]).unwrap(), "dns");
    assert_eq!(tenant("other", &["spiffe://x/ab"], &["x.a.example"]), None);
}

#[test]
fn what_is_wrong_with_an_entry_is_told_without_its_content() {
    let cases = [
        (key("a b", "x", ""), "an id has"),
        (
            key("a", "x", "") + &key("a", "y", ""),
            "another entry has this id",
        ),
        (key("a", "x", "") + &key("b", "x", ""), "the same sha256"),
        (key("a", "x", "expires = \"soon\""), "expires must be"),
        (
            key("a", "x", "expires = \"1969-01-01T00:00:00Z\""),
            "expires must be",
        ),
        (key("a", "x", "key = \"bw_secret\""), "this is not known here"),
        (key("a", "x", "").replace("score", "root"), "a scope is not known"),
        (key("a", "x", "").replace("\"score\"", ""), "at least one"),
        (key("a", "x", "").replace("team", "a/b"), "tenant must have"),
        (
            key("a", "x", "").replace(&hex("x"), "bw_secret"),
            "64 hexadecimal",
        ),
        (
            "[[keys]]\nid = bw_secret\n".to_owned(),
            "line 2, column 6: this is not TOML",
        ),
        (
            "[[certificates]]\nid = \"c\"\ntenant = \"t\"\nscopes = [\"score\"]\n".to_owned(),
            "say one of",
        ),
    ];
    for (text, says) in cases {
        let error = read_text(&text).unwrap_err().to_string();
        assert!(error.contains(says), "{says}: {error}");
        assert!(!error.contains("bw_secret"), "{error}");
    }
}

/// Whoever pastes a key at a wrong place must not find it in the log, where the server writes why it kept the old file.
#[test]
fn a_key_at_any_place_of_the_file_is_in_no_error() {
    let secret = "bw_2tqzSYPgWtBHB3xZUEQpRKCzXRbhnqmyHNhJv0bTq6U";
    let one = key("a", "x", "");
    let mut texts = vec![
        format!("{secret} = \"team-a\"\n{one}"),
        format!("[[{secret}]]\n"),
        format!("[{secret}]\nid = 1\n"),
        format!("{one}{secret} = \"team-a\"\n"),
        format!("{one}\"{secret}\" = 1\n"),
        format!("{one}expires = {secret}\n"),
        format!("keys = \"{secret}\"\n"),
        format!("keys = {{ {secret} = 1 }}\n"),
        format!("keys = [\"{secret}\"]\n"),
        format!("{one}\n{secret}"),
        format!("{one}{secret} = 1\n{secret} = 2\n"),
        format!("[[keys]]\nid = \"{secret}\"\nid = \"{secret}\"\n"),
        one.replace("[\"score\"]", &format!("\"{secret}\"")),
        one.replace("[\"score\"]", &format!("[[\"{secret}\"]]")),
    ];
    for value in ["a", "team", "score", &hex("x")] {
        texts.push(one.replace(&format!("\"{value}\""), &format!("\"{secret}\"")));
        texts.push(one.replace(&format!("\"{value}\""), &format!("\"key {secret}\"")));
        texts.push(one.replace(&format!("\"{value}\""), &format!("\"x.{secret}\"")));
        texts.push(one.replace(&format!("\"{value}\""), secret));
        assert_ne!(texts.last(), Some(&one), "{value} is there");
    }
    let certificate = "[[certificates]]\nid = \"c\"\ndns = \"d\"\ntenant = \"t\"\nscopes = [\"score\"]\n";
    for value in ["c", "t", "score"] {
        texts.push(certificate.replace(&format!("\"{value}\""), &format!("\"{secret}\"")));
    }
    for text in texts {
        let error = read_text(&text).map(drop).unwrap_err().to_string();
        assert!(!error.contains(&secret[3..]), "{text}\n{error}");
    }
}

#[test]
fn what_looks_like_a_key_is_no_name_and_what_only_resembles_one_is() {
    for name in [
        "bw_",
        "bw_team",
        "a.bw_2tqzSYPgWtBHB3xZUEQpRKCzXRbhnqmyHNhJv0bTq6U",
    ] {
        assert!(has_key(name), "{name}");
    }
    for name in ["bw", "team-bw_eu", "nbw_2tqzSYPgWtBHB3xZUEQpRK", "BW_team", ""] {
        assert!(!has_key(name), "{name}");
    }
}
