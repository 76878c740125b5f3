//! Figures of a server: what two readings of its metrics say of the time between them, and what it says of its models.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;

use super::samples::{Labels, Samples, has};
use crate::{cli::models, proto::Model};

/// Everything that is shown of a server.
#[derive(Debug, Clone, Serialize)]
pub(super) struct ServerFigures {
    /// Its address.
    pub(super) server: String,
    pub(super) health: Health,
    /// Why it could not be asked, or why its metrics could not be read.
    pub(super) problems: Vec<String>,
    pub(super) version: Option<String>,
    /// Seconds between the two readings that rates are of; absent with the first one.
    pub(super) seconds: Option<f64>,
    pub(super) connections: Option<f64>,
    pub(super) memory: Vec<MemoryFigures>,
    pub(super) models: Vec<ModelFigures>,
    pub(super) methods: Vec<MethodFigures>,
    pub(super) verdicts: Vec<VerdictFigures>,
    /// Refusals for each second, by reason.
    pub(super) refusals: BTreeMap<String, f64>,
}

/// What a server says of its health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum Health {
    Serving,
    NotServing,
    /// It does not answer.
    Unreachable,
}

/// Bytes for models on a device.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MemoryFigures {
    pub(super) device: String,
    pub(super) taken: f64,
    pub(super) budget: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct ModelFigures {
    pub(super) model: String,
    pub(super) state: &'static str,
    pub(super) device: String,
    pub(super) queued: u32,
    pub(super) running: u32,
    /// Share of the KV blocks that sequences hold, from 0 to 1.
    pub(super) kv_usage: Option<f64>,
    pub(super) prefill_tokens_per_second: Option<f64>,
    pub(super) cached_tokens_per_second: Option<f64>,
    pub(super) decode_tokens_per_second: Option<f64>,
    /// Sequences in a step, on average.
    pub(super) batch_sequences: Option<f64>,
}

/// Calls of a method, and items where it has some.
#[derive(Debug, Clone, Serialize)]
pub(super) struct MethodFigures {
    pub(super) method: String,
    /// Calls for each second, by status code.
    pub(super) calls_per_second: BTreeMap<String, f64>,
    /// Items for each second, by status code.
    pub(super) items_per_second: BTreeMap<String, f64>,
    /// Seconds from a call's headers to its end.
    pub(super) latency: Option<Quantiles>,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct VerdictFigures {
    pub(super) model: String,
    pub(super) per_second: f64,
    /// Shares of the labels, from 0 to 1; those since the server's start where there was none between the readings.
    pub(super) shares: BTreeMap<String, f64>,
}

/// A reading of metrics, and the one before.
pub(super) struct Readings<'a> {
    pub(super) before: Option<&'a Samples>,
    pub(super) now: &'a Samples,
    /// Time between the two.
    pub(super) between: Duration,
}

impl Readings<'_> {
    /// How much each series of a counter has grown. A counter that has become smaller began anew: the server was restarted.
    fn growth<'a>(&'a self, metric: &str) -> Option<impl Iterator<Item = (&'a Labels, f64)>> {
        let before = self.before?.of(metric);
        let now = self.now.of(metric);
        Some(now.iter().map(move |(labels, value)| {
            let earlier = before.iter().find(|(given, _)| given == labels);
            // A counter is not there until it has counted something.
            let earlier = earlier.map_or(0.0, |(_, value)| *value);
            let grown = if *value < earlier { *value } else { value - earlier };
            (labels, grown)
        }))
    }

    /// How much the series of a counter with these labels have grown for each second; `None` with the first reading.
    fn rate(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let grown = self.growth(metric)?.filter(|(given, _)| has(given, labels));
        Some(sum(grown.map(|(_, grown)| grown)) / self.seconds()?)
    }

    /// The rates of a counter by the values of a label, without those that are zero.
    fn rates_by(&self, metric: &str, labels: &[(&str, &str)], by: &str) -> BTreeMap<String, f64> {
        let mut rates = BTreeMap::new();
        let (Some(growth), Some(seconds)) = (self.growth(metric), self.seconds()) else {
            return rates;
        };
        for (given, grown) in growth.filter(|(given, grown)| has(given, labels) && *grown > 0.0) {
            if let Some(value) = given.get(by) {
                *rates.entry(value.clone()).or_insert(0.0) += grown / seconds;
            }
        }
        rates
    }

    fn seconds(&self) -> Option<f64> {
        let seconds = self.between.as_secs_f64();
        (self.before.is_some() && seconds > 0.0).then_some(seconds)
    }

    /// Quantiles of a histogram between the readings; `None` if it has counted nothing.
    fn quantiles(&self, histogram: &str, labels: &[(&str, &str)]) -> Option<Quantiles> {
        let counted = format!("{histogram}_bucket");
        let growth = self.growth(&counted)?;
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for (given, grown) in growth.filter(|(given, _)| has(given, labels)) {
            let bound: f64 = match given.get("le")?.as_str() {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            match buckets.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += grown,
                None => buckets.push((bound, grown)),
            }
        }
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let quantile = |share| quantile(&buckets, share);
        Some(Quantiles {
            p50: quantile(0.5)?,
            p90: quantile(0.9)?,
            p99: quantile(0.99)?,
        })
    }

    pub(super) fn models(&self, models: &[Model]) -> Vec<ModelFigures> {
        let figures = models.iter().map(|model| {
            let of = [("model", model.name.as_str())];
            let tokens = |kind| self.rate("babelward_tokens_total", &[of[0], ("kind", kind)]);
            let steps = self
                .rate("babelward_batch_size_count", &of)
                .filter(|steps| *steps > 0.0);
            let sequences = self.rate("babelward_batch_size_sum", &of);
            ModelFigures {
                model: model.name.clone(),
                state: models::state(model.state()),
                device: model.device.clone(),
                queued: model.queue_depth,
                running: model.in_flight,
                kv_usage: self.now.sum("babelward_kv_usage_ratio", &of),
                prefill_tokens_per_second: tokens("prompt"),
                cached_tokens_per_second: tokens("cached"),
                decode_tokens_per_second: tokens("generated"),
                batch_sequences: sequences.zip(steps).map(|(sequences, steps)| sequences / steps),
            }
        });
        figures.collect()
    }

    /// Of the methods that were called since the server's start.
    pub(super) fn methods(&self) -> Vec<MethodFigures> {
        let methods = self.now.values("babelward_requests_total", "method");
        let figures = methods.into_iter().map(|method| {
            let of = [("method", method)];
            MethodFigures {
                method: method.to_owned(),
                calls_per_second: self.rates_by("babelward_requests_total", &of, "code"),
                items_per_second: self.rates_by("babelward_items_total", &of, "code"),
                latency: self.quantiles("babelward_request_seconds", &of),
            }
        });
        figures.collect()
    }

    pub(super) fn verdicts(&self) -> Vec<VerdictFigures> {
        const VERDICTS: &str = "babelward_verdicts_total";
        let guards = self.now.values(VERDICTS, "model");
        let figures = guards.into_iter().map(|model| {
            let of = [("model", model)];
            let mut counts = self.rates_by(VERDICTS, &of, "label");
            let per_second = sum(counts.values().copied());
            if counts.is_empty() {
                let since_start = self.now.of(VERDICTS).iter().filter(|(given, _)| has(given, &of));
                let labelled =
                    since_start.filter_map(|(given, value)| Some((given.get("label")?.clone(), *value)));
                counts = labelled.collect();
            }
            let all = sum(counts.values().copied());
            VerdictFigures {
                model: model.to_owned(),
                per_second,
                shares: counts
                    .into_iter()
                    .map(|(label, count)| (label, count / all.max(1e-9)))
                    .collect(),
            }
        });
        figures.collect()
    }

    /// What the server would not do, by reason, for each second.
    pub(super) fn refusals(&self) -> BTreeMap<String, f64> {
        let mut refusals = BTreeMap::new();
        let mut add = |reason: String, rate: f64| {
            if rate > 0.0 {
                *refusals.entry(reason).or_insert(0.0) += rate;
            }
        };
        for code in ["RESOURCE_EXHAUSTED", "UNAVAILABLE"] {
            for metric in ["babelward_requests_total", "babelward_items_total"] {
                add(
                    code.to_owned(),
                    self.rate(metric, &[("code", code)]).unwrap_or_default(),
                );
            }
        }
        let by_label = [
            ("babelward_auth_refused_total", "reason", "credential"),
            ("babelward_quota_refused_total", "kind", "quota"),
            ("babelward_deadline_exceeded_total", "stage", "deadline in"),
        ];
        for (metric, label, what) in by_label {
            for (value, rate) in self.rates_by(metric, &[], label) {
                add(format!("{what} {value}"), rate);
            }
        }
        let connections = self.rate("babelward_connections_refused_total", &[]);
        add("connections".to_owned(), connections.unwrap_or_default());
        refusals
    }

    pub(super) fn memory(&self) -> Vec<MemoryFigures> {
        const MEMORY: &str = "babelward_memory_bytes";
        let devices = self.now.values(MEMORY, "device").into_iter();
        let figures = devices.filter_map(|device| {
            let bytes = |kind| self.now.sum(MEMORY, &[("device", device), ("kind", kind)]);
            Some(MemoryFigures {
                device: device.to_owned(),
                taken: bytes("taken")?,
                budget: bytes("budget")?,
            })
        });
        figures.collect()
    }
}

/// The sum of numbers, which is 0 and not -0 where there are none.
pub(super) fn sum(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |sum, number| sum + number)
}

/// A quantile of a histogram: `buckets` have their upper bounds, in order, with the number of values up to there. Values are
/// taken to lie evenly in their bucket, as Prometheus does; above the last bound there is nothing to say but that.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let all = buckets.last()?.1;
    if all <= 0.0 {
        return None;
    }
    let rank = share * all;
    let place = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (bound, count) = buckets[place];
    let (lower, before) = match place.checked_sub(1) {
        Some(below) => buckets[below],
        None => (0.0, 0.0),
    };
    if bound.is_infinite() {
        return Some(lower);
    }
    Some(lower + (bound - lower) * ((rank - before) / (count - before).max(1e-9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between<'a>(before: &'a Samples, now: &'a Samples) -> Readings<'a> {
        Readings {
            before: Some(before),
            now,
            between: Duration::from_secs(2),
        }
    }

    #[test]
    fn counters_give_rates_and_a_restart_is_no_negative_one() {
        let before = Samples::parse("babelward_requests_total{method=\"m\",code=\"OK\"} 10\n");
        let now = Samples::parse(
            "babelward_requests_total{method=\"m\",code=\"OK\"} 14\n\
             babelward_requests_total{method=\"m\",code=\"RESOURCE_EXHAUSTED\"} 1\n",
        );
        let methods = between(&before, &now).methods();
        let rates = &methods[0].calls_per_second;
        assert_eq!((rates["OK"], rates["RESOURCE_EXHAUSTED"]), (2.0, 0.5));
        assert_eq!(between(&before, &now).refusals()["RESOURCE_EXHAUSTED"], 0.5);
        let restarted = Samples::parse("babelward_requests_total{method=\"m\",code=\"OK\"} 6\n");
        assert_eq!(between(&now, &restarted).methods()[0].calls_per_second["OK"], 3.0);
        let first = Readings {
            before: None,
            now: &now,
            between: Duration::ZERO,
        };
        assert!(first.methods()[0].calls_per_second.is_empty());
        assert!(first.refusals().is_empty());
    }

    #[test]
    fn quantiles_are_those_of_the_time_between_the_readings() {
        let histogram = |counts: [u32; 4]| {
            let bounds = ["0.1", "0.2", "0.4", "+Inf"];
            let lines = bounds.iter().zip(counts).map(|(bound, count)| {
                format!("babelward_request_seconds_bucket{{method=\"m\",le=\"{bound}\"}} {count}\n")
            });
            let calls = "babelward_requests_total{method=\"m\",code=\"OK\"} 1\n".to_owned();
            Samples::parse(&(calls + &lines.collect::<String>()))
        };
        // Of the hundred slow ones before, nothing is left: ten up to 0.1 s, and ten up to 0.2 s.
        let (before, now) = (histogram([0, 0, 100, 100]), histogram([10, 20, 120, 120]));
        let latency = between(&before, &now).methods()[0].latency.unwrap();
        assert!((latency.p50 - 0.1).abs() < 1e-9, "{latency:?}");
        assert!((latency.p90 - 0.18).abs() < 1e-9, "{latency:?}");
        assert_eq!(between(&now, &now).methods()[0].latency, None);
        // Beyond the last bound there is only the bound.
        let beyond = histogram([10, 20, 120, 130]);
        assert_eq!(between(&now, &beyond).methods()[0].latency.unwrap().p50, 0.4);
    }

    #[test]
    fn verdicts_are_shares_of_now_or_else_of_all() {
        let verdicts = |safe: u32, wrong: u32| {
            Samples::parse(&format!(
                "babelward_verdicts_total{{model=\"g\",label=\"safe\"}} {safe}\n\
                 babelward_verdicts_total{{model=\"g\",label=\"unsafe\"}} {wrong}\n"
            ))
        };
        let (before, now) = (verdicts(30, 10), verdicts(31, 13));
        let figures = &between(&before, &now).verdicts()[0];
        assert_eq!((figures.per_second, figures.shares["unsafe"]), (2.0, 0.75));
        let figures = &between(&now, &now).verdicts()[0];
        assert_eq!(figures.per_second, 0.0);
        assert_eq!(figures.shares["safe"], 31.0 / 44.0);
    }
}
