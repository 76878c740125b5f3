//! The page at the root: what it is served with, that it opens no hole, and that it asks for what there is.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::Body;
use babelward::{
    auth::Scope,
    config::DoorSettings,
    proto::FILE_DESCRIPTOR_SET,
    rpc::{Listeners, Reason},
};
use http::{Method, Request};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind};
use serde_json::Value;

use crate::{
    credentials::{KeyFile, checked},
    rig::{Rig, Setup},
    support::{Answer, Client, address, listeners_with, post, with_header},
};

const LIST_MODELS: &str = "/babelward.v1.ModelService/ListModels";

fn settings() -> DoorSettings {
    DoorSettings {
        page: true,
        ..DoorSettings::default()
    }
}

async fn with_page() -> Rig {
    Rig::on(Setup::default(), listeners_with(settings()).await).await
}

async fn ask(client: &mut Client, method: Method, path: &str) -> Answer {
    client.send(request(method, path)).await
}

fn request(method: Method, path: &str) -> Request<Body> {
    let request = Request::builder().method(method).uri(path);
    request.header("host", "localhost").body(Body::empty()).unwrap()
}

fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

/// What stands between this and the next quotation mark, wherever it stands.
fn quoted_behind<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before)
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
}

/// The page's files by path: the root, what it names, and what its scripts import.
async fn files(client: &mut Client) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut wanted = vec!["/".to_owned()];
    while let Some(path) = wanted.pop() {
        if files.contains_key(&path) {
            continue;
        }
        let answer = ask(client, Method::GET, &path).await;
        assert_eq!(answer.status.as_u16(), 200, "{path}");
        let content = text(&answer);
        for attribute in ["href=\"", "src=\""] {
            let named = quoted_behind(&content, attribute).filter(|named| named.starts_with('/'));
            wanted.extend(named.map(ToOwned::to_owned));
        }
        let imported = quoted_behind(&content, "from \"./");
        wanted.extend(imported.map(|name| format!("/page/{name}")));
        files.insert(path, content);
    }
    files
}

/// The scripts alone, one behind the other.
fn scripts(files: &BTreeMap<String, String>) -> String {
    let scripts = files.iter().filter(|(path, _)| path.ends_with(".js"));
    scripts.map(|(_, content)| content.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_file_is_served_with_a_strict_policy_and_asked_for_again() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    let files = files(&mut client).await;
    assert!(files.len() >= 9, "{:?}", files.keys());
    for path in files.keys() {
        let answer = ask(&mut client, Method::GET, path).await;
        let kind = match path.rsplit('.').next() {
            Some("js") => "text/javascript; charset=utf-8",
            Some("css") => "text/css; charset=utf-8",
            Some("svg") => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(answer.header("content-type"), kind, "{path}");
        let policy = answer.header("content-security-policy").to_owned();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(
                policy.split(';').any(|given| given.trim() == part),
                "{path}: {part} in {policy}"
            );
        }
        assert!(!policy.contains("unsafe") && !policy.contains('*') && !policy.contains("http"));
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("referrer-policy"), "no-referrer");
        assert_eq!(answer.header("cross-origin-opener-policy"), "same-origin");
        assert_eq!(answer.header("cross-origin-resource-policy"), "same-origin");
        assert_eq!(answer.header("cache-control"), "no-cache");
        assert!(
            answer
                .headers
                .keys()
                .all(|name| !name.as_str().starts_with("access-control-"))
        );
        let head = ask(&mut client, Method::HEAD, path).await;
        assert_eq!((head.status.as_u16(), head.body.len()), (200, 0), "{path}");
        for name in ["content-type", "etag", "content-security-policy"] {
            assert_eq!(head.header(name), answer.header(name), "{path}: {name}");
        }
        let tag = answer.header("etag").to_owned();
        let known = with_header(request(Method::GET, path), "if-none-match", &tag);
        let same = client.send(known).await;
        assert_eq!((same.status.as_u16(), same.body.len()), (304, 0), "{path}");
        assert_eq!(
            (same.header("etag"), same.header("cache-control")),
            (tag.as_str(), "no-cache")
        );
        assert_eq!(same.header("content-security-policy"), policy);
        let other = with_header(request(Method::GET, path), "if-none-match", "\"another\"");
        assert_eq!(client.send(other).await.body, answer.body, "{path}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_has_no_code_in_markup_makes_none_and_keeps_nothing() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    let files = files(&mut client).await;
    let markup = &files["/"];
    for tag in markup
        .split('<')
        .skip(1)
        .filter_map(|rest| rest.split('>').next())
    {
        let attributes = tag.split_whitespace().skip(1);
        for name in attributes.filter_map(|attribute| attribute.split_once('=').map(|(name, _)| name)) {
            assert!(!name.starts_with("on") && name != "style", "<{tag}>");
        }
        if tag.starts_with("script") {
            assert!(tag.contains("src=\"/page/"), "<{tag}>");
        }
    }
    assert!(!markup.contains("<style"));
    let scripts = scripts(&files);
    for forbidden in [
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "DOMParser",
        "eval(",
        "new Function",
        "localStorage",
        "sessionStorage",
        "indexedDB",
        ".cookie",
        "import(",
        "console.",
    ] {
        assert!(!scripts.contains(forbidden), "{forbidden}");
    }
    // Nothing is fetched from elsewhere.
    for (path, content) in &files {
        for line in content.lines().filter(|line| line.contains("://")) {
            let is_comment = line.trim_start().starts_with("//");
            assert!(
                is_comment || line.contains("http://www.w3.org/"),
                "{path}: {line}"
            );
        }
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_needs_no_key_and_gets_no_data_without_one() {
    let keys = KeyFile::new();
    let key = keys.add("team", &[Scope::Classify]);
    let listeners = Listeners {
        security: checked(&keys.open()),
        ..listeners_with(settings()).await
    };
    let rig = Rig::on(Setup::default(), listeners).await;
    let mut client = Client::connect(address(&rig)).await;
    let files = files(&mut client).await;
    // What everybody gets names nothing of this server.
    assert!(
        files
            .values()
            .all(|content| !content.contains(crate::rig::TARGET))
    );
    assert_eq!(
        client.post(LIST_MODELS, "{}").await.reason(401),
        "CREDENTIALS_MISSING"
    );
    let bearer = format!("Bearer {key}");
    let keyed = |path: &str| with_header(post(path, "{}"), "authorization", &bearer);
    assert_eq!(client.send(keyed(LIST_MODELS)).await.status.as_u16(), 200);
    // What all tenants together do is told to whom the metrics are told.
    let stats = "/babelward.v1.ModelService/GetServerStats";
    assert_eq!(client.send(keyed(stats)).await.reason(403), "SCOPE_MISSING");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_under_a_name_that_leads_here_gets_no_data_from_a_server_that_trusts_everybody() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    let rebound = with_header(post(LIST_MODELS, "{}"), "origin", "http://rebound.example:8080");
    assert_eq!(client.send(rebound).await.reason(403), "HTTP_ORIGIN");
    let own = with_header(post(LIST_MODELS, "{}"), "origin", "http://127.0.0.1:8080");
    assert_eq!(client.send(own).await.status.as_u16(), 200);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_the_page_is_served_and_it_can_be_turned_off() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    for path in [
        "/index.html",
        "/page",
        "/page/",
        "/page/index.html",
        "/page/mod.rs",
        "/page/../mod.rs",
        "/style.css",
    ] {
        let answer = ask(&mut client, Method::GET, path).await;
        assert_eq!(answer.reason(404), "HTTP_UNSUPPORTED", "{path}");
    }
    for path in ["/", "/page/main.js"] {
        let answer = client.post(path, "{}").await;
        assert_eq!(answer.reason(405), "HTTP_UNSUPPORTED", "{path}");
        assert_eq!(answer.header("allow"), "GET,HEAD", "{path}");
    }
    rig.stop().await;
    let off = DoorSettings {
        page: false,
        ..DoorSettings::default()
    };
    let rig = Rig::on(Setup::default(), listeners_with(off).await).await;
    let mut client = Client::connect(address(&rig)).await;
    for path in ["/", "/page/main.js"] {
        let answer = ask(&mut client, Method::GET, path).await;
        assert_eq!(answer.reason(404), "HTTP_UNSUPPORTED", "{path}");
    }
    assert_eq!(client.post(LIST_MODELS, "{}").await.status.as_u16(), 200);
    rig.stop().await;
}

fn types() -> DescriptorPool {
    let mut types = DescriptorPool::decode(FILE_DESCRIPTOR_SET).unwrap();
    types
        .decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        .unwrap();
    types
}

/// A table of a script, which is written as JSON.
fn table(script: &str, name: &str) -> Value {
    let (_, rest) = script.split_once(&format!("export const {name} = ")).unwrap();
    let (table, _) = rest.split_once("};").unwrap();
    serde_json::from_str(&format!("{table}}}")).unwrap()
}

/// How the table of messages writes the type of a field.
fn written(field: &FieldDescriptor) -> String {
    let one = match field.kind() {
        Kind::String => "string".to_owned(),
        Kind::Bytes => "bytes".to_owned(),
        Kind::Bool => "boolean".to_owned(),
        Kind::Enum(_) => "enum".to_owned(),
        Kind::Int64 | Kind::Uint64 | Kind::Sint64 | Kind::Fixed64 | Kind::Sfixed64 => "int64".to_owned(),
        Kind::Message(message) => match message.full_name() {
            "google.protobuf.Duration" => "duration".to_owned(),
            "google.protobuf.Timestamp" => "timestamp".to_owned(),
            name => name.to_owned(),
        },
        _ => "number".to_owned(),
    };
    match (field.is_list(), field.kind()) {
        (true, _) => format!("[{one}]"),
        (false, Kind::Message(_)) => one,
        (false, _) if field.supports_presence() => format!("{one}?"),
        (false, _) => one,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_asks_and_reads_is_in_the_proto_files() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    let files = files(&mut client).await;
    let types = types();
    let schema = &files["/page/schema.js"];
    let methods = table(schema, "METHODS");
    let messages = table(schema, "MESSAGES");
    for (path, of) in methods.as_object().unwrap() {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap();
        let service = types
            .get_service_by_name(service)
            .unwrap_or_else(|| panic!("{path}"));
        let found = service.methods().find(|given| given.name() == method);
        let found = found.unwrap_or_else(|| panic!("{path}"));
        assert_eq!(of[0], found.input().full_name(), "{path}");
        assert_eq!(of[1], found.output().full_name(), "{path}");
        for message in [&of[0], &of[1]] {
            assert!(messages[message.as_str().unwrap()].is_object(), "{message}");
        }
    }
    for (name, fields) in messages.as_object().unwrap() {
        let message = types
            .get_message_by_name(name)
            .unwrap_or_else(|| panic!("{name}"));
        for (field, kind) in fields.as_object().unwrap() {
            let found = message.get_field_by_json_name(field);
            let found = found.unwrap_or_else(|| panic!("{name} has no field {field}"));
            assert_eq!(kind.as_str().unwrap(), written(&found), "{name}.{field}");
            if let Kind::Message(inner) = found.kind()
                && !inner.full_name().starts_with("google.")
            {
                assert!(messages[inner.full_name()].is_object(), "{}", inner.full_name());
            }
        }
    }
    // No call is made that is not in the table.
    let scripts = scripts(&files);
    for path in quoted_behind(&scripts, "\"/babelward.v1.").map(|rest| format!("/babelward.v1.{rest}")) {
        assert!(methods[&path].is_array(), "{path}");
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_values_that_the_page_knows_are_in_the_proto_files() {
    let rig = with_page().await;
    let mut client = Client::connect(address(&rig)).await;
    let files = files(&mut client).await;
    let values: BTreeSet<String> = types()
        .all_enums()
        .flat_map(|kind| {
            kind.values()
                .map(|value| value.name().to_owned())
                .collect::<Vec<_>>()
        })
        .collect();
    let scripts = scripts(&files);
    let is_named = |word: &str| scripts.contains(&format!("const {word} "));
    let is_prefix = |word: &str| word.ends_with('_') && values.iter().any(|value| value.starts_with(word));
    let others = [Reason::ScopeMissing.name(), "BABELWARD_TOKEN"];
    let mut found = 0;
    for (path, content) in &files {
        let words = content.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let constants = words.filter(|word| {
            word.contains('_')
                && word.starts_with(|letter: char| letter.is_ascii_uppercase())
                && !word.contains(|letter: char| letter.is_ascii_lowercase())
        });
        for word in constants {
            found += 1;
            assert!(
                values.contains(word) || is_prefix(word) || is_named(word) || others.contains(&word),
                "{path}: {word}"
            );
        }
    }
    assert!(found > 50, "{found}");
    rig.stop().await;
}
