//! Figures as lines of text: a table of all servers, and below it what there is to say of each.

use std::{collections::BTreeMap, fmt::Write as _};

use super::figures::{self, Health, MethodFigures, ModelFigures, Quantiles, ServerFigures, VerdictFigures};
use crate::{
    cli::output::{Color, table},
    memory::human_bytes,
};

/// Stands for a figure that is not known (yet).
const UNKNOWN: &str = "-";

/// Characters of a bar.
const BAR: usize = 10;

/// From which use on a KV cache is worth a look.
const FULL: f64 = 0.9;

/// Whether lines have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paint {
    Plain,
    Colors,
}

impl Paint {
    fn apply(self, text: &str, color: Color) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Colors => color.paint(text),
        }
    }
}

/// All lines of a frame.
pub(super) fn lines(servers: &[ServerFigures], paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    if servers.len() > 1 {
        lines.extend(overview(servers, paint));
    }
    for server in servers {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(details(server, paint));
    }
    lines
}

/// Cuts a frame to the size of a terminal; the last line says how much is missing.
pub(super) fn fitted(mut lines: Vec<String>, rows: usize, columns: usize) -> Vec<String> {
    if lines.len() > rows {
        let hidden = lines.len() - rows.saturating_sub(1);
        lines.truncate(rows.saturating_sub(1));
        lines.push(format!("... and {hidden} lines more"));
    }
    lines.iter().map(|line| cut(line, columns)).collect()
}

/// The part of a line that is shown in so many columns. Colours take none.
fn cut(line: &str, columns: usize) -> String {
    let (mut kept, mut shown, mut in_color) = (String::new(), 0, false);
    for character in line.chars() {
        if in_color {
            in_color = character != 'm';
        } else if character == '\x1b' {
            in_color = true;
        } else if shown == columns {
            continue;
        } else {
            shown += 1;
        }
        kept.push(character);
    }
    kept
}

/// A row for each server.
fn overview(servers: &[ServerFigures], paint: Paint) -> Vec<String> {
    let titles = [
        "SERVER",
        "HEALTH",
        "READY",
        "QUEUED",
        "RUNNING",
        "KV",
        "PREFILL/S",
        "DECODE/S",
        "CALLS/S",
        "REFUSED/S",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for server in servers {
        let is_known = server.health != Health::Unreachable;
        let models = &server.models;
        let ready = models.iter().filter(|model| model.state == "ready").count();
        let of_models = |figure: String| if is_known { figure } else { UNKNOWN.to_owned() };
        let sum = |of: fn(&ModelFigures) -> Option<f64>| models.iter().filter_map(of).reduce(|a, b| a + b);
        let rate = |all: f64| server.seconds.map(|_| all);
        let calls = server
            .methods
            .iter()
            .flat_map(|method| method.calls_per_second.values());
        rows.push(vec![
            server.server.clone(),
            health(server.health).to_owned(),
            of_models(format!("{ready}/{}", models.len())),
            of_models(models.iter().map(|model| model.queued).sum::<u32>().to_string()),
            of_models(models.iter().map(|model| model.running).sum::<u32>().to_string()),
            percent(models.iter().filter_map(|model| model.kv_usage).reduce(f64::max)),
            number(sum(|model| model.prefill_tokens_per_second)),
            number(sum(|model| model.decode_tokens_per_second)),
            number(rate(figures::sum(calls.copied()))),
            number(rate(figures::sum(server.refusals.values().copied()))),
        ]);
    }
    let text = table(&rows);
    let lines = text
        .lines()
        .zip(std::iter::once(None).chain(servers.iter().map(Some)));
    lines
        .map(|(line, server)| match server {
            Some(server) => paint_health(line, server.health, paint),
            None => line.to_owned(),
        })
        .collect()
}

/// Everything about one server.
fn details(server: &ServerFigures, paint: Paint) -> Vec<String> {
    let mut title = format!("{}  {}", server.server, health(server.health));
    if let Some(version) = &server.version {
        let _ = write!(title, "  {version}");
    }
    if let Some(connections) = server.connections {
        let _ = write!(title, "  connections {connections}");
    }
    for memory in &server.memory {
        let (taken, budget) = (
            human_bytes(memory.taken as u64),
            human_bytes(memory.budget as u64),
        );
        let _ = write!(title, "  {} {taken} of {budget}", memory.device);
    }
    let mut lines = vec![paint_health(&title, server.health, paint)];
    lines.extend(
        server
            .problems
            .iter()
            .map(|problem| paint.apply(&format!("  {problem}"), Color::Yellow)),
    );
    if server.health != Health::Unreachable {
        lines.extend(models(&server.models, paint));
    }
    if !server.methods.is_empty() {
        lines.extend(methods(&server.methods));
    }
    lines.extend(server.verdicts.iter().map(verdicts));
    if server.seconds.is_some() && !server.methods.is_empty() {
        let text = match server.refusals.is_empty() {
            true => "  refused  nothing".to_owned(),
            false => paint.apply(&format!("  refused  {}", rates(&server.refusals)), Color::Yellow),
        };
        lines.push(text);
    }
    lines
}

fn models(models: &[ModelFigures], paint: Paint) -> Vec<String> {
    let titles = [
        "MODEL",
        "STATE",
        "DEVICE",
        "QUEUED",
        "RUNNING",
        "KV",
        "PREFILL/S",
        "CACHED/S",
        "DECODE/S",
        "BATCH",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(models.iter().map(|model| {
        let kv = model.kv_usage.map_or_else(
            || UNKNOWN.to_owned(),
            |usage| format!("{} {}", bar(usage), percent(Some(usage))),
        );
        vec![
            model.model.clone(),
            model.state.to_owned(),
            model.device.clone(),
            model.queued.to_string(),
            model.running.to_string(),
            kv,
            number(model.prefill_tokens_per_second),
            number(model.cached_tokens_per_second),
            number(model.decode_tokens_per_second),
            number(model.batch_sequences),
        ]
    }));
    let text = table(&rows);
    let lines = text
        .lines()
        .zip(std::iter::once(None).chain(models.iter().map(Some)));
    lines
        .map(|(line, model)| {
            let color = model.and_then(|model| match model.state {
                "failed" => Some(Color::Red),
                _ if model.kv_usage.is_some_and(|usage| usage > FULL) => Some(Color::Yellow),
                _ => None,
            });
            let line = format!("  {line}");
            color.map_or_else(|| line.clone(), |color| paint.apply(&line, color))
        })
        .collect()
}

fn methods(methods: &[MethodFigures]) -> Vec<String> {
    let titles = ["METHOD", "P50", "P90", "P99", "CALLS/S", "ITEMS/S"];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(methods.iter().map(|method| {
        // The service's name says nothing that the method's does not.
        let name = method.method.rsplit('/').next().unwrap_or_default();
        let times = |of: fn(Quantiles) -> f64| {
            method
                .latency
                .map_or_else(|| UNKNOWN.to_owned(), |times| time(of(times)))
        };
        vec![
            name.to_owned(),
            times(|times| times.p50),
            times(|times| times.p90),
            times(|times| times.p99),
            rates(&method.calls_per_second),
            rates(&method.items_per_second),
        ]
    }));
    table(&rows).lines().map(|line| format!("  {line}")).collect()
}

fn verdicts(figures: &VerdictFigures) -> String {
    let shares = figures.shares.iter();
    let shares: Vec<_> = shares
        .map(|(label, share)| format!("{label} {}", percent(Some(*share))))
        .collect();
    let per_second = number(Some(figures.per_second));
    format!(
        "  verdicts of {}  {per_second}/s  {}",
        figures.model,
        shares.join("  ")
    )
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Serving => "SERVING",
        Health::NotServing => "NOT_SERVING",
        Health::Unreachable => "UNREACHABLE",
    }
}

fn paint_health(line: &str, health: Health, paint: Paint) -> String {
    match health {
        Health::Serving => paint.apply(line, Color::Green),
        Health::NotServing => paint.apply(line, Color::Yellow),
        Health::Unreachable => paint.apply(line, Color::Red),
    }
}

/// `OK 3.2  UNAVAILABLE 0.1`.
fn rates(rates: &BTreeMap<String, f64>) -> String {
    let rates: Vec<_> = rates
        .iter()
        .map(|(name, rate)| format!("{name} {}", number(Some(*rate))))
        .collect();
    match rates.is_empty() {
        true => UNKNOWN.to_owned(),
        false => rates.join("  "),
    }
}

/// Three digits where they say something.
fn number(figure: Option<f64>) -> String {
    match figure {
        None => UNKNOWN.to_owned(),
        Some(figure) if figure >= 100.0 || figure == 0.0 => format!("{figure:.0}"),
        Some(figure) if figure >= 10.0 => format!("{figure:.1}"),
        Some(figure) => format!("{figure:.2}"),
    }
}

fn percent(share: Option<f64>) -> String {
    match share {
        None => UNKNOWN.to_owned(),
        Some(share) if share > 0.0 && share < 0.1 => format!("{:.1}%", share * 100.0),
        Some(share) => format!("{:.0}%", share * 100.0),
    }
}

fn time(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.2} s"),
    }
}

fn bar(share: f64) -> String {
    let full = (share.clamp(0.0, 1.0) * BAR as f64).round() as usize;
    format!("{}{}", "#".repeat(full), ".".repeat(BAR - full))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn serving() -> ServerFigures {
        ServerFigures {
            server: "http://a:1".to_owned(),
            health: Health::Serving,
            problems: Vec::new(),
            version: Some("0.1.0".to_owned()),
            seconds: Some(2.0),
            connections: Some(3.0),
            memory: Vec::new(),
            models: vec![ModelFigures {
                model: "guard".to_owned(),
                state: "ready",
                device: "cpu".to_owned(),
                queued: 4,
                running: 2,
                kv_usage: Some(0.25),
                prefill_tokens_per_second: Some(512.0),
                cached_tokens_per_second: Some(0.0),
                decode_tokens_per_second: Some(9.25),
                batch_sequences: Some(2.5),
            }],
            methods: vec![MethodFigures {
                method: "babelward.v1.SafetyService/Classify".to_owned(),
                calls_per_second: BTreeMap::from([("OK".to_owned(), 12.0)]),
                items_per_second: BTreeMap::new(),
                latency: Some(Quantiles {
                    p50: 0.0042,
                    p90: 0.08,
                    p99: 1.5,
                }),
            }],
            verdicts: vec![VerdictFigures {
                model: "guard".to_owned(),
                per_second: 12.0,
                shares: BTreeMap::from([("safe".to_owned(), 0.95), ("unsafe".to_owned(), 0.05)]),
            }],
            refusals: BTreeMap::from([("RESOURCE_EXHAUSTED".to_owned(), 0.5)]),
        }
    }

    fn gone() -> ServerFigures {
        ServerFigures {
            server: "http://b:1".to_owned(),
            health: Health::Unreachable,
            problems: vec!["nobody answers".to_owned()],
            version: None,
            seconds: None,
            connections: None,
            models: Vec::new(),
            methods: Vec::new(),
            verdicts: Vec::new(),
            refusals: BTreeMap::new(),
            ..serving()
        }
    }

    #[test]
    fn a_server_is_shown_with_its_models_methods_and_verdicts() {
        let expected = "\
http://a:1  SERVING  0.1.0  connections 3
  MODEL  STATE  DEVICE  QUEUED  RUNNING  KV              PREFILL/S  CACHED/S  DECODE/S  BATCH
  guard  ready  cpu     4       2        ###....... 25%  512        0         9.25      2.50
  METHOD    P50     P90    P99     CALLS/S  ITEMS/S
  Classify  4.2 ms  80 ms  1.50 s  OK 12.0  -
  verdicts of guard  12.0/s  safe 95%  unsafe 5.0%
  refused  RESOURCE_EXHAUSTED 0.50";
        assert_eq!(lines(&[serving()], Paint::Plain).join("\n"), expected);
    }

    #[test]
    fn several_servers_have_an_overview_in_which_one_that_is_gone_has_no_figures() {
        let lines = lines(&[serving(), gone()], Paint::Plain);
        let expected = "\
SERVER      HEALTH       READY  QUEUED  RUNNING  KV   PREFILL/S  DECODE/S  CALLS/S  REFUSED/S
http://a:1  SERVING      1/1    4       2        25%  512        9.25      12.0     0.50
http://b:1  UNREACHABLE  -      -       -        -    -          -         -        -";
        assert_eq!(lines[..3].join("\n"), expected);
        assert_eq!(
            lines[lines.len() - 2..],
            ["http://b:1  UNREACHABLE", "  nobody answers"]
        );
    }

    #[test]
    fn a_frame_is_cut_to_its_terminal_and_colours_take_no_room() {
        let colored = lines(&[serving()], Paint::Colors);
        let plain = lines(&[serving()], Paint::Plain);
        let fitted = fitted(colored, 3, 12);
        assert_eq!(fitted.len(), 3);
        assert_eq!(fitted[0], "\x1b[32mhttp://a:1  \x1b[0m");
        assert_eq!(fitted[1], plain[1][..12]);
        assert_eq!(fitted[2], "... and 5 li");
    }
}
