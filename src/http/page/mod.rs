//! A page for people at the root of the port: it tries conversations and growing texts on the server, and shows what the server
//! does.
//!
//! Its files are part of the program, and the same for everybody. They have no data, so they are answered without a credential
//! and without a call of any service; what the page shows, its script asks for by calls of the Connect door, as any other caller
//! does.

use axum::{
    Router,
    body::Body,
    extract::Request,
    response::{IntoResponse as _, Response},
    routing::get,
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH, REFERRER_POLICY,
        X_CONTENT_TYPE_OPTIONS,
    },
};

use crate::digest;

/// A file of the page.
struct File {
    path: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

const SCRIPT: &str = "text/javascript; charset=utf-8";

static FILES: [File; 10] = [
    File {
        path: "/",
        content_type: "text/html; charset=utf-8",
        content: include_bytes!("index.html"),
    },
    File {
        path: "/page/style.css",
        content_type: "text/css; charset=utf-8",
        content: include_bytes!("style.css"),
    },
    File {
        path: "/page/icon.svg",
        content_type: "image/svg+xml",
        content: include_bytes!("icon.svg"),
    },
    File {
        path: "/page/main.js",
        content_type: SCRIPT,
        content: include_bytes!("main.js"),
    },
    File {
        path: "/page/schema.js",
        content_type: SCRIPT,
        content: include_bytes!("schema.js"),
    },
    File {
        path: "/page/connect.js",
        content_type: SCRIPT,
        content: include_bytes!("connect.js"),
    },
    File {
        path: "/page/dom.js",
        content_type: SCRIPT,
        content: include_bytes!("dom.js"),
    },
    File {
        path: "/page/conversation.js",
        content_type: SCRIPT,
        content: include_bytes!("conversation.js"),
    },
    File {
        path: "/page/growing.js",
        content_type: SCRIPT,
        content: include_bytes!("growing.js"),
    },
    File {
        path: "/page/server.js",
        content_type: SCRIPT,
        content: include_bytes!("server.js"),
    },
];

/// What every file is answered with. The page may load its own files and call its own server, and nothing else: no code in its
/// markup, no code made from texts, no other site, and no frame of another page around it.
const HEADERS: [(HeaderName, HeaderValue); 6] = [
    (
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        ),
    ),
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        HeaderValue::from_static("same-origin"),
    ),
    // Kept, and asked for again each time, because another version of the server has another page.
    (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
];

/// The paths of the page.
pub(super) fn router() -> Router {
    FILES.iter().fold(Router::new(), |router, file| {
        let tag = format!("\"{}\"", digest::of_bytes(file.content));
        let answer = move |request: Request| {
            let response = answer(file, &tag, request.headers());
            std::future::ready(response)
        };
        router.route(file.path, get(answer))
    })
}

/// The file, or word that the one which the browser has is still the same.
fn answer(file: &'static File, tag: &str, asked: &HeaderMap) -> Response {
    let is_known = knows(asked, tag);
    let mut response = match is_known {
        true => StatusCode::NOT_MODIFIED.into_response(),
        false => Response::new(Body::from(Bytes::from_static(file.content))),
    };
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, value);
    }
    // A digest in quotation marks is always a value.
    if let Ok(tag) = HeaderValue::from_str(tag) {
        headers.insert(ETAG, tag);
    }
    if !is_known {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(file.content_type));
    }
    response
}

/// Whether the browser has a file with this tag. A proxy may have made the tag a weak one.
fn knows(headers: &HeaderMap, tag: &str) -> bool {
    let values = headers.get_all(IF_NONE_MATCH).iter();
    let mut tags = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tags.any(|known| {
        let known = known.trim();
        known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_found_in_lists_weak_or_not() {
        let known = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(value));
            knows(&headers, "\"sha256:ab\"")
        };
        for value in ["\"sha256:ab\"", "W/\"sha256:ab\"", "\"x\" , \"sha256:ab\"", "*"] {
            assert!(known(value), "{value}");
        }
        for value in ["", "sha256:ab", "\"sha256:abc\"", "\"x\""] {
            assert!(!known(value), "{value}");
        }
        assert!(!knows(&HeaderMap::new(), "\"sha256:ab\""));
    }
}
