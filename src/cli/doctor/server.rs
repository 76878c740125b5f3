//! Checks of a running server, as a client sees it: from the connection to the models.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use tonic::{Code, codegen::http::Uri};

use super::check::{Check, Outcome};
use crate::{
    cli::Connection,
    client::{Client, ClientError, RpcError, TlsProblem},
    proto::{Capability, LoadPolicy, Model, model::State},
};

/// Longest wait for one answer, unless `--timeout` says otherwise.
const PATIENCE: Duration = Duration::from_secs(10);

/// The services whose health is asked, by their names in `babelward.v1`.
const SERVICES: [&str; 5] = [
    "GenerationService",
    "SafetyService",
    "ScoringService",
    "ModelService",
    "AdminService",
];

/// Runs all checks. What depends on a check that failed is left out.
pub(super) async fn checks(connection: &Connection) -> Vec<Check> {
    let address = connection.address();
    let client = match connection.with_timeout(PATIENCE).connect().await {
        Ok(client) => client,
        Err(error) => return vec![unreached(&error)],
    };
    let started = Instant::now();
    let serving = match client.is_serving("").await {
        Ok(serving) => serving,
        Err(error) => return vec![unanswered(&address, error)],
    };
    let found = format!(
        "{address} answers, in {:.1} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    let mut checks = vec![Check::new("server", found, Outcome::Ok), encryption(&address)];
    match client.list_models().await {
        Ok(models) => {
            let found = if client.has_credential() {
                "the server answers with the credential that was sent"
            } else {
                "the server asks for none: whoever reaches the port may call"
            };
            checks.push(Check::new("authentication", found, Outcome::Ok));
            checks.push(version(client.server_version().await.unwrap_or_default()));
            checks.push(health(&client, serving, &models).await);
            checks.extend(roles(&models));
            checks.extend(models.iter().map(model));
        }
        Err(error) => checks.push(unanswered(&address, error)),
    }
    checks
}

/// The check for a server that cannot be connected to.
fn unreached(error: &anyhow::Error) -> Check {
    let fix = match error.downcast_ref() {
        None => "name a file that holds the certificates of the authorities to trust, in PEM form",
        Some(ClientError::BadAddress { .. }) => "write it like http://127.0.0.1:50051, or https:// for TLS",
        Some(ClientError::PlaintextToken { .. }) => {
            "say https:// to a server that speaks TLS; --insecure-plaintext-token sends the key or token without it"
        }
        Some(ClientError::Tls { problem, .. }) => match problem {
            TlsProblem::Certificate(_) => {
                "use the host name that the certificate is for, and name its authority's certificate with --ca-file"
            }
            TlsProblem::NotSpoken(_) => "say http://, or give the port of the proxy that speaks TLS",
            TlsProblem::NotSetUp(_) => "check the files of --ca-file, --client-cert and --client-key",
            TlsProblem::Client(_) => {
                "show a certificate that the server's authority issued, with --client-cert and --client-key"
            }
        },
        Some(_) => {
            "start `babelward serve` there, or say where it listens; from another machine it needs --listen"
        }
    };
    Check::new("server", format!("{error:#}"), Outcome::Fail(fix.to_owned()))
}

/// The check for a server that can be connected to but gives no useful answer.
fn unanswered(address: &str, error: ClientError) -> Check {
    let rpc = match error {
        ClientError::Rpc(rpc) => rpc,
        other => return unreached(&other.into()),
    };
    let (name, fix) = match rpc.code {
        Code::Unauthenticated | Code::PermissionDenied => (
            "authentication",
            "the server wants credentials: send an API key or token (--token-file) that allows the call, or show a certificate (--client-cert)",
        ),
        Code::Unimplemented => (
            "server",
            "it speaks gRPC, but is not `babelward serve`, or a proxy does not pass this call on",
        ),
        Code::DeadlineExceeded => (
            "server",
            "it accepts connections and does not answer in time: allow more time with --timeout",
        ),
        _ => (
            "server",
            "what listens there does not speak gRPC without TLS: give the port of `babelward serve` (not that of its \
             metrics), or say https:// where a proxy in front of it speaks TLS",
        ),
    };
    Check::new(
        name,
        format!("{address}: {}", one_line(&rpc)),
        Outcome::Fail(fix.to_owned()),
    )
}

fn one_line(error: &RpcError) -> String {
    error.to_string().lines().collect::<Vec<_>>().join(" ")
}

/// Whether what is sent is encrypted, and whether that matters, which depends on whether the server is on this machine.
fn encryption(address: &str) -> Check {
    if address.starts_with("https://") {
        return Check::new(
            "encryption",
            "TLS, with a certificate that is trusted here",
            Outcome::Ok,
        );
    }
    let with_scheme = match address.contains("://") {
        true => address.to_owned(),
        false => format!("http://{address}"),
    };
    let host = with_scheme.parse::<Uri>().ok();
    let host = host.as_ref().and_then(Uri::host).unwrap_or_default();
    let ip = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .parse::<IpAddr>();
    if host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback()) {
        return Check::new(
            "encryption",
            "none, and none needed: it is this machine",
            Outcome::Ok,
        );
    }
    let fix = "keep to a network that is trusted, or put a proxy that speaks TLS in front of the server and say https://";
    let found = "none: whoever can listen on the network can read prompts and answers";
    Check::new("encryption", found, Outcome::Warn(fix.to_owned()))
}

fn version(server: String) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let update = || {
        Outcome::Warn("use the same version on both sides: each leaves out what it does not know".to_owned())
    };
    if server == own {
        Check::new("version", format!("{own} on both sides"), Outcome::Ok)
    } else if server.is_empty() {
        Check::new(
            "version",
            format!("the server does not say its version; here it is {own}"),
            update(),
        )
    } else {
        Check::new("version", format!("{server} there, {own} here"), update())
    }
}

async fn health(client: &Client, serving: bool, models: &[Model]) -> Check {
    let mut not_serving = Vec::new();
    for service in SERVICES {
        // A service that the server does not know is not served.
        let serves = client.is_serving(&format!("babelward.v1.{service}")).await;
        if !serves.unwrap_or(false) {
            not_serving.push(service);
        }
    }
    if serving && not_serving.is_empty() {
        return Check::new("health", "SERVING, and every service", Outcome::Ok);
    }
    let whole = if serving { "SERVING" } else { "NOT_SERVING" };
    let found = match not_serving.as_slice() {
        [] => whole.to_owned(),
        services => format!("{whole}, without {}", services.join(", ")),
    };
    let any = |state| models.iter().any(|model| model.state() == state);
    let fix = if any(State::Loading) {
        "models are being loaded: wait (`babelward models watch`)"
    } else if any(State::Draining) && !serving {
        "the server is being stopped: use another, or start it again"
    } else if any(State::Failed) {
        "see the models below"
    } else {
        "a service needs a model of its kind: configure one (--model, --guard), or load it"
    };
    Check::new("health", found, Outcome::Warn(fix.to_owned()))
}

/// Kinds of models that the server lacks.
fn roles(models: &[Model]) -> Vec<Check> {
    let missing = |capability, name, flag| {
        let has = models
            .iter()
            .any(|model| model.capabilities().any(|can| can == capability));
        let fix = format!("start the server with {flag}");
        (!has).then(|| Check::new(name, "none", Outcome::Warn(fix)))
    };
    [
        missing(Capability::Generate, "models that generate", "--model ID=PATH"),
        missing(Capability::Classify, "models that judge", "--guard ID=PATH"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn model(model: &Model) -> Check {
    let name = format!("model {}", model.name);
    let load = format!("`babelward models load {}`", model.name);
    match model.state() {
        State::Ready if model.remote.is_some() => {
            let remote = model.remote.clone().unwrap_or_default();
            let found = format!("{} at {}", remote.model, remote.endpoint);
            Check::new(&name, found, Outcome::Ok)
        }
        State::Failed if model.remote.is_some() => {
            let fix = "look at its endpoint: it is asked all the while, and the model is ready with its next answer";
            Check::new(
                &name,
                format!("failed: {}", model.error),
                Outcome::Fail(fix.to_owned()),
            )
        }
        State::Ready => {
            let mut found = format!(
                "ready, {} {}, {} tokens",
                model.architecture, model.dtype, model.context_tokens
            );
            // Servers of older versions do not say it.
            if !model.device.is_empty() {
                found.push_str(&format!(", on {}", model.device));
            }
            if model.device_note.is_empty() {
                return Check::new(&name, found, Outcome::Ok);
            }
            let fix = "mend that where the server runs (`babelward doctor` there), or name the model's device in its \
                       configuration";
            let found = format!("{found}: {}", model.device_note);
            Check::new(&name, found, Outcome::Warn(fix.to_owned()))
        }
        State::Unloaded if model.load() == LoadPolicy::Lazy => {
            Check::new(&name, "not loaded: the first request does it", Outcome::Ok)
        }
        State::Unloaded => Check::new(&name, "not loaded", Outcome::Warn(format!("load it: {load}"))),
        State::Loading => Check::new(&name, "loading", Outcome::Warn("wait".to_owned())),
        State::Draining => {
            let fix = "it takes nothing new: use another model or server".to_owned();
            Check::new(&name, "draining", Outcome::Warn(fix))
        }
        State::Failed => {
            let fix = format!("read the server's log, mend the cause, then {load}");
            Check::new(&name, format!("failed: {}", model.error), Outcome::Fail(fix))
        }
        State::Unspecified => {
            let fix = "use the same version on both sides".to_owned();
            Check::new(
                &name,
                "in a state that this version does not know",
                Outcome::Warn(fix),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_leaves_the_machine_needs_encryption() {
        for address in [
            "http://127.0.0.1:50051",
            "localhost:1",
            "http://[::1]:50051",
            "https://guard.example",
        ] {
            assert_eq!(encryption(address).outcome, Outcome::Ok, "{address}");
        }
        for address in ["http://10.0.0.7:50051", "guard.example:1"] {
            assert!(
                matches!(encryption(address).outcome, Outcome::Warn(_)),
                "{address}"
            );
        }
    }

    #[test]
    fn versions_are_compared() {
        assert_eq!(version(env!("CARGO_PKG_VERSION").to_owned()).outcome, Outcome::Ok);
        for other in ["0.0.0", ""] {
            assert!(
                matches!(version(other.to_owned()).outcome, Outcome::Warn(_)),
                "{other}"
            );
        }
    }
}
