//! `validate label`: a page on this machine on which people label a sample, blind.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path as UrlPath, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use super::{
    super::{CommandError, Exit, Global, output::print_line},
    sheet::{self, Entry},
};
use crate::{
    bench::{report::label_page, results::RunFolder, scores::validation::Label},
    errors::with_causes,
    random::Random,
};

#[derive(Debug, clap::Args)]
pub struct LabelArgs {
    /// Folder of the sample
    dir: PathBuf,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Another seed shows the answers in another order; each person has an own one anyway
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What the page works on. Labels live in the people's files alone, so that nothing is lost with the process and a
/// file may be changed by hand in between.
struct Desk {
    dir: PathBuf,
    entries: Vec<Entry>,
    seed: u64,
    /// Keeps others from guessing the address, and scripts of other pages out.
    secret: String,
    /// One change of a file at a time.
    files: Mutex<()>,
}

/// One answer as the page gets it: the guard's verdict is not there.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    entry: &'a Entry,
    language_name: &'static str,
    label: Option<Label>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Given {
    item: String,
    /// Absent takes a label back.
    label: Option<Label>,
}

/// Why a request of the page is refused.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("a name has 1 to 40 letters, digits, - and _")]
    Name,
    #[error("the sample has no item {0}")]
    Item(String),
    #[error(transparent)]
    Body(#[from] serde_json::Error),
    #[error("{0}")]
    File(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Name | Self::Body(_) => StatusCode::BAD_REQUEST,
            Self::Item(_) => StatusCode::NOT_FOUND,
            Self::File(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, self.to_string()).into_response()
    }
}

/// Serves the page until Ctrl-C.
pub fn label(args: &LabelArgs, global: &Global) -> anyhow::Result<Exit> {
    let entries = sheet::read_sample(&args.dir)?;
    if entries.is_empty() {
        return Err(CommandError::invalid_data("the sample is empty").into());
    }
    let desk = Arc::new(Desk {
        dir: args.dir.clone(),
        entries,
        seed: args.seed,
        secret: format!("{:032x}", rand::random::<u128>()),
        files: Mutex::new(()),
    });
    global.block_on(serve(desk, args.port))
}

async fn serve(desk: Arc<Desk>, port: u16) -> anyhow::Result<Exit> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address}; choose another --port"))?;
    print_line(&format!(
        "{} answers to label on http://{}/{}/ (labels are kept as they are given; Ctrl-C ends)",
        desk.entries.len(),
        listener.local_addr()?,
        desk.secret
    ))?;
    // Nothing is lost when connections break: every label is in its file.
    tokio::select! {
        served = axum::serve(listener, router(desk)) => served?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(Exit::Done)
}

fn router(desk: Arc<Desk>) -> Router {
    let root = format!("/{}", desk.secret);
    Router::new()
        .route(&format!("{root}/"), get(page))
        .route(&format!("{root}/answers/{{name}}"), get(answers))
        .route(&format!("{root}/label/{{name}}"), post(give))
        .route(&format!("{root}/file/{{name}}"), get(file))
        .layer(DefaultBodyLimit::max(10_000))
        .with_state(desk)
}

async fn page(State(desk): State<Arc<Desk>>) -> Response {
    let policy = format!(
        "default-src 'none'; connect-src 'self'; script-src 'nonce-{0}'; style-src 'nonce-{0}'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        desk.secret
    );
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()),
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    match label_page(&desk.secret, desk.entries.len()) {
        Ok(html) => (headers, html).into_response(),
        Err(error) => Refusal::File(with_causes(&error)).into_response(),
    }
}

async fn answers(State(desk): State<Arc<Desk>>, UrlPath(name): UrlPath<String>) -> Result<Response, Refusal> {
    let labels = desk.labels(&desk.path(&name)?)?;
    let shown: Vec<Shown<'_>> = desk
        .order(&name)
        .into_iter()
        .map(|place| &desk.entries[place])
        .map(|entry| Shown {
            entry,
            language_name: entry.language.name(),
            label: labels.get(&entry.item).copied(),
        })
        .collect();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, serde_json::to_string(&shown)?).into_response())
}

async fn give(
    State(desk): State<Arc<Desk>>,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let given: Given = serde_json::from_slice(&body)?;
    if !desk.entries.iter().any(|entry| entry.item == given.item) {
        return Err(Refusal::Item(given.item));
    }
    let path = desk.path(&name)?;
    let _one = desk.files.lock().unwrap_or_else(PoisonError::into_inner);
    let mut labels = desk.labels(&path)?;
    match given.label {
        Some(label) => labels.insert(given.item, label),
        None => labels.remove(&given.item),
    };
    // Whole or not at all, and on the disk: a label that was given stays.
    RunFolder::open(&desk.dir)
        .write(&sheet_name(&name), &sheet::csv(&desk.entries, &labels))
        .map_err(|error| Refusal::File(with_causes(&error)))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn file(State(desk): State<Arc<Desk>>, UrlPath(name): UrlPath<String>) -> Result<Response, Refusal> {
    let text = sheet::csv(&desk.entries, &desk.labels(&desk.path(&name)?)?);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"labels.csv\"".to_owned(),
        ),
    ];
    Ok((headers, text).into_response())
}

/// A person's file in the sample's folder.
fn sheet_name(person: &str) -> String {
    format!("{person}.csv")
}

impl Desk {
    /// A person's file. Names come from the page: nothing in them may leave the folder.
    fn path(&self, name: &str) -> Result<PathBuf, Refusal> {
        let allowed = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let fits = (1..=40).contains(&name.chars().count()) && name.chars().all(allowed);
        match fits {
            true => Ok(self.dir.join(sheet_name(name))),
            false => Err(Refusal::Name),
        }
    }

    fn labels(&self, path: &Path) -> Result<HashMap<String, Label>, Refusal> {
        match path.exists() {
            true => sheet::read_labels(path).map_err(|error| Refusal::File(format!("{error:#}"))),
            false => Ok(HashMap::new()),
        }
    }

    /// The order in which a person sees the answers: what one has just read sways the next label, and so should not
    /// sway two people alike.
    fn order(&self, name: &str) -> Vec<usize> {
        let of_name = name.bytes().fold(self.seed, |sum, byte| {
            sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        Random::new(of_name).shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_the_folder_and_has_its_own_order() {
        let entry = |item: usize| Entry {
            item: item.to_string(),
            language: crate::bench::taxonomy::Language::De,
            category: crate::bench::taxonomy::Category::UNKNOWN,
            prompt: String::new(),
            answer: String::new(),
        };
        let desk = Desk {
            dir: PathBuf::from("labels"),
            entries: (0..30).map(entry).collect(),
            seed: 0,
            secret: String::new(),
            files: Mutex::new(()),
        };
        for name in ["", "../key", "a/b", "a.b", "a b", &"a".repeat(41)] {
            assert!(desk.path(name).is_err(), "{name}");
        }
        assert!(
            desk.path("Zoë-2")
                .is_ok_and(|path| path == Path::new("labels/Zoë-2.csv"))
        );
        assert_eq!(desk.order("anna"), desk.order("anna"));
        assert_ne!(desk.order("anna"), desk.order("ben"));
        let mut all = desk.order("anna");
        all.sort_unstable();
        assert_eq!(all, (0..30).collect::<Vec<_>>());
    }
}
