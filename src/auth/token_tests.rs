//! Tokens that PyJWT has signed, valid ones and ones that are wrong in one way each (tests/golden/tokens.py).

use std::path::Path;

use super::*;

fn golden() -> Value {
    serde_json::from_str(include_str!("../../tests/golden/tokens.json")).unwrap()
}

fn rules() -> TokenRules {
    TokenRules {
        issuer: "https://issuer.example".to_owned(),
        audience: "babelward".to_owned(),
        leeway: Duration::from_secs(30),
        tenant_claim: "sub".to_owned(),
        tenant_prefix: String::new(),
        scope_claim: "scope".to_owned(),
        scope_prefix: String::new(),
    }
}

fn verifier(jwks: &Value) -> Result<TokenVerifier, TokenFileError> {
    TokenVerifier::new(Path::new("jwks.json"), jwks.to_string().as_bytes(), rules())
}

#[test]
fn tokens_of_every_algorithm_of_ours_say_tenant_and_scopes() {
    let golden = golden();
    let verifier = verifier(&golden["jwks"]).unwrap();
    let valid = golden["tokens"]["valid"].as_object().unwrap();
    assert!(valid.len() >= 3);
    for (name, token) in valid {
        let verified = match verifier.verify(token.as_str().unwrap()) {
            Ok(verified) => verified,
            Err(rejection) => panic!("{name}: {rejection:?}"),
        };
        assert_eq!(verified.principal.tenant.to_string(), "team-a", "{name}");
        assert_eq!(verified.principal.scopes.to_string(), "classify,score", "{name}");
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(4_102_444_800 + 30);
        assert_eq!(verified.until, end, "{name}");
    }
}

#[test]
fn a_token_that_is_wrong_in_one_way_is_refused_for_that() {
    let golden = golden();
    let verifier = verifier(&golden["jwks"]).unwrap();
    for rejection in Rejection::ALL {
        let Some(tokens) = golden["tokens"][rejection.name()].as_object() else {
            continue;
        };
        for (name, token) in tokens {
            let refused = verifier.verify(token.as_str().unwrap()).err();
            assert_eq!(refused, Some(rejection), "{name}");
        }
    }
    for text in ["", "..", "a.b.c", "e30.e30.e30", "\u{e4}.\u{e4}.\u{e4}"] {
        assert_eq!(verifier.verify(text).err(), Some(Rejection::Unknown), "{text:?}");
    }
}

#[test]
fn a_token_without_the_name_of_a_key_is_refused_where_two_could_be_meant() {
    let golden = golden();
    let mut jwks = golden["jwks"].clone();
    let mut second = jwks["keys"][1].clone();
    second["kid"] = "second".into();
    jwks["keys"].as_array_mut().unwrap().push(second);
    let token = golden["tokens"]["valid"]["no kid"].as_str().unwrap();
    assert_eq!(
        verifier(&jwks).unwrap().verify(token).err(),
        Some(Rejection::Unknown)
    );
}

#[test]
fn a_key_is_used_for_what_it_says_it_is_for() {
    let golden = golden();
    let with = |name: &str, value: &str| {
        let mut key = golden["jwks"]["keys"][1].clone();
        key[name] = value.into();
        verifier(&serde_json::json!({"keys": [key]}))
    };
    assert!(with("alg", "ES256").is_ok());
    for (name, value) in [("alg", "ES384"), ("use", "enc"), ("crv", "P-384")] {
        let error = with(name, value).err().unwrap();
        assert!(matches!(error, TokenFileError::NoKey(_)), "{name}: {error}");
    }
}

#[test]
fn a_file_that_is_no_jwks_is_told() {
    for (text, says) in [
        ("{", "it is not JSON"),
        ("{}", "no list `keys`"),
        ("{\"keys\": []}", "no key for RS256"),
        (
            "{\"keys\": [{\"kty\": \"oct\", \"k\": \"c2VjcmV0\"}]}",
            "no key for RS256",
        ),
    ] {
        let error = TokenVerifier::new(Path::new("jwks.json"), text.as_bytes(), rules());
        let error = error.err().unwrap().to_string();
        assert!(error.contains(says) && !error.contains("c2VjcmV0"), "{error}");
    }
}

#[test]
fn a_tenant_of_tokens_is_never_that_of_keys_or_of_another_token() {
    let rules = TokenRules {
        tenant_prefix: "jwt.".to_owned(),
        ..rules()
    };
    let named = |claim: &str| rules.tenant(claim).unwrap().to_string();
    assert_eq!(named("team-a"), "jwt.team-a");
    // What identity providers write; the digits are `printf %s CLAIM | sha256sum | cut -c -32`.
    for (claim, tenant) in [
        (
            "system:serviceaccount:prod:judge",
            "jwt.system-serviceaccount-prod-.41a4267538dabd21173297f7f78d9517",
        ),
        ("auth0|17", "jwt.auth0-17.bd645e2b31a92d56a01d58d8646a5922"),
        (
            "spiffe://example/ns/judge/sa/default",
            "jwt.spiffe---example-ns-judge-s.ab755482735fc336e110ec8c4169c9d1",
        ),
        ("\u{e4}", "jwt.-.33e6d73fee82904c8d7afb78de1154d1"),
    ] {
        assert_eq!(named(claim), tenant);
        // Whoever may choose its claim cannot take the name of another one.
        let taken = tenant.strip_prefix("jwt.").unwrap();
        assert_ne!(named(taken), tenant);
        assert!(named(taken).starts_with("jwt."));
    }
    let long = "x".repeat(61);
    assert_ne!(named(&long), named(&format!("{long}x")));
    assert_ne!(named("a|b"), named("a/b"));
    assert_eq!(rules.tenant(""), None);
    // With the longest prefix too.
    let longest = TokenRules {
        tenant_prefix: "p".repeat(TokenRules::PREFIX_BYTES),
        ..rules.clone()
    };
    assert!(
        longest
            .tenant("auth0|17")
            .unwrap()
            .to_string()
            .starts_with(&longest.tenant_prefix)
    );
}

#[test]
fn scopes_of_other_services_with_our_names_mean_nothing() {
    let golden = golden();
    let token = golden["tokens"]["valid"]["ES256"].as_str().unwrap();
    let jwks = golden["jwks"].to_string();
    let scopes = |prefix: &str, claims: Value| {
        let rules = TokenRules {
            scope_prefix: prefix.to_owned(),
            ..rules()
        };
        let verifier = TokenVerifier::new(Path::new("jwks.json"), jwks.as_bytes(), rules).unwrap();
        let signed = verifier
            .verify(token)
            .map(|verified| verified.principal.scopes.to_string());
        let claims = claims.as_object().unwrap();
        let read = verifier
            .read_claims(claims)
            .map(|verified| verified.principal.scopes.to_string());
        (signed.ok().unwrap(), read.unwrap())
    };
    let claims = serde_json::json!({
        "sub": "a", "exp": 4_102_444_800u64,
        "scope": "admin babelward:score other:classify babelward:none babelward:",
    });
    assert_eq!(
        scopes("babelward:", claims.clone()),
        (String::new(), "score".to_owned())
    );
    assert_eq!(
        scopes("", claims),
        ("classify,score".to_owned(), "admin".to_owned())
    );
}
