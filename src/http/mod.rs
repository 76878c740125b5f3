//! The HTTP port: doors for callers that speak HTTP/1.1 and JSON, and a page for people.
//!
//! A door is a translation. A request becomes a call of this process's own services ([`local::LocalChannel`]), which is
//! admitted, limited, counted and logged like any other, and what it answers becomes the answer. What becomes no call is counted
//! and logged as one by [`record`]. No door decides anything of its own about a caller. Connections, and how much of the port
//! each caller may hold, are in `rpc::transport`.

mod body_checks;
mod caller;
mod connect;
mod guardrails;
mod json;
mod limits;
mod local;
mod openai;
mod page;
mod record;
mod request_id;
mod status;
mod verdict;

use axum::{Router, extract::Request, middleware, response::Response};
use prost_reflect::DescriptorError;

pub use crate::config::DoorSettings;
pub use body_checks::{BodyChecks, CallOfBody};
use status::{Refusal, Unsupported};

/// What answers at the HTTP port, with these settings.
///
/// # Errors
/// When our own descriptors cannot be read.
pub fn router(settings: DoorSettings) -> Result<Router, DescriptorError> {
    let page = match settings.page {
        true => page::router(),
        false => Router::new(),
    };
    let settings = std::sync::Arc::new(settings);
    let doors = Router::new().merge(openai::router()).merge(guardrails::router());
    Ok(doors
        .with_state(settings)
        .merge(connect::router()?)
        .merge(page)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(request_id::carry)))
}

async fn no_such_path() -> Refusal {
    Refusal::unsupported(
        Unsupported::Path,
        "nothing is served at this path; docs/http.md lists the paths",
    )
}

async fn no_such_method(request: Request) -> Response {
    let says = format!("this path does not answer {}", request.method());
    let refusal = Refusal::unsupported(Unsupported::Method, &says);
    axum::response::IntoResponse::into_response(refusal)
}
