//! `top`: what one or several servers are doing, in a terminal, as long as somebody looks.

mod figures;
mod samples;
mod screen;
mod source;
mod terminal;

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep_until,
};

use self::{
    figures::ServerFigures,
    screen::{Paint, fitted, lines},
    source::Source,
    terminal::Terminal,
};
use super::{
    CommandError, Connection, Exit, Format, Global,
    arguments::duration,
    interrupt::interrupted,
    output::{counted, print_json, print_line, wants_color},
};
use crate::client::servers_of;

/// Port of the metrics where nothing else is said: the default of `server.metrics_listen`.
const METRICS_PORT: u16 = 9464;

/// Longest time for each of the questions that a server is asked, unless `--timeout` says otherwise.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Watch what servers are doing: health, models, queues, tokens, calls, latencies and verdicts
///
/// Health and models are asked for over gRPC, and the rest is read from the servers' metrics. A server that does not answer is
/// shown as such, until it answers again. Keys: q ends, the space bar reads at once.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Address of each server's metrics, with commas between them, in the order of --server [default: port 9464 of its host]
    #[arg(long, value_name = "URL", value_delimiter = ',')]
    metrics: Vec<String>,
    /// Time between two readings
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    interval: Duration,
    /// Print one frame of two readings, as plain text or with --format json, and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// How figures are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Output {
    /// One frame.
    Once,
    /// A frame after each reading, in the terminal.
    Screen,
    /// A JSON object after each reading.
    Lines,
}

pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let output = match (args.once, global.format) {
        (true, _) => Output::Once,
        (false, Format::Jsonl) => Output::Lines,
        (false, Format::Json) => {
            return Err(CommandError::usage(
                "--format json is one document: say --once too, or --format jsonl",
            )
            .into());
        }
        (false, Format::Human) if io::stdout().is_terminal() => Output::Screen,
        (false, Format::Human) => {
            return Err(
                CommandError::usage("standard output is no terminal: say --once, or --format jsonl").into(),
            );
        }
    };
    global.block_on(top(args, global, output))
}

async fn top(args: &Args, global: &Global, output: Output) -> anyhow::Result<Exit> {
    let mut sources = sources(args, global).await?;
    match output {
        Output::Once => {
            let began = Instant::now();
            read_all(&mut sources).await;
            let wait = sleep_until((began + args.interval).into());
            tokio::select! {
                () = wait => {}
                () = interrupted() => return Ok(Exit::Interrupted),
            }
            print(&read_all(&mut sources).await, global)?;
            Ok(Exit::Done)
        }
        Output::Lines => {
            let ended = interrupted();
            tokio::pin!(ended);
            loop {
                let next = Instant::now() + args.interval;
                print(&read_all(&mut sources).await, global)?;
                tokio::select! {
                    () = sleep_until(next.into()) => {}
                    () = &mut ended => return Ok(Exit::Done),
                }
            }
        }
        Output::Screen => watch(&mut sources, args.interval, global).await,
    }
}

/// The servers to ask, each with its metrics.
async fn sources(args: &Args, global: &Global) -> anyhow::Result<Vec<Source>> {
    let connection = global.connection.with_timeout(TIMEOUT);
    let options = connection.without_retries()?;
    let servers = servers_of(&connection.address()).await?;
    if !args.metrics.is_empty() && args.metrics.len() != servers.len() {
        let message = format!(
            "--metrics names {} for {}: name one for each, or none",
            counted(args.metrics.len() as u64, "address", "addresses"),
            counted(servers.len() as u64, "server", "servers")
        );
        return Err(CommandError::usage(message).into());
    }
    let mut sources = Vec::new();
    for (place, server) in servers.into_iter().enumerate() {
        let metrics = match args.metrics.get(place) {
            Some(given) => metrics_url(given),
            None => default_metrics(&server)?,
        };
        sources.push(Source::new(server, &metrics, options.clone()));
    }
    Ok(sources)
}

/// An address of metrics with the parts that may be left out.
fn metrics_url(given: &str) -> String {
    let with_scheme = if given.contains("://") {
        given.to_owned()
    } else {
        format!("http://{given}")
    };
    let has_path = with_scheme
        .splitn(4, '/')
        .nth(3)
        .is_some_and(|path| !path.is_empty());
    match has_path {
        true => with_scheme,
        false => format!("{}/metrics", with_scheme.trim_end_matches('/')),
    }
}

/// Where the metrics of a server are if it has only the defaults.
fn default_metrics(server: &str) -> Result<String, CommandError> {
    let with_scheme = if server.contains("://") {
        server.to_owned()
    } else {
        format!("http://{server}")
    };
    let address = with_scheme.parse::<http::Uri>().ok();
    let parts = address
        .as_ref()
        .and_then(|address| Some((address.scheme_str()?, address.host()?)));
    match parts {
        Some((scheme, host)) => Ok(format!("{scheme}://{host}:{METRICS_PORT}/metrics")),
        None => Err(CommandError::usage(format!(
            "`{server}` is no address of a server: write http:// or https://, a host and a port"
        ))),
    }
}

async fn read_all(sources: &mut [Source]) -> Vec<ServerFigures> {
    join_all(sources.iter_mut().map(Source::read)).await
}

fn print(servers: &[ServerFigures], global: &Global) -> anyhow::Result<()> {
    match global.format {
        Format::Human => print_line(&lines(servers, Paint::Plain).join("\n"))?,
        Format::Json | Format::Jsonl => print_json(global.format, &json!({ "servers": servers }))?,
    }
    Ok(())
}

/// Shows frames until the user has seen enough.
async fn watch(sources: &mut [Source], interval: Duration, global: &Global) -> anyhow::Result<Exit> {
    let paint = match wants_color(global.no_color, io::stdout().is_terminal()) {
        true => Paint::Colors,
        false => Paint::Plain,
    };
    let mut resized = signal(SignalKind::window_change())?;
    let ended = interrupted();
    tokio::pin!(ended);
    let terminal = Terminal::enter()?;
    let mut keys = terminal.keys();
    let mut shown: Vec<ServerFigures> = Vec::new();
    loop {
        let next = Instant::now() + interval;
        // A key is answered while a server is waited for.
        let mut reading = Box::pin(read_all(sources));
        shown = loop {
            tokio::select! {
                figures = &mut reading => break figures,
                Some(key) = keys.recv() => if ends(key) { return Ok(Exit::Done) },
                () = &mut ended => return Ok(Exit::Done),
                _ = resized.recv() => show(&terminal, &shown, interval, paint)?,
            }
        };
        drop(reading);
        show(&terminal, &shown, interval, paint)?;
        loop {
            tokio::select! {
                () = sleep_until(next.into()) => break,
                Some(key) = keys.recv() => match key {
                    b' ' => break,
                    key if ends(key) => return Ok(Exit::Done),
                    _ => {}
                },
                () = &mut ended => return Ok(Exit::Done),
                _ = resized.recv() => show(&terminal, &shown, interval, paint)?,
            }
        }
    }
}

/// Whether a key ends the command: q, Q, or Ctrl-D.
fn ends(key: u8) -> bool {
    matches!(key, b'q' | b'Q' | 4)
}

fn show(terminal: &Terminal, servers: &[ServerFigures], interval: Duration, paint: Paint) -> io::Result<()> {
    let title = format!("babelward top - every {} s, q ends", interval.as_secs_f64());
    let mut all = vec![title, String::new()];
    all.extend(lines(servers, paint));
    let (rows, columns) = terminal.size();
    terminal.show(&fitted(all, rows, columns))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_where_they_are_by_default_or_where_they_are_said_to_be() {
        let default = |server| default_metrics(server).unwrap();
        assert_eq!(default("http://a:50051"), "http://a:9464/metrics");
        assert_eq!(default("https://[::1]:50051"), "https://[::1]:9464/metrics");
        assert_eq!(default("a:1"), "http://a:9464/metrics");
        assert!(default_metrics("http://").is_err());
        assert_eq!(metrics_url("a:9464"), "http://a:9464/metrics");
        assert_eq!(metrics_url("https://a:9464/"), "https://a:9464/metrics");
        assert_eq!(metrics_url("http://a/m"), "http://a/m");
    }
}
