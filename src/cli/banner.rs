//! What a server says of itself once it serves.

use std::{fmt, net::SocketAddr};

use super::output::{human_bytes, table};
use crate::{
    guard::GuardKind,
    registry::{ModelEntry, ModelRole, Registry},
};

/// Shown beside a guard that is none.
pub(super) const MECHANISM_DEMO: &str =
    "mechanism demo: this model was not trained as a guard, its verdicts are no safety judgement";

/// What a server says of itself.
pub(super) struct Banner<'a> {
    /// Where it listens.
    pub(super) address: SocketAddr,
    /// Where its metrics are.
    pub(super) metrics: Option<SocketAddr>,
    /// What is resident.
    pub(super) registry: &'a Registry,
    /// Other machines can reach it.
    pub(super) exposed: bool,
}

impl Banner<'_> {
    /// The same as log events.
    pub(super) fn log(&self) {
        let metrics = self.metrics.map(|address| address.to_string());
        tracing::info!(address = %self.address, metrics, exposed = self.exposed, "serving");
        for entry in self.registry.list() {
            let resident = &entry.resident;
            tracing::info!(
                model = entry.id,
                roles = roles(entry),
                architecture = resident.architecture,
                dtype = resident.dtype,
                resident_bytes = resident.resident_bytes,
                digest = resident.digest,
                mechanism_demo = is_demo(entry),
                "resident"
            );
        }
    }

    fn defaults(&self) -> Vec<String> {
        let target = self
            .registry
            .target("")
            .map(|entry| format!("target {}", entry.id));
        let guard = self.registry.guard("").map(|entry| format!("guard {}", entry.id));
        [target, guard].into_iter().flatten().collect()
    }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "babelward {}", env!("CARGO_PKG_VERSION"))?;
        writeln!(
            f,
            "  gRPC      http://{} (health and reflection on)",
            self.address
        )?;
        match self.metrics {
            Some(address) => writeln!(f, "  metrics   http://{address}/metrics")?,
            None => writeln!(f, "  metrics   off")?,
        }
        let rows: Vec<_> = self.registry.list().iter().map(|entry| row(entry)).collect();
        for (place, line) in table(&rows).lines().enumerate() {
            let title = if place == 0 { "models" } else { "" };
            writeln!(f, "  {title:<8}  {line}")?;
        }
        writeln!(f, "  defaults  {}", self.defaults().join(", "))?;
        for entry in self.registry.list().iter().filter(|entry| is_demo(entry)) {
            writeln!(f, "  WARNING   guard {}: {MECHANISM_DEMO}", entry.id)?;
        }
        if self.exposed {
            writeln!(
                f,
                "  WARNING   other machines can reach this server, and there is no authentication"
            )?;
        }
        let server = match self.address.port() {
            50051 if self.address.ip().is_loopback() => String::new(),
            _ => format!(" --server http://{}", self.address),
        };
        if self.registry.guard("").is_ok() {
            writeln!(
                f,
                "  try       babelward classify{server} \"How do I bake bread?\""
            )?;
        } else {
            writeln!(
                f,
                "  try       babelward generate{server} \"How do I bake bread?\""
            )?;
        }
        Ok(())
    }
}

fn row(entry: &ModelEntry) -> Vec<String> {
    let resident = &entry.resident;
    vec![
        entry.id.clone(),
        roles(entry),
        format!("{} {}", resident.architecture, resident.dtype),
        format!("{:.1}M parameters", resident.parameters as f64 / 1e6),
        format!("{} tokens", resident.limits.context_length),
        human_bytes(resident.resident_bytes),
    ]
}

fn roles(entry: &ModelEntry) -> String {
    let names = entry.roles.iter().map(|role| match role {
        ModelRole::Target => "target",
        ModelRole::Guard => "guard",
    });
    names.collect::<Vec<_>>().join("+")
}

fn is_demo(entry: &ModelEntry) -> bool {
    entry
        .guard
        .as_ref()
        .is_some_and(|guard| guard.kind() == GuardKind::ChatDemo)
}
