//! Checks whether the endpoints of models answer, and what they say of themselves.

use super::{
    super::wire,
    check::{Check, Outcome},
};
use crate::{
    config::{Config, Endpoint},
    errors::with_causes,
    remote::{EndpointDescription, RemoteEndpoint, RemoteError},
};

/// Asks each endpoint what it is.
pub(super) fn checks(config: &Config) -> Vec<Check> {
    let endpoints = config
        .models
        .iter()
        .filter_map(|model| Some((model.id.as_str(), model.endpoint.as_ref()?)));
    endpoints
        .map(|(id, endpoint)| one(config, id, endpoint))
        .collect()
}

fn one(config: &Config, id: &str, endpoint: &Endpoint) -> Check {
    let name = format!("endpoint of {id}");
    let opened = match RemoteEndpoint::new(wire::endpoint_options(config, id, endpoint)) {
        Ok(opened) => opened,
        Err(error) => {
            let fix = format!("mend the file that is named in models.{id}, or name another");
            return Check::new(&name, with_causes(&error), Outcome::Fail(fix));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime {
        Ok(runtime) => described(&name, endpoint, runtime.block_on(opened.describe())),
        Err(error) => Check::new(
            &name,
            error.to_string(),
            Outcome::Fail("free resources of this machine".to_owned()),
        ),
    }
}

fn described(name: &str, endpoint: &Endpoint, said: Result<EndpointDescription, RemoteError>) -> Check {
    let url = &endpoint.url;
    let said = match said {
        Ok(said) => said,
        Err(error) => {
            let fix =
                "start the engine, or correct models.ID.endpoint; the server starts without it".to_owned();
            return Check::new(name, format!("{url}: {error}"), Outcome::Warn(fix));
        }
    };
    let software = [said.software, said.version].into_iter().flatten();
    let software = software.collect::<Vec<_>>().join(" ");
    let software = if software.is_empty() {
        "says nothing of its software".to_owned()
    } else {
        software
    };
    let window = said
        .context_tokens
        .map_or_else(String::new, |tokens| format!(", {tokens} tokens"));
    let found = format!("{url} answers: {software}{window}");
    let outcome = match said.lists_model {
        Some(false) => Outcome::Warn(format!(
            "its list of models has no `{}`: set models.ID.endpoint_model to what it calls the model",
            endpoint.model
        )),
        Some(true) | None => Outcome::Ok,
    };
    Check::new(name, found, outcome)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::remote::EndpointApi;

    #[test]
    fn an_endpoint_is_told_as_it_says_and_an_unknown_model_is_a_warning() {
        let endpoint = Endpoint {
            url: "http://host:8000/v1".parse().unwrap(),
            model: "big".to_owned(),
            api: EndpointApi::Both,
            key_file: None,
            ca_file: None,
            tokenizer: None,
            concurrency: 1,
            stall: Duration::from_secs(1),
        };
        let said = EndpointDescription {
            lists_model: Some(true),
            software: Some("vllm".to_owned()),
            version: Some("0.9".to_owned()),
            context_tokens: Some(4096),
        };
        let check = described("endpoint of big", &endpoint, Ok(said.clone()));
        assert_eq!(check.found, "http://host:8000/v1 answers: vllm 0.9, 4096 tokens");
        assert_eq!(check.outcome, Outcome::Ok);
        let other = EndpointDescription {
            lists_model: Some(false),
            ..EndpointDescription::default()
        };
        let check = described("endpoint of big", &endpoint, Ok(other));
        assert_eq!(
            check.found,
            "http://host:8000/v1 answers: says nothing of its software"
        );
        assert!(matches!(check.outcome, Outcome::Warn(fix) if fix.contains("no `big`")));
        let gone = Err(RemoteError::Connect {
            reason: "refused".to_owned(),
        });
        let check = described("endpoint of big", &endpoint, gone);
        assert_eq!(check.found, "http://host:8000/v1: no connection: refused");
        assert!(matches!(check.outcome, Outcome::Warn(_)));
    }
}
