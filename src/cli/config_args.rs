//! Flags that set configuration keys; the same for every command that reads the configuration.

use std::{collections::BTreeSet, path::PathBuf};

use super::Global;
use crate::{
    config::{
        FlagAdapter, FlagDevice, FlagGuardKind, FlagModel, FlagOverrides, FlagPrecision, Inputs, Loaded, load,
    },
    model::spec::{DeviceChoice, DeviceName},
};

/// Flags that set configuration keys.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Configuration (see docs/configuration.md)")]
pub(super) struct ConfigArgs {
    /// Configuration file, instead of BABELWARD_CONFIG, ./babelward.toml or the user's
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model to generate with, and for nothing else unless --guard names it too: a GGUF file or a Hugging Face folder;
    /// repeatable, the first is the default
    #[arg(long, value_name = "ID=PATH")]
    model: Vec<FlagModel>,
    /// LoRA adapter to serve as a model of its own: a PEFT folder or a GGUF adapter; repeatable
    #[arg(long, value_name = "ID=BASE:PATH")]
    adapter: Vec<FlagAdapter>,
    /// Model to judge with: a file or folder, which then does nothing else, or the id of a configured model, which then
    /// judges as well; repeatable, the first is the default
    #[arg(long, value_name = "[ID=]PATH|ID")]
    guard: Vec<String>,
    /// Which guard the models of --guard are, or the model ID is, where neither chat template nor name tells; chat-demo lets a
    /// chat model stand in for one; repeatable [models.ID.guard_kind]
    #[arg(long, value_name = "[ID=]KIND")]
    guard_kind: Vec<FlagGuardKind>,
    /// Address and port of the gRPC server, such as localhost:50051 [server.listen]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address and port for callers that speak HTTP/1.1 and JSON, or off [server.http_listen]
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Address and port of the Prometheus metrics, or off [server.metrics_listen]
    #[arg(long, value_name = "ADDRESS")]
    metrics_listen: Option<String>,
    /// Address and port of a gRPC listener for AdminService alone, or off [server.admin_listen]
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Certificate of the server (PEM), for TLS on all listeners [tls.certificate]
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// Private key of the certificate (PEM) [tls.key]
    #[arg(long, value_name = "FILE")]
    tls_key: Option<String>,
    /// Authorities of clients' certificates (PEM) [tls.client_ca]
    #[arg(long, value_name = "FILE")]
    tls_client_ca: Option<String>,
    /// API keys' hashes and clients' certificates; callers then need a credential [auth.keys_file]
    #[arg(long, value_name = "FILE")]
    keys_file: Option<String>,
    /// Time for open work after SIGTERM [server.drain_grace]
    #[arg(long, value_name = "TIME")]
    drain_grace: Option<String>,
    /// Listen beyond this machine without authentication [server.insecure_no_auth]
    #[arg(long)]
    insecure_no_auth: bool,
    /// Listen beyond this machine although the server itself does not encrypt keys and tokens [server.insecure_no_tls]
    #[arg(long)]
    insecure_no_tls: bool,
    /// Let callers load, unload and pin configured models [server.allow_admin]
    #[arg(long)]
    allow_admin: bool,
    /// Compute threads, or auto [engine.threads]
    #[arg(long, value_name = "N")]
    threads: Option<String>,
    /// Memory for all models together, or auto [memory.budget]
    #[arg(long, value_name = "SIZE")]
    memory_budget: Option<String>,
    /// Memory of each model's key-value cache, or auto [engine.kv_memory]
    #[arg(long, value_name = "SIZE")]
    kv_memory: Option<String>,
    /// How models compute, or the model ID does: auto, mixed, int8, bf16 or f32; repeatable [engine.precision]
    #[arg(long, value_name = "[ID=]PRECISION")]
    precision: Vec<FlagPrecision>,
    /// Where models are computed, or the model ID is: auto, cpu, cuda:N, candle:cpu, candle:metal or candle:cuda:N;
    /// repeatable [engine.device]
    #[arg(long, value_name = "[ID=]DEVICE")]
    device: Vec<FlagDevice>,
    /// Upper limit on the window in tokens, or model [engine.max_context]
    #[arg(long, value_name = "TOKENS")]
    max_context: Option<String>,
    /// Logs for people or machines: human or json [telemetry.log_format]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Log level or directives [telemetry.log_level]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
}

impl ConfigArgs {
    /// Merges these flags with the environment and the configuration file of this process.
    pub(super) fn load(&self, global: &Global) -> Loaded {
        load(&Inputs::of_process(self.config.clone(), self.overrides(global)))
    }

    /// Whether any of these flags is given.
    pub(super) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// The devices that `--device` names, each once.
    pub(super) fn named_devices(&self) -> BTreeSet<DeviceName> {
        let named = self.device.iter().filter_map(|flag| match flag.device {
            DeviceChoice::Auto => None,
            DeviceChoice::Only(device) => Some(device),
        });
        named.collect()
    }

    /// These flags without devices of all models where there are several: `doctor` tests each of them, and a configuration
    /// has only one.
    pub(super) fn without_several_devices(&self) -> Self {
        let of_all = |flag: &&FlagDevice| flag.id.is_none();
        let named: Vec<_> = self.device.iter().filter(of_all).collect();
        let mut flags = self.clone();
        if named.iter().any(|flag| *flag != named[0]) {
            flags.device.retain(|flag| flag.id.is_some());
        }
        flags
    }

    fn overrides(&self, global: &Global) -> FlagOverrides {
        let given = [
            ("--listen", "server.listen", &self.listen),
            ("--http-listen", "server.http_listen", &self.http_listen),
            ("--metrics-listen", "server.metrics_listen", &self.metrics_listen),
            ("--admin-listen", "server.admin_listen", &self.admin_listen),
            ("--tls-certificate", "tls.certificate", &self.tls_certificate),
            ("--tls-key", "tls.key", &self.tls_key),
            ("--tls-client-ca", "tls.client_ca", &self.tls_client_ca),
            ("--keys-file", "auth.keys_file", &self.keys_file),
            ("--drain-grace", "server.drain_grace", &self.drain_grace),
            ("--threads", "engine.threads", &self.threads),
            ("--memory-budget", "memory.budget", &self.memory_budget),
            ("--kv-memory", "engine.kv_memory", &self.kv_memory),
            ("--max-context", "engine.max_context", &self.max_context),
            ("--log-format", "telemetry.log_format", &self.log_format),
            ("--log-level", "telemetry.log_level", &self.log_level),
        ];
        let mut values: Vec<_> = given
            .into_iter()
            .filter_map(|(flag, key, value)| Some((flag, key, value.clone()?)))
            .collect();
        if self.insecure_no_auth {
            values.push(("--insecure-no-auth", "server.insecure_no_auth", true.to_string()));
        }
        if self.insecure_no_tls {
            values.push(("--insecure-no-tls", "server.insecure_no_tls", true.to_string()));
        }
        if self.allow_admin {
            values.push(("--allow-admin", "server.allow_admin", true.to_string()));
        }
        if let (None, Some(level)) = (&self.log_level, global.log_level()) {
            let flag = if global.quiet { "--quiet" } else { "--verbose" };
            values.push((flag, "telemetry.log_level", level.to_owned()));
        }
        FlagOverrides {
            values,
            models: self.model.clone(),
            adapters: self.adapter.clone(),
            guards: self.guard.clone(),
            guard_kinds: self.guard_kind.clone(),
            precisions: self.precision.clone(),
            devices: self.device.clone(),
        }
    }
}
