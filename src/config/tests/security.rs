//! What protects a server, and what is refused because it would protect nothing.

use super::*;

/// Variables by name and value.
type Variables<'a> = &'a [(&'a str, &'a str)];

/// The problems of a configuration with these variables, without `BABELWARD_`. `FILE` is a file that exists.
fn refused(variables: Variables) -> Vec<String> {
    let folder = Folder::new("");
    let file = folder.weights();
    let variables: Vec<_> = variables
        .iter()
        .map(|(name, value)| {
            let value = if *value == "FILE" {
                file.to_str().unwrap()
            } else {
                *value
            };
            (format!("BABELWARD_{name}"), value.to_owned())
        })
        .collect();
    let loaded = load(&Inputs {
        env: variables,
        ..Inputs::default()
    });
    problems(&loaded)
}

const KEYS: (&str, &str) = ("AUTH__KEYS_FILE", "FILE");
const TLS: [(&str, &str); 2] = [("TLS__CERTIFICATE", "FILE"), ("TLS__KEY", "FILE")];
const JWKS: (&str, &str) = ("AUTH__JWKS_FILE", "FILE");
const ISSUER: (&str, &str) = ("AUTH__JWT_ISSUER", "https://issuer.example");
const AUDIENCE: (&str, &str) = ("AUTH__JWT_AUDIENCE", "babelward");

#[test]
fn what_protects_nothing_is_refused_and_named() {
    let cases: [(Variables, &str, &str); 17] = [
        (
            &[("QUOTAS__REQUESTS_PER_MINUTE", "5")],
            "quotas.requests_per_minute",
            "without authentication",
        ),
        (
            &[("QUOTAS__TOKENS_PER_MINUTE", "5")],
            "quotas.tokens_per_minute",
            "without authentication",
        ),
        (
            &[("QUOTAS__TENANTS", "a=5/5")],
            "quotas.tenants",
            "without authentication",
        ),
        (
            &[("AUTH__OPEN_METRICS", "true")],
            "auth.open_metrics",
            "open anyway",
        ),
        (&[("TLS__CERTIFICATE", "FILE")], "tls.certificate", "has no key"),
        (&[("TLS__KEY", "FILE")], "tls.key", "has no certificate"),
        (
            &[("TLS__CLIENT_CA", "FILE"), KEYS],
            "tls.client_ca",
            "only to a server that speaks TLS",
        ),
        (
            &[TLS[0], TLS[1], ("TLS__CLIENT_CA", "FILE")],
            "tls.client_ca",
            "nothing says which client",
        ),
        (
            &[TLS[0], TLS[1], ("TLS__CLIENT_CA", "FILE"), JWKS, ISSUER, AUDIENCE],
            "tls.client_ca",
            "nothing says which client",
        ),
        (
            &[TLS[0], TLS[1], ("TLS__CLIENT_CRL", "FILE"), KEYS],
            "tls.client_crl",
            "without tls.client_ca",
        ),
        (&[JWKS, AUDIENCE], "auth.jwt_issuer", "of any issuer"),
        (&[JWKS, ISSUER], "auth.jwt_audience", "for any service"),
        (
            &[JWKS, ISSUER, ("AUTH__JWT_AUDIENCE", "")],
            "auth.jwt_audience",
            "for any service",
        ),
        (&[ISSUER], "auth.jwt_issuer", "no token is accepted"),
        (
            &[JWKS, ISSUER, AUDIENCE, ("AUTH__JWT_LEEWAY", "601s")],
            "auth.jwt_leeway",
            "too long",
        ),
        (
            &[("AUTH__JWT_TENANT_PREFIX", "a/b")],
            "auth.jwt_tenant_prefix",
            "no tenant can begin with it",
        ),
        (
            &[("AUTH__JWT_TENANT_PREFIX", "seventeen-letters")],
            "auth.jwt_tenant_prefix",
            "no tenant can begin with it",
        ),
    ];
    for (variables, key, reason) in cases {
        let found = refused(variables);
        assert_eq!(found.len(), 1, "{variables:?}: {found:?}");
        assert!(
            found[0].starts_with(key) && found[0].contains(reason),
            "{found:?}"
        );
    }
    let all = [
        TLS[0],
        TLS[1],
        KEYS,
        JWKS,
        ISSUER,
        AUDIENCE,
        ("TLS__CLIENT_CA", "FILE"),
    ];
    assert_eq!(refused(&all), [] as [String; 0]);
    let more = [
        ("TLS__CLIENT_CRL", "FILE"),
        ("AUTH__JWT_LEEWAY", "10m"),
        ("AUTH__JWT_TENANT_PREFIX", "sixteen-letters-"),
        ("AUTH__OPEN_METRICS", "true"),
        ("QUOTAS__TENANTS", "a=5/off"),
    ];
    assert_eq!(refused(&[&all[..], &more].concat()), [] as [String; 0]);
}

/// Each listener that other machines reach must be protected, and each of the two words excuses what it names and no more.
#[test]
fn every_listener_that_others_reach_is_protected_or_excused() {
    let listeners = [
        ("server.listen", "SERVER__LISTEN"),
        ("server.metrics_listen", "SERVER__METRICS_LISTEN"),
        ("server.http_listen", "SERVER__HTTP_LISTEN"),
        ("server.admin_listen", "SERVER__ADMIN_LISTEN"),
    ];
    let (no_auth, no_tls) = (
        ("SERVER__INSECURE_NO_AUTH", "true"),
        ("SERVER__INSECURE_NO_TLS", "true"),
    );
    let without_auth = Some("without authentication");
    let without_tls = Some("keys and tokens are not encrypted");
    let protected = [TLS[0], TLS[1], KEYS];
    let cases: [(Variables, Option<&str>); 10] = [
        (&[], without_auth),
        (&TLS, without_auth),
        (&[no_tls], without_auth),
        (&[no_auth], None),
        (&[no_auth, no_tls], None),
        (&[KEYS], without_tls),
        (&[KEYS, no_auth], without_tls),
        (&[KEYS, no_tls], None),
        (&[KEYS, no_tls, ("AUTH__OPEN_METRICS", "true")], None),
        (&protected, None),
    ];
    for (key, variable) in listeners {
        for (with, says) in cases {
            let listen = [(variable, "0.0.0.0:7000"), ("SERVER__ALLOW_ADMIN", "true")];
            let found = refused(&[&listen[..], with].concat());
            match says {
                None => assert_eq!(found, [] as [String; 0], "{key} {with:?}"),
                Some(says) => {
                    assert_eq!(found.len(), 1, "{key} {with:?}: {found:?}");
                    assert!(found[0].starts_with(key) && found[0].contains(says), "{found:?}");
                }
            }
            let here = [
                (variable, "127.0.0.1:7000"),
                ("SERVER__ALLOW_ADMIN", "true"),
                KEYS,
            ];
            assert_eq!(refused(&here), [] as [String; 0]);
        }
    }
}

#[test]
fn a_server_is_exposed_by_any_of_its_listeners() {
    for (variable, exposed) in [
        ("BABELWARD_SERVER__LISTEN", true),
        ("BABELWARD_SERVER__METRICS_LISTEN", true),
        ("BABELWARD_SERVER__ADMIN_LISTEN", true),
        ("BABELWARD_SERVER__DRAIN_GRACE", false),
    ] {
        let value = if exposed { "[::]:7000" } else { "1s" };
        let loaded = from_env(&[
            (variable, value),
            ("BABELWARD_SERVER__ALLOW_ADMIN", "true"),
            ("BABELWARD_SERVER__INSECURE_NO_AUTH", "true"),
        ]);
        assert_eq!(loaded.config.unwrap().server.is_exposed(), exposed, "{variable}");
    }
}
