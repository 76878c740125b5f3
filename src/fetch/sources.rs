//! Where files are fetched from, and where they are kept.

use std::{env, ffi::OsString, fmt, net::IpAddr, path::PathBuf, str::FromStr, time::Duration};

use ureq::http::Uri;

use super::{artifact::Artifact, error::FetchError};
use crate::secret::Secret;

/// The Python that pip is run with.
pub(crate) const PYTHON: &str = "python3";

/// Where files are fetched from, and where they are kept.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    /// Folder of fetched models.
    pub(super) cache: PathBuf,
    /// Folder of fetched prompt sets.
    pub(super) datasets: PathBuf,
    /// The Python whose pip is used.
    pub(super) python: OsString,
    pub(super) hub: NamedHub,
    /// Whether the hub is tried before pip.
    pub(super) hub_first: bool,
}

/// The address of a hub: `https://` or `http://`, a host, and perhaps a port and a path; without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubAddress(String);

impl fmt::Display for HubAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for HubAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "write the address of a hub, such as https://huggingface.co".to_owned();
        let uri: Uri = text.parse().map_err(|_| expected())?;
        let of_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let named = uri
            .authority()
            .is_some_and(|authority| !authority.host().is_empty() && !authority.as_str().contains('@'));
        if !of_web || !named || uri.query().is_some() {
            return Err(expected());
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

/// A Hugging Face hub.
#[derive(Debug, Clone)]
pub(super) struct NamedHub {
    /// Its address, without a slash at the end.
    pub(super) address: String,
    /// `HF_TOKEN`, for files that it does not give to everybody.
    pub(super) token: Option<Secret>,
    /// How long to wait after a failure before it is asked again.
    pub(super) retry_pause: Duration,
}

/// What a request says of who makes it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Authorisation<'a> {
    /// Nothing: there is no token, or the address is not the hub's.
    Nobody,
    /// The token.
    Token(&'a Secret),
    /// Nothing although there is a token, because everybody on the way could read it.
    Withheld,
}

impl NamedHub {
    /// The hub that the environment names: `HF_ENDPOINT` and `HF_TOKEN`.
    pub(super) fn of_process() -> Self {
        let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self {
            address: named("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned())
                .trim()
                .trim_end_matches('/')
                .to_owned(),
            token: named("HF_TOKEN").map(|token| Secret::new(token.trim().to_owned())),
            retry_pause: Duration::from_secs(1),
        }
    }

    /// What a request to `url` says. A token is for the hub that gave it and for no other address; it is sent by HTTPS, and
    /// without it only within this machine.
    pub(super) fn authorisation(&self, url: &str) -> Authorisation<'_> {
        let of_hub = url
            .strip_prefix(self.address.as_str())
            .is_some_and(|rest| rest.starts_with('/'));
        match &self.token {
            Some(token) if of_hub && is_private(url) => Authorisation::Token(token),
            Some(_) if of_hub => Authorisation::Withheld,
            _ => Authorisation::Nobody,
        }
    }
}

/// Whether what is sent to an address can be read by nobody else.
fn is_private(url: &str) -> bool {
    let Ok(uri) = url.parse::<Uri>() else {
        return false;
    };
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost" || host.parse().is_ok_and(|address: IpAddr| address.is_loopback());
    uri.scheme_str() == Some("https") || is_here
}

impl Sources {
    /// The sources that the environment names: `BABELWARD_CACHE`, `HF_ENDPOINT` and `HF_TOKEN`.
    pub(super) fn of_process() -> Result<Self, FetchError> {
        let named = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let (cache, datasets) = match named("BABELWARD_CACHE").map(PathBuf::from) {
            Some(folder) => (folder.clone(), folder.join("datasets")),
            None => {
                let folder = dirs::cache_dir()
                    .ok_or(FetchError::NoCacheFolder)?
                    .join("babelward");
                (folder.join("models"), folder.join("datasets"))
            }
        };
        Ok(Self {
            cache: std::path::absolute(&cache).unwrap_or(cache),
            datasets: std::path::absolute(&datasets).unwrap_or(datasets),
            python: OsString::from(PYTHON),
            hub: NamedHub::of_process(),
            hub_first: named("HF_ENDPOINT").is_some(),
        })
    }

    /// The address of a file on the hub.
    pub(super) fn hub_url(&self, artifact: &Artifact) -> String {
        format!(
            "{}/{}/resolve/main/{}",
            self.hub.address, artifact.hub_repository, artifact.file
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_hubs_are_of_the_web_and_name_nobody() {
        for (text, address) in [
            ("https://huggingface.co", "https://huggingface.co"),
            ("http://127.0.0.1:8080/mirror/", "http://127.0.0.1:8080/mirror"),
        ] {
            assert_eq!(text.parse::<HubAddress>().unwrap().to_string(), address);
        }
        for wrong in [
            "",
            "huggingface.co",
            "/models",
            "ftp://huggingface.co",
            "https://",
            "https://me:secret@huggingface.co",
            "https://huggingface.co/?a=b",
        ] {
            assert!(wrong.parse::<HubAddress>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_token_goes_to_its_hub_alone_and_where_nobody_can_read_it() {
        let said = |address: &str, url: &str| {
            let hub = NamedHub {
                address: address.to_owned(),
                token: Some(Secret::new("secret".to_owned())),
                retry_pause: Duration::ZERO,
            };
            match hub.authorisation(url) {
                Authorisation::Nobody => "nothing",
                Authorisation::Token(_) => "token",
                Authorisation::Withheld => "withheld",
            }
        };
        for (address, url, expected) in [
            ("https://hub.example", "https://hub.example/a", "token"),
            ("https://hub.example", "https://hub.example.evil/a", "nothing"),
            ("https://hub.example", "https://cdn.example/a", "nothing"),
            ("https://hub.example", "http://hub.example/a", "nothing"),
            ("http://hub.example", "http://hub.example/a", "withheld"),
            ("http://127.0.0.1:80", "http://127.0.0.1:80/a", "token"),
            ("http://[::1]:80", "http://[::1]:80/a", "token"),
            ("http://localhost", "http://localhost/a", "token"),
        ] {
            assert_eq!(said(address, url), expected, "{address} {url}");
        }
    }
}
