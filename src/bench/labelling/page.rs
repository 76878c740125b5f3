//! A page on this machine on which people label a sample without seeing the guard's verdicts.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

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
    error::LabelError,
    sheet::{self, SampledAnswer},
};
use crate::{
    bench::{report::label_page, results::RunFolder, scores::validation::Label},
    errors::with_causes,
    random::Random,
};

/// The sample that the page shows, and where the labels go. Labels are kept in the people's sheets alone, so that nothing is
/// lost with the process and a sheet may be changed by hand while the page is open.
struct LabelDesk {
    folder: PathBuf,
    answers: Vec<SampledAnswer>,
    seed: u64,
    /// Part of the page's address: other users of the machine cannot guess it, and neither can scripts of other pages.
    secret: String,
    /// Held while a sheet is changed: one change at a time.
    sheets: Mutex<()>,
}

/// One answer as the page gets it, without the guard's verdict.
#[derive(Serialize)]
struct ShownAnswer<'a> {
    #[serde(flatten)]
    answer: &'a SampledAnswer,
    language_name: &'static str,
    label: Option<Label>,
}

/// What the page sends when a person labels an answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GivenLabel {
    item: String,
    /// Absent where the person takes a label back.
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

/// The page of a sample, before it is served.
pub struct LabelPage {
    desk: Arc<LabelDesk>,
}

impl LabelPage {
    /// Reads the sample in a folder. `seed` decides in which order the answers are shown; each person has an own order.
    ///
    /// # Errors
    /// [`LabelError`].
    pub fn open(folder: &Path, seed: u64) -> Result<Self, LabelError> {
        let answers = sheet::read_sample(folder)?;
        if answers.is_empty() {
            return Err(LabelError::EmptySample);
        }
        let desk = LabelDesk {
            folder: folder.to_owned(),
            answers,
            seed,
            secret: format!("{:032x}", rand::random::<u128>()),
            sheets: Mutex::new(()),
        };
        Ok(Self { desk: Arc::new(desk) })
    }

    /// Opens a port on the loopback interface; 0 takes a free one.
    ///
    /// # Errors
    /// [`LabelError::Listen`].
    pub async fn listen(self, port: u16) -> Result<OpenPage, LabelError> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |source| LabelError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        Ok(OpenPage {
            address: listener.local_addr().map_err(failed)?,
            listener,
            desk: self.desk,
        })
    }
}

/// The page of a sample, with the port that it is served on.
pub struct OpenPage {
    address: SocketAddr,
    listener: TcpListener,
    desk: Arc<LabelDesk>,
}

impl OpenPage {
    /// How many answers there are to label.
    pub fn answers(&self) -> usize {
        self.desk.answers.len()
    }

    /// Where the page is. The address holds a secret: whoever knows it may label.
    pub fn url(&self) -> String {
        format!("http://{}/{}/", self.address, self.desk.secret)
    }

    /// Serves the page until `stop` is ready. Nothing is lost when connections break off: every label is in its sheet.
    ///
    /// # Errors
    /// [`LabelError::Serve`].
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), LabelError> {
        tokio::select! {
            served = axum::serve(self.listener, router(self.desk)) => served.map_err(LabelError::Serve),
            () = stop => Ok(()),
        }
    }
}

fn router(desk: Arc<LabelDesk>) -> Router {
    let root = format!("/{}", desk.secret);
    Router::new()
        .route(&format!("{root}/"), get(page))
        .route(&format!("{root}/answers/{{name}}"), get(answers))
        .route(&format!("{root}/label/{{name}}"), post(give))
        .route(&format!("{root}/file/{{name}}"), get(file))
        .layer(DefaultBodyLimit::max(10_000))
        .with_state(desk)
}

async fn page(State(desk): State<Arc<LabelDesk>>) -> Response {
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
    match label_page(&desk.secret, desk.answers.len()) {
        Ok(html) => (headers, html).into_response(),
        Err(error) => Refusal::File(with_causes(&error)).into_response(),
    }
}

async fn answers(
    State(desk): State<Arc<LabelDesk>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Response, Refusal> {
    let labels = desk.labels(&desk.path(&name)?)?;
    let shown: Vec<ShownAnswer<'_>> = desk
        .order(&name)
        .into_iter()
        .map(|index| &desk.answers[index])
        .map(|answer| ShownAnswer {
            answer,
            language_name: answer.language.name(),
            label: labels.get(&answer.item).copied(),
        })
        .collect();
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, serde_json::to_string(&shown)?).into_response())
}

async fn give(
    State(desk): State<Arc<LabelDesk>>,
    UrlPath(name): UrlPath<String>,
    body: Bytes,
) -> Result<StatusCode, Refusal> {
    let given: GivenLabel = serde_json::from_slice(&body)?;
    if !desk.answers.iter().any(|answer| answer.item == given.item) {
        return Err(Refusal::Item(given.item));
    }
    let path = desk.path(&name)?;
    let _guard = desk.sheets.lock().unwrap_or_else(PoisonError::into_inner);
    let mut labels = desk.labels(&path)?;
    match given.label {
        Some(label) => labels.insert(given.item, label),
        None => labels.remove(&given.item),
    };
    // Written whole or not at all, and synced to the disk: a label that was given stays.
    RunFolder::open(&desk.folder)
        .write(&sheet_name(&name), &sheet::csv(&desk.answers, &labels))
        .map_err(|error| Refusal::File(with_causes(&error)))?;
    Ok(StatusCode::NO_CONTENT)
}

async fn file(
    State(desk): State<Arc<LabelDesk>>,
    UrlPath(name): UrlPath<String>,
) -> Result<Response, Refusal> {
    let text = sheet::csv(&desk.answers, &desk.labels(&desk.path(&name)?)?);
    let headers = [
        (header::CONTENT_TYPE, "text/csv; charset=utf-8".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"labels.csv\"".to_owned(),
        ),
    ];
    Ok((headers, text).into_response())
}

/// Name of a person's sheet in the sample's folder.
fn sheet_name(person: &str) -> String {
    format!("{person}.csv")
}

impl LabelDesk {
    /// Path of a person's sheet. The name comes from the page: nothing in it may lead out of the folder.
    fn path(&self, name: &str) -> Result<PathBuf, Refusal> {
        let allowed = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
        let fits = (1..=40).contains(&name.chars().count()) && name.chars().all(allowed);
        match fits {
            true => Ok(self.folder.join(sheet_name(name))),
            false => Err(Refusal::Name),
        }
    }

    fn labels(&self, path: &Path) -> Result<HashMap<String, Label>, Refusal> {
        match path.exists() {
            true => sheet::read_labels(path).map_err(|error| Refusal::File(with_causes(&error))),
            false => Ok(HashMap::new()),
        }
    }

    /// The order in which a person sees the answers. The answer that was read last sways the next label, so two people see
    /// different orders.
    fn order(&self, name: &str) -> Vec<usize> {
        let of_name = name.bytes().fold(self.seed, |sum, byte| {
            sum.wrapping_mul(0x100_0000_01b3) ^ u64::from(byte)
        });
        let mut order: Vec<usize> = (0..self.answers.len()).collect();
        Random::new(of_name).shuffle(&mut order);
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_the_folder_and_has_its_own_order() {
        let answer = |item: usize| SampledAnswer {
            item: item.to_string(),
            language: crate::bench::taxonomy::Language::De,
            category: crate::bench::taxonomy::Category::UNKNOWN,
            prompt: String::new(),
            answer: String::new(),
        };
        let desk = LabelDesk {
            folder: PathBuf::from("labels"),
            answers: (0..30).map(answer).collect(),
            seed: 0,
            secret: String::new(),
            sheets: Mutex::new(()),
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
