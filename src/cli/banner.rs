//! What `serve` prints or logs once it serves.

use std::{fmt, net::SocketAddr};

use super::{device_error::CardSearch, output::table};
use crate::{
    guard::GuardKind,
    memory::human_bytes,
    model::spec::DeviceName,
    registry::{Declared, ModelEntry, ModelRole, Registry, passed_over_text},
};

/// Warning for a guard that was not trained as one.
pub(super) const MECHANISM_DEMO: &str =
    "mechanism demo: this model was not trained as a guard, its verdicts are no safety judgement";

/// Address, models, memory and warnings of a server.
pub(super) struct Banner<'a> {
    /// Where the gRPC server listens.
    pub(super) address: SocketAddr,
    /// Where the HTTP port listens, if it does.
    pub(super) http: Option<SocketAddr>,
    /// Where AdminService alone is served, if it is.
    pub(super) admin: Option<SocketAddr>,
    /// Where the metrics are served, if they are.
    pub(super) metrics: Option<SocketAddr>,
    /// Whether all of them speak TLS.
    pub(super) is_tls: bool,
    /// Whether callers need a credential.
    pub(super) has_auth: bool,
    /// The models.
    pub(super) registry: &'a Registry,
    /// What the search for cards found, where a model's device is automatic.
    pub(super) search: Option<&'a CardSearch>,
    /// Whether other machines can reach one of its listeners.
    pub(super) exposed: bool,
    /// The collector that gets traces, if there is one.
    pub(super) traces: Option<&'a str>,
}

impl Banner<'_> {
    /// Writes the same as log events.
    pub(super) fn log(&self) {
        let metrics = self.metrics.map(|address| address.to_string());
        let admin = self.admin.map(|address| address.to_string());
        let http = self.http.map(|address| address.to_string());
        tracing::info!(
            address = %self.address,
            http,
            admin,
            metrics,
            tls = self.is_tls,
            authentication = self.has_auth,
            exposed = self.exposed,
            traces = self.traces,
            "serving"
        );
        for (device, memory) in self.registry.devices() {
            let (budget, free) = (memory.budget, memory.available);
            tracing::info!(
                device = %device.name,
                budget_bytes = budget,
                free_bytes = free,
                "memory"
            );
        }
        if let Some(CardSearch::None(looked_for)) = self.search {
            tracing::info!(looked_for, "no NVIDIA card was found");
        }
        for (model, device, reason) in self.passed_over() {
            tracing::warn!(model, %device, reason, "not on the device that auto prefers");
        }
        for policy in self.registry.policies() {
            tracing::info!(policy = policy.name(), digest = policy.digest(), "policy");
        }
        for declared in self.registry.list() {
            if let Some(remote) = &declared.remote {
                let options = remote.endpoint.options();
                let (endpoint, name) = (options.url.to_string(), options.model.as_str());
                tracing::info!(
                    model = declared.id,
                    roles = roles(declared),
                    endpoint,
                    name,
                    "remote"
                );
                continue;
            }
            let Some(entry) = self.registry.resident(declared) else {
                let load = declared.policy.name();
                tracing::info!(model = declared.id, roles = roles(declared), load, "not loaded");
                continue;
            };
            let resident = &entry.resident;
            tracing::info!(
                model = entry.id,
                roles = roles(declared),
                architecture = resident.architecture,
                dtype = resident.dtype,
                precision = resident.precision.name(),
                device = %resident.device.name,
                instruction_set = resident.device.architecture,
                resident_bytes = resident.resident_bytes(),
                digest = resident.digest,
                adapter_of = entry.adapter.as_ref().map(|adapter| adapter.base.as_str()),
                adapter_digest = entry.adapter.as_ref().map(|adapter| adapter.digest.as_str()),
                mechanism_demo = is_demo(&entry),
                "resident"
            );
        }
    }

    fn defaults(&self) -> Vec<String> {
        let roles = [
            ("target", ModelRole::Target),
            ("guard", ModelRole::Guard),
            ("quality", ModelRole::Quality),
        ];
        let defaults = roles.into_iter().filter_map(|(name, role)| {
            let declared = self.registry.default_of(role)?;
            Some(format!("{name} {}", declared.id))
        });
        defaults.collect()
    }

    /// Each model that is not on the device that an automatic choice prefers: its id, its device, and why.
    fn passed_over(&self) -> Vec<(&str, DeviceName, String)> {
        let models = self.registry.list().iter();
        let passed = models.filter_map(|declared| {
            let reasons = self.registry.passed_over(declared);
            let device = self.registry.device_of(declared)?.name;
            (!reasons.is_empty()).then(|| (declared.id.as_str(), device, passed_over_text(reasons)))
        });
        passed.collect()
    }

    fn row(&self, declared: &Declared) -> Vec<String> {
        let mut row = vec![declared.id.clone(), roles(declared)];
        if let Some(remote) = &declared.remote {
            let options = remote.endpoint.options();
            row.push(format!("remote: {} at {}", options.model, options.url));
            return row;
        }
        match self.registry.resident(declared) {
            Some(entry) => {
                let resident = &entry.resident;
                let (description, parameters, bytes) = match &entry.adapter {
                    None => (
                        format!("{} {}", resident.architecture, resident.dtype),
                        resident.parameters,
                        human_bytes(resident.resident_bytes()),
                    ),
                    Some(adapter) => (
                        format!("adapter of {}, rank {}", adapter.base, adapter.rank),
                        adapter.parameters,
                        format!("+{}", human_bytes(adapter.resident_bytes)),
                    ),
                };
                row.extend([
                    description,
                    format!("{:.1}M parameters", parameters as f64 / 1e6),
                    format!(
                        "{} on {} ({})",
                        resident.precision.name(),
                        resident.device.name,
                        resident.device.architecture
                    ),
                    format!("{} tokens", resident.limits.context_length),
                    bytes,
                ]);
            }
            None => row.push(format!("not loaded ({})", declared.policy.name())),
        }
        row
    }
}

impl fmt::Display for Banner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "babelward {}", env!("CARGO_PKG_VERSION"))?;
        let scheme = if self.is_tls { "https" } else { "http" };
        writeln!(
            f,
            "  gRPC      {scheme}://{} (health and reflection on)",
            self.address
        )?;
        if let Some(address) = self.http {
            writeln!(f, "  HTTP      {scheme}://{address} (JSON)")?;
        }
        if let Some(address) = self.admin {
            writeln!(f, "  admin     {scheme}://{address}")?;
        }
        if self.has_auth {
            writeln!(f, "  callers   need a key, token or certificate")?;
        }
        match self.metrics {
            Some(address) => writeln!(f, "  metrics   {scheme}://{address}/metrics")?,
            None => writeln!(f, "  metrics   off")?,
        }
        if let Some(collector) = self.traces {
            writeln!(f, "  traces    go to {collector}")?;
        }
        let policies: Vec<_> = self.registry.policies().map(|policy| policy.name()).collect();
        if !policies.is_empty() {
            writeln!(f, "  policies  {}", policies.join(", "))?;
        }
        let rows: Vec<_> = self
            .registry
            .list()
            .iter()
            .map(|declared| self.row(declared))
            .collect();
        for (index, line) in table(&rows).lines().enumerate() {
            let title = if index == 0 { "models" } else { "" };
            writeln!(f, "  {title:<8}  {line}")?;
        }
        writeln!(f, "  defaults  {}", self.defaults().join(", "))?;
        if let Some(CardSearch::None(looked_for)) = self.search {
            writeln!(f, "  devices   no NVIDIA card was found: {looked_for}")?;
        }
        for (device, memory) in self.registry.devices() {
            if memory.budget < u64::MAX {
                let (budget, free) = (human_bytes(memory.budget), human_bytes(memory.available));
                writeln!(
                    f,
                    "  memory    {}: {budget} for models, {free} of it free",
                    device.name
                )?;
            }
        }
        for (model, device, reason) in self.passed_over() {
            writeln!(f, "  WARNING   {model} is on {device}: {reason}")?;
        }
        let resident = self.registry.list().iter();
        let resident = resident.filter_map(|declared| self.registry.resident(declared));
        for entry in resident.filter(|entry| is_demo(entry)) {
            writeln!(f, "  WARNING   guard {}: {MECHANISM_DEMO}", entry.id)?;
        }
        let missing = match (self.has_auth, self.is_tls) {
            (false, _) => Some("there is no authentication"),
            (true, false) => Some("it does not encrypt keys and tokens itself"),
            (true, true) => None,
        };
        if let Some(missing) = missing.filter(|_| self.exposed) {
            writeln!(
                f,
                "  WARNING   other machines can reach this server, and {missing}"
            )?;
        }
        let server = match self.address.port() {
            50051 if self.address.ip().is_loopback() && !self.is_tls => String::new(),
            _ => format!(" --server {scheme}://{}", self.address),
        };
        let has = |role| self.registry.default_of(role).is_some();
        let command = match (has(ModelRole::Guard), has(ModelRole::Target)) {
            (true, _) => format!("classify{server} \"How do I bake bread?\""),
            (false, true) => format!("generate{server} \"How do I bake bread?\""),
            (false, false) => {
                let mut models = self.registry.list().iter();
                match models.find(|model| model.has(ModelRole::Classifier)) {
                    Some(model) => format!(
                        "classify{server} --classifier {} \"How do I bake bread?\"",
                        model.id
                    ),
                    None => format!("models{server} ls"),
                }
            }
        };
        writeln!(f, "  try       babelward {command}")?;
        Ok(())
    }
}

fn roles(declared: &Declared) -> String {
    let names = declared.roles.iter().map(|role| match role {
        ModelRole::Target => "target",
        ModelRole::Guard => "guard",
        ModelRole::Quality => "quality",
        ModelRole::Classifier => "classifier",
    });
    names.collect::<Vec<_>>().join("+")
}

fn is_demo(entry: &ModelEntry) -> bool {
    entry
        .guard
        .as_ref()
        .is_some_and(|guard| guard.kind() == GuardKind::ChatDemo)
}
