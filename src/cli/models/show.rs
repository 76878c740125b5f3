//! Models as text for people: the protocol's names in words, and `-` for what is not known.

use prost_types::Timestamp;

use super::super::output::table;
use crate::{
    memory::human_bytes,
    model::spec::Precision,
    proto::{
        Capability, EstimateModelResponse, LoadPolicy, Model, estimate_model_response::Verdict, model::State,
    },
};

/// Stands in a cell whose value is not known.
const UNKNOWN: &str = "-";

/// A table with a row for each model.
pub(super) fn list(models: &[Model]) -> String {
    let titles = [
        "ID",
        "STATE",
        "CAN",
        "LOAD",
        "PRECISION",
        "MODEL",
        "WINDOW",
        "MEMORY",
        "CACHE USED",
        "WAITING",
        "RUNNING",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    rows.extend(models.iter().map(row));
    table(&rows)
}

/// One line: a model's state, with what goes with it.
pub(super) fn change(model: &Model) -> String {
    let mut parts = vec![model.name.clone(), state(model.state()).to_owned()];
    if !model.error.is_empty() {
        parts.push(model.error.clone());
    } else if is_resident(model) {
        parts.extend([description(model), memory(model)]);
    }
    parts.join("  ")
}

/// Everything about a model, as names and values.
pub(super) fn details(model: &Model) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut add = |name: &str, value: String| rows.push(vec![name.to_owned(), value]);
    add("id", model.name.clone());
    add("state", state(model.state()).to_owned());
    if !model.error.is_empty() {
        add("error", model.error.clone());
    }
    add("can", capabilities(model));
    add("loaded", loaded(model));
    add("precision", precision(model));
    if !model.device.is_empty() {
        add("device", model.device.clone());
    }
    if !model.device_note.is_empty() {
        add("not elsewhere", model.device_note.clone());
    }
    if let Some(adapter) = &model.adapter {
        add("adapter of", adapter.base.clone());
        if adapter.rank > 0 {
            add("rank", adapter.rank.to_string());
            add("parameters", parameters(adapter.parameters));
            add("memory beside its base", human_bytes(adapter.resident_bytes));
            add("digest", adapter.digest.clone());
        }
    }
    if let Some(remote) = &model.remote {
        add("endpoint", remote.endpoint.clone());
        add("model there", remote.model.clone());
        if !remote.software.is_empty() {
            let software = format!("{} {}", remote.software, remote.software_version);
            add("software there", software.trim_end().to_owned());
        }
        let (waiting, running) = (model.queue_depth, model.in_flight);
        add("requests", format!("{waiting} waiting, {running} open there"));
        return rows;
    }
    if !is_resident(model) {
        return rows;
    }
    let base = if model.adapter.is_some() { "base: " } else { "" };
    add(
        &format!("{base}model"),
        format!("{} {}", model.architecture, model.dtype),
    );
    add(&format!("{base}parameters"), parameters(model.parameters));
    add(&format!("{base}digest"), model.digest.clone());
    add("window", format!("{} tokens", model.context_tokens));
    add("weights", human_bytes(model.weight_bytes));
    add("buffers", human_bytes(model.scratch_bytes));
    let (cache, used) = (human_bytes(model.kv_bytes), human_bytes(model.kv_touched_bytes));
    add("key-value cache", format!("{cache}, of which {used} used so far"));
    let (sequences, tokens) = (model.max_batch_size, model.max_batch_tokens);
    add("largest step", format!("{sequences} sequences, {tokens} tokens"));
    if let Some(time) = &model.ready_time {
        add("ready since", moment(time));
    }
    let (waiting, running) = (model.queue_depth, model.in_flight);
    add("requests", format!("{waiting} waiting, {running} running"));
    rows
}

/// How much memory loading a model would take, as names and values.
pub(super) fn estimate(response: EstimateModelResponse) -> Vec<Vec<String>> {
    let verdict = match response.verdict() {
        Verdict::Unspecified => UNKNOWN,
        Verdict::Resident => "in memory already",
        Verdict::Fits => "fits",
        Verdict::FitsAfterEviction => "fits once others have been evicted, which loading it does",
        Verdict::DoesNotFit => "does not fit",
    };
    let mut rows = vec![
        vec!["verdict".to_owned(), verdict.to_owned()],
        vec!["window".to_owned(), format!("{} tokens", response.context_tokens)],
    ];
    let proposed = match response.verdict() {
        Verdict::DoesNotFit => None,
        _ => Some(response.kv_proposed_bytes),
    };
    // u64::MAX stands for a machine whose memory is not known.
    let limit = |bytes: u64| (bytes < u64::MAX).then_some(bytes);
    for (name, bytes) in [
        ("weights", Some(response.weight_bytes)),
        ("buffers", Some(response.scratch_bytes)),
        ("key-value cache, least", Some(response.kv_minimum_bytes)),
        ("key-value cache, proposed", proposed),
        ("free", limit(response.available_bytes)),
        ("budget", limit(response.budget_bytes)),
    ] {
        let shown = bytes.map_or_else(|| UNKNOWN.to_owned(), human_bytes);
        rows.push(vec![name.to_owned(), shown]);
    }
    for (name, models) in [
        ("would evict", response.would_evict),
        ("could unload", response.could_unload),
    ] {
        if !models.is_empty() {
            rows.push(vec![name.to_owned(), models.join(", ")]);
        }
    }
    rows
}

fn row(model: &Model) -> Vec<String> {
    // The size of a model that was never loaded is not known.
    let if_known = |known: bool, shown: String| if known { shown } else { UNKNOWN.to_owned() };
    let resident = is_resident(model);
    vec![
        model.name.clone(),
        state(model.state()).to_owned(),
        capabilities(model),
        loaded(model),
        precision(model),
        if_known(
            resident || model.adapter.is_some() || model.remote.is_some(),
            description(model),
        ),
        if_known(
            model.context_tokens > 0,
            format!("{} tokens", model.context_tokens),
        ),
        if_known(resident, memory(model)),
        if_known(resident, human_bytes(model.kv_touched_bytes)),
        model.queue_depth.to_string(),
        model.in_flight.to_string(),
    ]
}

fn is_resident(model: &Model) -> bool {
    model.resident_bytes > 0
}

/// Memory of a model; for an adapter only what it takes beside its base.
fn memory(model: &Model) -> String {
    match &model.adapter {
        None => human_bytes(model.resident_bytes),
        Some(adapter) => format!("+{}", human_bytes(adapter.resident_bytes)),
    }
}

/// Architecture and storage type, the base of an adapter, or the address of an endpoint.
fn description(model: &Model) -> String {
    if let Some(remote) = &model.remote {
        return format!("{} at {}", remote.model, remote.endpoint);
    }
    match &model.adapter {
        None => format!("{} {}", model.architecture, model.dtype),
        Some(adapter) if adapter.rank == 0 => format!("adapter of {}", adapter.base),
        Some(adapter) => format!("adapter of {}, rank {}", adapter.base, adapter.rank),
    }
}

pub(in crate::cli) fn state(state: State) -> &'static str {
    match state {
        State::Unspecified => UNKNOWN,
        State::Loading => "loading",
        State::Ready => "ready",
        State::Draining => "draining",
        State::Failed => "failed",
        State::Unloaded => "unloaded",
    }
}

fn capabilities(model: &Model) -> String {
    let can = model.capabilities().filter_map(|can| match can {
        Capability::Unspecified => None,
        Capability::Generate => Some("generate"),
        Capability::Classify => Some("classify"),
        Capability::EstimateQuality => Some("estimate quality"),
        Capability::ClassifyText => Some("classify text"),
    });
    let can: Vec<_> = can.collect();
    if can.is_empty() {
        UNKNOWN.to_owned()
    } else {
        can.join("+")
    }
}

fn loaded(model: &Model) -> String {
    let policy = match model.load() {
        LoadPolicy::Unspecified => UNKNOWN,
        LoadPolicy::Eager => "eager",
        LoadPolicy::Lazy => "lazy",
        LoadPolicy::Manual => "manual",
    };
    if model.pinned {
        format!("{policy}, pinned")
    } else {
        policy.to_owned()
    }
}

/// How it computes, and with which instructions. Servers of older versions do not say.
fn precision(model: &Model) -> String {
    let name = Option::from(model.precision()).map_or(UNKNOWN, Precision::name);
    match (model.device.as_str(), model.instruction_set.as_str()) {
        (_, "") => name.to_owned(),
        ("", isa) => format!("{name} on {isa}"),
        (device, isa) => format!("{name} on {device} ({isa})"),
    }
}

fn parameters(count: u64) -> String {
    match count {
        1_000_000_000.. => format!("{:.2}B", count as f64 / 1e9),
        1_000_000.. => format!("{:.1}M", count as f64 / 1e6),
        _ => count.to_string(),
    }
}

/// To the second, in UTC.
fn moment(time: &Timestamp) -> String {
    let whole = Timestamp {
        seconds: time.seconds,
        nanos: 0,
    };
    whole.to_string().replace('T', " ").replace('Z', " UTC")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::Adapter;

    fn resident() -> Model {
        Model {
            name: "smol".to_owned(),
            capabilities: vec![Capability::Generate.into(), Capability::Classify.into()],
            state: State::Ready.into(),
            architecture: "llama".to_owned(),
            parameters: 134_515_008,
            dtype: "q4_1".to_owned(),
            precision: crate::proto::Precision::Int8.into(),
            device: "cpu".to_owned(),
            context_tokens: 8192,
            max_batch_size: 64,
            max_batch_tokens: 512,
            resident_bytes: 300 << 20,
            weight_bytes: 100 << 20,
            scratch_bytes: 10 << 20,
            kv_bytes: 200 << 20,
            kv_touched_bytes: 50 << 20,
            digest: "sha256:ab".to_owned(),
            ready_time: Some(Timestamp {
                seconds: 1_700_000_000,
                nanos: 5,
            }),
            load: LoadPolicy::Eager.into(),
            pinned: true,
            ..Model::default()
        }
    }

    fn waiting() -> Model {
        Model {
            name: "later".to_owned(),
            capabilities: vec![Capability::Classify.into()],
            state: State::Unloaded.into(),
            load: LoadPolicy::Lazy.into(),
            ..Model::default()
        }
    }

    /// No name of the protocol, and no value that is empty.
    fn is_for_people(shown: &str) {
        for raw in [
            "STATE_",
            "CAPABILITY_",
            "LOAD_POLICY_",
            "PRECISION_",
            "VERDICT_",
            "null",
            "{",
            "\"\"",
        ] {
            assert!(!shown.contains(raw), "{raw} in {shown}");
        }
    }

    #[test]
    fn details_are_words_and_only_what_is_known() {
        let text = table(&details(&resident()));
        is_for_people(&text);
        for part in [
            "generate+classify",
            "eager, pinned",
            "134.5M",
            "llama q4_1",
            "int8",
            "200.0 MiB, of which 50.0 MiB used so far",
            "2023-11-14 22:13:20 UTC",
            "64 sequences, 512 tokens",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let rows = details(&waiting());
        assert!(
            rows.iter().all(|row| row.iter().all(|cell| !cell.is_empty())),
            "{rows:?}"
        );
        assert_eq!(rows.len(), 5, "{rows:?}");

        let failed = Model {
            state: State::Failed.into(),
            error: "it could not be loaded".to_owned(),
            ..waiting()
        };
        assert!(table(&details(&failed)).contains("error"));
    }

    #[test]
    fn an_adapters_own_stands_before_its_bases() {
        let adapter = Model {
            adapter: Some(Adapter {
                base: "smol".to_owned(),
                digest: "sha256:cd".to_owned(),
                rank: 16,
                parameters: 4_884_480,
                resident_bytes: 19 << 20,
            }),
            ..resident()
        };
        let text = table(&details(&adapter));
        is_for_people(&text);
        let place = |part: &str| {
            text.find(part)
                .unwrap_or_else(|| panic!("{part} is not in {text}"))
        };
        assert!(place("sha256:cd") < place("base: digest"));
        assert!(place("4.9M") < place("134.5M"));
    }

    #[test]
    fn a_remote_model_shows_where_it_is() {
        let remote = Model {
            name: "big".to_owned(),
            capabilities: vec![Capability::Generate.into()],
            state: State::Ready.into(),
            device: "remote".to_owned(),
            remote: Some(crate::proto::RemoteEngine {
                endpoint: "http://host:8000/v1".to_owned(),
                model: "llama-70b".to_owned(),
                software: "vllm".to_owned(),
                software_version: "0.9.1".to_owned(),
                ..crate::proto::RemoteEngine::default()
            }),
            in_flight: 3,
            ..Model::default()
        };
        let text = table(&details(&remote));
        is_for_people(&text);
        for part in [
            "http://host:8000/v1",
            "llama-70b",
            "vllm 0.9.1",
            "0 waiting, 3 open there",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert!(list(&[remote]).contains("llama-70b at http://host:8000/v1"));
    }

    #[test]
    fn a_change_is_a_line_with_its_reason() {
        assert_eq!(change(&waiting()), "later  unloaded");
        assert_eq!(change(&resident()), "smol  ready  llama q4_1  300.0 MiB");
        let failed = Model {
            state: State::Failed.into(),
            error: "it could not be loaded".to_owned(),
            ..resident()
        };
        assert_eq!(change(&failed), "smol  failed  it could not be loaded");
        is_for_people(&list(&[resident(), waiting()]));
    }

    #[test]
    fn what_does_not_fit_has_no_proposal() {
        let response = EstimateModelResponse {
            verdict: Verdict::DoesNotFit.into(),
            budget_bytes: u64::MAX,
            could_unload: vec!["a".to_owned(), "b".to_owned()],
            ..EstimateModelResponse::default()
        };
        let text = table(&estimate(response));
        is_for_people(&text);
        assert!(text.contains("does not fit") && text.contains("a, b"), "{text}");
        assert!(text.contains("budget                     -"), "{text}");
    }
}
