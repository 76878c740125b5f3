//! Parses the values of the configuration: addresses, durations, sizes, names and lists.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    num::NonZeroUsize,
    path::PathBuf,
    time::Duration,
};

use crate::{engine::Tenant, guard::GuardKind, model::spec::PrecisionChoice};

/// What a model may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Answers prompts.
    Target,
    /// Judges conversations.
    Guard,
    /// Judges translations.
    Quality,
    /// Labels texts.
    Classifier,
}

impl Role {
    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Target => "target",
            Self::Guard => "guard",
            Self::Quality => "quality",
            Self::Classifier => "classifier",
        }
    }
}

/// When a model is loaded. The earlier it is loaded, the greater the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LoadPolicy {
    /// When an operator requests it.
    Manual,
    /// With the first request for it. While it is idle, it can be evicted when another model needs the memory.
    Lazy,
    /// When the server starts.
    Eager,
}

impl LoadPolicy {
    const ALL: [Self; 3] = [Self::Manual, Self::Lazy, Self::Eager];

    /// The name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Lazy => "lazy",
            Self::Eager => "eager",
        }
    }
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people to read.
    Human,
    /// One JSON object per line.
    Json,
}

/// A value whose type has not been checked yet.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Raw {
    /// Text, a number or a boolean, as text.
    Text(String),
    /// A list of those.
    List(Vec<String>),
    /// A value that no key accepts.
    Other(&'static str),
}

impl Raw {
    /// The value in messages.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::List(items) => items.join(","),
            Self::Other(what) => format!("({what})"),
        }
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::List(_) | Self::Other(_) => None,
        }
    }
}

/// A type that a key's value may have.
pub(super) trait Setting: Sized {
    /// What a valid value is, for error messages: "an address such as 127.0.0.1:50051".
    const EXPECTS: &'static str;

    /// Parses the value. Returns `None` when it is not of this type.
    fn parse(raw: &Raw) -> Option<Self>;

    /// Replaces a value that was reported as wrong, so that the other keys are read too.
    fn placeholder() -> Self;
}

impl Setting for SocketAddr {
    const EXPECTS: &'static str = "write an address and a port, such as 127.0.0.1:50051, or a host name that this machine can resolve, such as localhost:50051";

    fn parse(raw: &Raw) -> Option<Self> {
        resolve(raw.text()?)
    }

    fn placeholder() -> Self {
        Self::from(([127, 0, 0, 1], 0))
    }
}

impl Setting for Option<SocketAddr> {
    const EXPECTS: &'static str = "write an address and a port, such as 127.0.0.1:9464, a host name that this machine can resolve, such as localhost:9464, or off";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "off" => Some(None),
            text => resolve(text).map(Some),
        }
    }

    fn placeholder() -> Self {
        None
    }
}

/// The address of a text that ends with a port. Host names are resolved.
fn resolve(text: &str) -> Option<SocketAddr> {
    most_exposed(text.to_socket_addrs().ok()?)
}

/// Chooses one of the addresses of a name. An address that other machines can reach comes first, because the check of
/// the address must not take the name for one of this machine only. Then comes IPv4, which every client tries.
fn most_exposed(addresses: impl Iterator<Item = SocketAddr>) -> Option<SocketAddr> {
    addresses.min_by_key(|address| (address.ip().is_loopback(), address.is_ipv6()))
}

impl Setting for bool {
    const EXPECTS: &'static str = "write true or false";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn placeholder() -> Self {
        false
    }
}

impl Setting for String {
    const EXPECTS: &'static str = "write text";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text().map(str::to_owned)
    }

    fn placeholder() -> Self {
        Self::new()
    }
}

impl Setting for PathBuf {
    const EXPECTS: &'static str = "write a path";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text().map(Self::from)
    }

    fn placeholder() -> Self {
        Self::new()
    }
}

impl Setting for Duration {
    const EXPECTS: &'static str = "write a number and a unit (ms, s, m, h), such as 30s";

    fn parse(raw: &Raw) -> Option<Self> {
        parse_duration(raw.text()?)
    }

    fn placeholder() -> Self {
        Self::ZERO
    }
}

/// A whole number that is not negative.
impl Setting for u64 {
    const EXPECTS: &'static str = "write a whole number";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn placeholder() -> Self {
        0
    }
}

/// A share of something.
pub(super) struct Ratio(pub f64);

impl Setting for Ratio {
    const EXPECTS: &'static str = "write a number from 0 to 1, such as 0.01";

    fn parse(raw: &Raw) -> Option<Self> {
        let ratio: f64 = raw.text()?.parse().ok()?;
        (0.0..=1.0).contains(&ratio).then_some(Self(ratio))
    }

    fn placeholder() -> Self {
        Self(0.0)
    }
}

/// A number of bytes.
pub(super) struct Bytes(pub u64);

impl Setting for Bytes {
    const EXPECTS: &'static str = "write a number of bytes with a unit (KiB, MiB, GiB), such as 512MiB";

    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let shift = match unit.trim() {
            "" | "B" => 0,
            "KiB" => 10,
            "MiB" => 20,
            "GiB" => 30,
            _ => return None,
        };
        let number: u64 = number.parse().ok()?;
        number.checked_mul(1 << shift).map(Self)
    }

    fn placeholder() -> Self {
        Self(0)
    }
}

/// A number of threads, or `auto`.
pub(super) struct Threads(pub Option<NonZeroUsize>);

impl Setting for Threads {
    const EXPECTS: &'static str = "write a whole number from 1 to 1024, or auto";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "auto" => Some(Self(None)),
            text => {
                let threads: NonZeroUsize = text.parse().ok()?;
                (threads.get() <= 1024).then_some(Self(Some(threads)))
            }
        }
    }

    fn placeholder() -> Self {
        Self(None)
    }
}

/// A size, or `auto`.
pub(super) struct AutoBytes(pub Option<u64>);

impl Setting for AutoBytes {
    const EXPECTS: &'static str = "write a size such as 4GiB, or auto";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "auto" => Some(Self(None)),
            _ => Bytes::parse(raw).map(|Bytes(bytes)| Self(Some(bytes))),
        }
    }

    fn placeholder() -> Self {
        Self(None)
    }
}

impl Setting for LoadPolicy {
    const EXPECTS: &'static str = "write eager, lazy or manual";

    fn parse(raw: &Raw) -> Option<Self> {
        let text = raw.text()?;
        Self::ALL.into_iter().find(|policy| policy.name() == text)
    }

    fn placeholder() -> Self {
        Self::Eager
    }
}

impl Setting for PrecisionChoice {
    const EXPECTS: &'static str = "write auto, mixed, int8, bf16 or f32";

    fn parse(raw: &Raw) -> Option<Self> {
        raw.text()?.parse().ok()
    }

    fn placeholder() -> Self {
        Self::Auto
    }
}

/// A context length in tokens, or `model`.
pub(super) struct Window(pub Option<NonZeroUsize>);

impl Setting for Window {
    const EXPECTS: &'static str = "write a whole number of tokens from 16 on, or model";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "model" => Some(Self(None)),
            text => {
                let tokens: NonZeroUsize = text.parse().ok()?;
                (tokens.get() >= 16).then_some(Self(Some(tokens)))
            }
        }
    }

    fn placeholder() -> Self {
        Self(None)
    }
}

impl Setting for LogFormat {
    const EXPECTS: &'static str = "write human or json";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "human" => Some(Self::Human),
            "json" => Some(Self::Json),
            _ => None,
        }
    }

    fn placeholder() -> Self {
        Self::Human
    }
}

impl Setting for Vec<Role> {
    const EXPECTS: &'static str =
        "write [\"target\"], [\"guard\"], [\"target\", \"guard\"], [\"quality\"], [\"classifier\"] or auto";

    fn parse(raw: &Raw) -> Option<Self> {
        let mut roles = Vec::new();
        for word in words(raw)? {
            let role = match word {
                "target" => Role::Target,
                "guard" => Role::Guard,
                "quality" => Role::Quality,
                "classifier" => Role::Classifier,
                _ => return None,
            };
            if !roles.contains(&role) {
                roles.push(role);
            }
        }
        // Quality estimators and classifiers cannot have another role.
        let alone = [Role::Quality, Role::Classifier];
        let sound = roles.len() == 1 || !roles.iter().any(|role| alone.contains(role));
        (sound && !roles.is_empty()).then_some(roles)
    }

    fn placeholder() -> Self {
        vec![Role::Target, Role::Guard]
    }
}

/// A list of names.
impl Setting for Vec<String> {
    const EXPECTS: &'static str = "write a list of names, such as [\"chat\", \"chat@2\"]";

    fn parse(raw: &Raw) -> Option<Self> {
        Some(words(raw)?.into_iter().map(str::to_owned).collect())
    }

    fn placeholder() -> Self {
        Self::new()
    }
}

/// A list of paths.
impl Setting for Vec<PathBuf> {
    const EXPECTS: &'static str = "write a list of paths, such as [\"policies/shop.toml\"]";

    fn parse(raw: &Raw) -> Option<Self> {
        Some(words(raw)?.into_iter().map(PathBuf::from).collect())
    }

    fn placeholder() -> Self {
        Self::new()
    }
}

/// A duration above zero, or `off`.
impl Setting for Option<Duration> {
    const EXPECTS: &'static str = "write a number and a unit (ms, s, m, h), such as 100ms, or off";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "off" => Some(None),
            text => parse_duration(text).filter(|time| !time.is_zero()).map(Some),
        }
    }

    fn placeholder() -> Self {
        None
    }
}

/// A list of tenants with their weights.
impl Setting for Vec<(Tenant, u32)> {
    const EXPECTS: &'static str =
        "write a list such as [\"team-a=4\", \"team-b=2\"]: a name of letters, digits, . _ -, and 1 to 1000";

    fn parse(raw: &Raw) -> Option<Self> {
        let weight = |word: &str| {
            let (name, weight) = word.split_once('=')?;
            let weight = weight.parse().ok().filter(|weight| (1..=1000).contains(weight))?;
            Some((Tenant::named(name)?, weight))
        };
        words(raw)?.into_iter().map(weight).collect()
    }

    fn placeholder() -> Self {
        Self::new()
    }
}

/// A guard's prompt, or `auto`.
impl Setting for Option<GuardKind> {
    const EXPECTS: &'static str = "write auto, llama-guard-3-8b, llama-guard-3-1b, llama-guard-2-8b, qwen3guard-gen, qwen3guard-stream, wildguard, polyguard, granite-guardian-3, shieldgemma or chat-demo";

    fn parse(raw: &Raw) -> Option<Self> {
        match raw.text()? {
            "auto" => Some(None),
            name => name.parse().ok().map(Some),
        }
    }

    fn placeholder() -> Self {
        None
    }
}

/// `30s`, `250ms`, `2m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// The items of a list, or of a comma-separated text (environment variables have no lists).
pub(super) fn words(raw: &Raw) -> Option<Vec<&str>> {
    match raw {
        Raw::Text(text) => Some(text.split(',').map(str::trim).collect()),
        Raw::List(items) => Some(items.iter().map(String::as_str).collect()),
        Raw::Other(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_guard_is_listed() {
        let listed = <Option<GuardKind> as Setting>::EXPECTS;
        for kind in GuardKind::ALL {
            assert!(listed.contains(kind.name()), "{kind}");
            let raw = Raw::Text(kind.name().to_owned());
            assert_eq!(<Option<GuardKind> as Setting>::parse(&raw), Some(Some(kind)));
        }
    }

    #[test]
    fn a_name_is_as_exposed_as_any_of_its_addresses() {
        let chosen = |addresses: &[&str]| {
            let addresses = addresses.iter().map(|text| text.parse().unwrap());
            most_exposed(addresses).map(|address| address.to_string())
        };
        let shown = |text: &str| Some(text.to_owned());
        assert_eq!(chosen(&["[::1]:1", "127.0.0.1:1"]), shown("127.0.0.1:1"));
        assert_eq!(chosen(&["[::1]:1"]), shown("[::1]:1"));
        assert_eq!(chosen(&["127.0.0.1:1", "10.0.0.7:1"]), shown("10.0.0.7:1"));
        assert_eq!(
            chosen(&["127.0.0.1:1", "[2001:db8::1]:1"]),
            shown("[2001:db8::1]:1")
        );
        assert_eq!(chosen(&[]), None);
    }
}
