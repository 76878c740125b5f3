//! `doctor`: checks this machine, or a server; each line is ok, a warning or a failure with its fix.

mod check;
mod devices;
mod endpoints;
mod fit;
mod server;

use std::{net::TcpListener, path::Path, process::Command};

use serde_json::json;

use self::check::{Check, Outcome};
use super::{
    CommandError, Connection, Exit, Format, Global,
    config_args::ConfigArgs,
    devices::ThisMachine,
    output::{Color, painted, print_line, print_list},
    wire,
};
use crate::{
    backend::{Backend, cpu::CpuBackend},
    classifier::{EncoderKind, TextClassifier, labels_of},
    config::{Config, LoadPolicy, Model, Role},
    fetch::{self, CacheState},
    guard::{Guard, GuardError, GuardEvidence, GuardKind, model_names},
    model::{spec::Precision, verdict_heads_of},
    quality::PairEncoder,
    text::{ChatMessage, ChatRole, ChatTemplate, Tokenizer},
};

/// Check this machine, or with --server a running server; every problem comes with its fix.
///
/// With --device, the devices that are named also test themselves, which may take a minute. Where several are named for all
/// models, the configuration is checked as if none were.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Checks everything and prints it.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let checks = if global.connection.named().is_none() {
        machine(&args.config, global)
    } else if args.config.is_given() {
        let message = "with --server, doctor checks that server: leave the configuration's flags out";
        return Err(CommandError::usage(message).into());
    } else {
        global.block_on(async { Ok(server::checks(&global.connection).await) })?
    };
    match global.format {
        Format::Human => checks
            .iter()
            .try_for_each(|check| print_line(&line(check, global.no_color)))?,
        Format::Json | Format::Jsonl => {
            let values = checks.iter().map(|check| {
                let (status, fix) = parts(&check.outcome);
                json!({"check": check.name, "status": status, "found": check.found, "fix": fix})
            });
            print_list(global.format, values.collect())?;
        }
    }
    let failed = checks
        .iter()
        .any(|check| matches!(check.outcome, Outcome::Fail(_)));
    Ok(if failed { Exit::Failure } else { Exit::Done })
}

fn machine(config: &ConfigArgs, global: &Global) -> Vec<Check> {
    let loaded = config.without_several_devices().load(global);
    let named = config.named_devices();
    let machine = ThisMachine {
        threads: loaded
            .config
            .as_ref()
            .map_or_else(|_| wire::available_threads(), wire::threads),
    };
    let mut checks = vec![processor(), python()];
    checks.extend(devices::found(&machine));
    checks.extend(devices::self_tests(&named, &machine));
    match &loaded.config {
        Ok(config) => {
            let file = loaded
                .file
                .as_ref()
                .map_or("no file".to_owned(), |path| path.display().to_string());
            checks.push(Check::new("configuration", file, Outcome::Ok));
            match wire::registry_options(config) {
                Ok(options) => checks.extend(fit::checks(&options.registry)),
                // A device that is named on the command line has its line already.
                Err(error) if named.contains(&error.device) => {}
                Err(error) => checks.push(devices::refused(&error)),
            }
            checks.extend(ports(config));
            checks.push(cached_model(config));
            checks.extend(
                config
                    .models
                    .iter()
                    .filter(|model| model.endpoint.is_none())
                    .map(|model| self_test(model, base_of(model, config))),
            );
            checks.extend(endpoints::checks(config));
        }
        Err(error) => {
            let fix = "see `babelward config check`".to_owned();
            checks.push(Check::new("configuration", error.to_string(), Outcome::Fail(fix)));
        }
    }
    checks
}

fn parts(outcome: &Outcome) -> (&'static str, Option<&str>) {
    match outcome {
        Outcome::Ok => ("ok", None),
        Outcome::Warn(fix) => ("warn", Some(fix)),
        Outcome::Fail(fix) => ("fail", Some(fix)),
    }
}

fn line(check: &Check, no_color: bool) -> String {
    let (status, fix) = parts(&check.outcome);
    let color = match check.outcome {
        Outcome::Ok => Color::Green,
        Outcome::Warn(_) => Color::Yellow,
        Outcome::Fail(_) => Color::Red,
    };
    let status = painted(&format!("{status:<4}"), color, no_color);
    let fix = fix.map(|fix| format!("\n      fix: {fix}")).unwrap_or_default();
    format!("{status}  {}: {}{fix}", check.name, check.found)
}

fn processor() -> Check {
    let threads = wire::available_threads();
    let features = features();
    let cpu = CpuBackend::new(threads);
    let found = format!(
        "{threads} threads, {}, {}; products are computed with {}, and precision auto is {}",
        std::env::consts::ARCH,
        features.join(" "),
        cpu.device().architecture,
        match cpu.device().best_precision {
            Precision::Mixed => "mixed: prompts in bf16, generated tokens in int8",
            other => other.name(),
        }
    );
    let outcome = if cfg!(target_arch = "x86_64") && !features.contains(&"avx2") {
        Outcome::Warn("a processor with AVX2 is several times faster".to_owned())
    } else {
        Outcome::Ok
    };
    Check::new("processor", found, outcome)
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    let known = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("f16c", is_x86_feature_detected!("f16c")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    known
        .into_iter()
        .filter(|(_, has)| *has)
        .map(|(name, _)| name)
        .collect()
}

#[cfg(not(target_arch = "x86_64"))]
fn features() -> Vec<&'static str> {
    Vec::new()
}

fn python() -> Check {
    let fix =
        "install Python 3 with pip, or fetch the model by hand; only `demo` and `models fetch` need them";
    let output = Command::new(fetch::PYTHON)
        .args(["-m", "pip", "--version"])
        .output();
    let (found, outcome) = match output {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            let words: Vec<_> = version.split_whitespace().take(2).collect();
            (words.join(" "), Outcome::Ok)
        }
        Ok(_) => ("python3 has no pip".to_owned(), Outcome::Warn(fix.to_owned())),
        Err(error) => (format!("python3: {error}"), Outcome::Warn(fix.to_owned())),
    };
    Check::new("python3 and pip", found, outcome)
}

fn ports(config: &Config) -> Vec<Check> {
    let server = &config.server;
    let listeners = [
        ("port", Some(server.listen), "--listen"),
        ("metrics port", server.metrics_listen, "--metrics-listen"),
    ];
    let checked = listeners.into_iter().filter_map(|(name, address, flag)| {
        let address = address?;
        Some(match TcpListener::bind(address) {
            Ok(_) => Check::new(name, format!("{address} is free"), Outcome::Ok),
            Err(error) => {
                let fix = format!("stop what listens there (a server that runs?), or choose another {flag}");
                Check::new(name, format!("{address}: {error}"), Outcome::Warn(fix))
            }
        })
    });
    checked.collect()
}

fn cached_model(config: &Config) -> Check {
    let name = "demo model";
    let fetch = "run `babelward models fetch`".to_owned();
    match fetch::smollm2_cached() {
        Err(error) => Check::new(
            name,
            error.to_string(),
            Outcome::Warn("set BABELWARD_CACHE".to_owned()),
        ),
        Ok((path, CacheState::Valid)) => {
            let tested = Model {
                id: name.to_owned(),
                path,
                endpoint: None,
                roles: vec![Role::Target, Role::Guard],
                guard_kind: None,
                precision: None,
                device: None,
                load: LoadPolicy::Eager,
                pinned: false,
                base: None,
            };
            let check = self_test(&tested, &tested);
            Check {
                name: name.to_owned(),
                found: format!("{}, digest as pinned, {}", tested.path.display(), check.found),
                outcome: check.outcome,
            }
        }
        Ok((path, CacheState::Damaged)) => {
            let found = format!("{} is damaged", path.display());
            Check::new(name, found, Outcome::Warn(fetch))
        }
        Ok((path, CacheState::Missing)) => {
            let outcome = if config.models.is_empty() {
                Outcome::Warn(fetch)
            } else {
                Outcome::Ok
            };
            Check::new(name, format!("not fetched yet ({})", path.display()), outcome)
        }
    }
}

/// The model that has the tokenizer and the template of this one: an adapter's base.
fn base_of<'a>(model: &'a Model, config: &'a Config) -> &'a Model {
    let named = |base: &String| config.models.iter().find(|other| other.id == *base);
    model.base.as_ref().and_then(named).unwrap_or(model)
}

/// Reads the tokenizer and the template of the model's base, and renders one message with them.
fn self_test(model: &Model, base: &Model) -> Check {
    let name = format!("model {}", model.id);
    match try_templates(model, &base.path) {
        Ok(found) => Check::new(&name, found, Outcome::Ok),
        Err(error) => {
            let fix = "take another file of this model, or another model".to_owned();
            Check::new(
                &name,
                format!("{}: {error:#}", base.path.display()),
                Outcome::Fail(fix),
            )
        }
    }
}

fn try_templates(model: &Model, path: &Path) -> anyhow::Result<String> {
    let tokenizer = std::sync::Arc::new(Tokenizer::open(path)?);
    let encoder = EncoderKind::detect(path);
    if encoder == Some(EncoderKind::Classifier) {
        let labels = labels_of(path)?;
        // Without the weights the model's vocabulary is not known.
        let classifier = TextClassifier::new(tokenizer, labels, usize::MAX, usize::MAX)?;
        let labels = classifier.labels();
        return Ok(format!(
            "a classifier of texts with the labels {}",
            labels.join(", ")
        ));
    }
    if let Some(EncoderKind::Estimator(kind)) = encoder {
        // Without the weights the model's vocabulary is not known.
        let encoder = PairEncoder::new(kind, tokenizer, usize::MAX)?;
        let tokens = encoder.encode("Hello", "Hallo")?;
        return Ok(format!(
            "{} makes {} tokens of a greeting and its translation",
            kind.name(),
            tokens.len()
        ));
    }
    let template = ChatTemplate::open(path)?.map(std::sync::Arc::new);
    let mut found = match &template {
        None => "no chat template (raw text only)".to_owned(),
        Some(template) => {
            let hello = [ChatMessage {
                role: ChatRole::User,
                content: "Hello".to_owned(),
            }];
            let tokens = tokenizer.encode(&template.render(&hello, true)?)?;
            format!("the chat template makes {} tokens of a greeting", tokens.len())
        }
    };
    if model.roles.contains(&Role::Guard) {
        // Without the weights the number of layers is not known; it only tells two guards of one family apart.
        let evidence = GuardEvidence {
            template: template.as_ref().map(|template| template.source()),
            names: &model_names(path),
            layers: 0,
        };
        let guard = match verdict_heads_of(path)? {
            Some(heads) => Guard::with_heads(model.guard_kind, tokenizer, &heads)?,
            None => {
                let kind = model.guard_kind.or_else(|| GuardKind::detect(&evidence));
                Guard::new(kind.ok_or(GuardError::Unknown)?, tokenizer, template)?
            }
        };
        let hello = ChatMessage {
            role: ChatRole::User,
            content: "Hello".to_owned(),
        };
        let prompt = guard.prompt(&[hello], None)?;
        found.push_str(&format!(", the guard's prompt has {} tokens", prompt.len()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_fix_below_it() {
        let check = Check::new("port", "taken", Outcome::Warn("choose another".to_owned()));
        assert_eq!(line(&check, true), "warn  port: taken\n      fix: choose another");
        assert_eq!(
            line(&Check::new("port", "free", Outcome::Ok), true),
            "ok    port: free"
        );
    }
}
