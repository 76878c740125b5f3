//! Where an endpoint is, and how it is asked.

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use http::Uri;

/// The address below which an endpoint answers, such as `http://10.0.0.7:8000/v1`. It has no credentials in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    /// Without a slash at its end.
    text: String,
    uri: Uri,
}

/// Why a text is no address of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// It is not an address with `http://` or `https://` and a host.
    #[error("is no address of an endpoint")]
    Form,
    /// It has a user name or password, which would be shown wherever the address is.
    #[error("has a user name or password in it, which everybody who reads the configuration would see")]
    Credentials,
    /// It has a query, below which there are no paths.
    #[error("has a query")]
    Query,
}

impl UrlError {
    /// What to write instead.
    pub fn fix(self) -> &'static str {
        match self {
            Self::Form => {
                "write http:// or https://, a host, a port and a path, such as http://127.0.0.1:8000/v1"
            }
            Self::Credentials => "put the key into a file, and name it in endpoint_key_file",
            Self::Query => "leave out everything from the question mark on",
        }
    }
}

impl FromStr for EndpointUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let text = text.trim_end_matches('/');
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        if !is_http || !has_host {
            return Err(UrlError::Form);
        }
        if uri
            .authority()
            .is_some_and(|authority| authority.as_str().contains('@'))
        {
            return Err(UrlError::Credentials);
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(UrlError::Query);
        }
        Ok(Self {
            text: text.to_owned(),
            uri,
        })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl EndpointUrl {
    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// The host, without the brackets of an IPv6 address.
    pub(super) fn host(&self) -> &str {
        let host = self.uri.host().unwrap_or_default();
        host.trim_start_matches('[').trim_end_matches(']')
    }

    /// The address of a path below this one, which begins with a slash.
    pub(super) fn below(&self, path: &str) -> String {
        format!("{}{path}", self.text)
    }

    /// The address of a path beside the version of the interface: engines have pages of their own there.
    pub(super) fn beside(&self, path: &str) -> String {
        format!("{}{path}", self.text.strip_suffix("/v1").unwrap_or(&self.text))
    }
}

/// Which parts of OpenAI's interface an endpoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndpointApi {
    /// Conversations at `/chat/completions` and raw text at `/completions`.
    Both,
    /// Conversations alone.
    Chat,
    /// Raw text alone.
    Completions,
}

impl EndpointApi {
    /// Whether it answers conversations.
    pub fn has_chat(self) -> bool {
        matches!(self, Self::Both | Self::Chat)
    }

    /// Whether it continues raw text.
    pub fn has_completions(self) -> bool {
        matches!(self, Self::Both | Self::Completions)
    }
}

/// Everything that is known of an endpoint before it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointOptions {
    /// The id of the model here: the label of its metrics.
    pub id: String,
    /// Where it is.
    pub url: EndpointUrl,
    /// What the model is called there.
    pub model: String,
    /// Which parts of the interface it has.
    pub api: EndpointApi,
    /// A file with the key that it wants, if it wants one.
    pub key_file: Option<PathBuf>,
    /// A PEM file of the authorities that may have issued its certificate. When absent, those that the system trusts.
    pub ca_file: Option<PathBuf>,
    /// Most requests that are open at once.
    pub concurrency: usize,
    /// Most requests that wait for that.
    pub queue: usize,
    /// Longest time without a byte of an answer.
    pub stall: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_no_secrets() {
        for (text, error) in [
            ("127.0.0.1:8000/v1", UrlError::Form),
            ("ftp://host/v1", UrlError::Form),
            ("http:///v1", UrlError::Form),
            ("", UrlError::Form),
            ("http://user:word@host/v1", UrlError::Credentials),
            ("https://host/v1?key=1", UrlError::Query),
        ] {
            assert_eq!(text.parse::<EndpointUrl>(), Err(error), "{text}");
        }
    }

    #[test]
    fn paths_are_below_the_version_or_beside_it() {
        let url: EndpointUrl = "http://[::1]:8000/v1/".parse().unwrap();
        assert_eq!(url.to_string(), "http://[::1]:8000/v1");
        assert_eq!(url.host(), "::1");
        assert_eq!(url.below("/models"), "http://[::1]:8000/v1/models");
        assert_eq!(url.beside("/props"), "http://[::1]:8000/props");
        assert!(!url.is_encrypted());
        let bare: EndpointUrl = "https://host".parse().unwrap();
        assert_eq!(bare.beside("/version"), "https://host/version");
        assert!(bare.is_encrypted());
    }
}
