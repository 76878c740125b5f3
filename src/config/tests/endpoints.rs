//! Models that engines on other machines compute.

use super::*;
use crate::remote::EndpointApi;

fn loaded(text: &str) -> Loaded {
    let folder = Folder::new(text);
    load(&folder.inputs(&[], FlagOverrides::default()))
}

/// Key and reason of each problem.
fn problems(text: &str) -> Vec<String> {
    let error = loaded(text).config.unwrap_err();
    let problems = error.problems.iter();
    problems
        .map(|problem| format!("{}: {}", problem.key, problem.reason))
        .collect()
}

#[test]
fn an_endpoint_needs_its_address_alone() {
    let config = loaded("[models.big]\nendpoint = \"http://10.0.0.7:8000/v1/\"\n")
        .config
        .unwrap();
    let [model] = &config.models[..] else {
        panic!("one model");
    };
    assert_eq!(
        (model.roles.as_slice(), model.load),
        (&[Role::Target][..], LoadPolicy::Manual)
    );
    let endpoint = model.endpoint.clone().unwrap();
    let expected = Endpoint {
        url: "http://10.0.0.7:8000/v1".parse().unwrap(),
        model: "big".to_owned(),
        api: EndpointApi::Both,
        key_file: None,
        ca_file: None,
        tokenizer: None,
        concurrency: 16,
        stall: Duration::from_secs(120),
    };
    assert_eq!(endpoint, expected);
    assert_eq!(config.defaults.target.as_deref(), Some("big"));
}

#[test]
fn everything_about_an_endpoint_can_be_set_with_files_beside_the_file() {
    let folder = Folder::new(
        "[models.big]\nendpoint = \"https://engine/v1\"\nendpoint_model = \"meta-llama/Llama-3.1-70B-Instruct\"\n\
         endpoint_api = \"chat\"\nendpoint_key_file = \"weights.gguf\"\nendpoint_ca_file = \"weights.gguf\"\n\
         endpoint_tokenizer = \"weights.gguf\"\nendpoint_concurrency = 3\nendpoint_stall = \"5s\"\nroles = [\"target\", \"guard\"]\n",
    );
    let config = load(&folder.inputs(&[], FlagOverrides::default()))
        .config
        .unwrap();
    let endpoint = config.models[0].endpoint.clone().unwrap();
    let expected = Endpoint {
        url: "https://engine/v1".parse().unwrap(),
        model: "meta-llama/Llama-3.1-70B-Instruct".to_owned(),
        api: EndpointApi::Chat,
        key_file: Some(folder.weights()),
        ca_file: Some(folder.weights()),
        tokenizer: Some(folder.weights()),
        concurrency: 3,
        stall: Duration::from_secs(5),
    };
    assert_eq!(endpoint, expected);
    assert_eq!(config.models[0].roles, [Role::Target, Role::Guard]);
}

#[test]
fn what_an_endpoint_cannot_have_is_named() {
    let found = problems(
        "[engine]\ndeterministic = \"required\"\n[models.big]\nendpoint = \"http://host/v1\"\npath = \"weights.gguf\"\n\
         precision = \"f32\"\ndevice = \"cpu\"\nload = \"lazy\"\npinned = true\nroles = [\"quality\"]\n\
         endpoint_concurrency = 0\nendpoint_stall = \"0s\"\nendpoint_api = \"grpc\"\nendpoint_ca_file = \"weights.gguf\"\n\
         endpoint_key_file = \"none\"\n",
    );
    for begin in [
        "models.big.endpoint: engine.deterministic is required",
        "models.big.path: the endpoint has the model's weights",
        "models.big.precision: the endpoint decides how",
        "models.big.device: the endpoint decides where",
        "models.big.load: the model is not loaded here",
        "models.big.pinned: the model is not in memory here",
        "models.big.roles: an endpoint cannot estimate quality",
        "models.big.endpoint_concurrency: 0 is out of range",
        "models.big.endpoint_stall: there would be no time",
        "models.big.endpoint_api: `grpc` does not fit",
        "models.big.endpoint_ca_file: an endpoint with http://",
        "models.big.endpoint_key_file: ",
    ] {
        assert!(
            found.iter().any(|problem| problem.starts_with(begin)),
            "{begin}: {found:?}"
        );
    }
    assert_eq!(found.len(), 12, "{found:?}");
}

#[test]
fn addresses_are_checked_and_their_secrets_not_repeated() {
    let found = problems("[models.big]\nendpoint = \"host:8000\"\n");
    assert_eq!(
        found,
        ["models.big.endpoint: `host:8000` is no address of an endpoint"]
    );
    for (address, reason) in [
        ("http://user:hidden@host/v1", "it has a user name or password"),
        ("user:hidden@host:8000/v1", "it is no address of an endpoint"),
        ("http://host/v1?key=hidden", "it has a query"),
    ] {
        let found = problems(&format!("[models.big]\nendpoint = \"{address}\"\n"));
        let [problem] = &found[..] else {
            panic!("{found:?}");
        };
        assert!(
            problem.starts_with(&format!("models.big.endpoint: {reason}")),
            "{problem}"
        );
        assert!(!problem.contains("hidden"), "{problem}");
    }
}

#[test]
fn keys_about_an_endpoint_and_adapters_need_one_of_the_other() {
    let found = problems("[models.smol]\npath = \"weights.gguf\"\nendpoint_model = \"x\"\n");
    assert_eq!(found, ["models.smol.endpoint_model: the model has no endpoint"]);
    let found = problems(
        "[models.big]\nendpoint = \"http://host/v1\"\n[models.polite]\nbase = \"big\"\npath = \"weights.gguf\"\n",
    );
    assert_eq!(found, ["models.polite.base: `big` is computed by an endpoint"]);
}
