//! `generate`: a target's answer, printed token by token.

use std::io::{self, Write as _};

use serde_json::json;

use super::{
    Connection, Exit, Format, Global,
    input::{self, TextArgs},
    json,
    output::{counted, print_json, print_line, tell},
    priority::PriorityArg,
};
use crate::{
    client::{ClientError, RpcError},
    proto::{
        Conversation, GenerateFinished, GenerateRequest, GenerateStarted, Role, SamplingParams,
        StoppingParams, generate_request::Prompt, generate_response::Event,
    },
};

/// How an answer is sampled; `generate` and `score` have these flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct GenerationArgs {
    /// Target to answer with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    pub(super) model: String,
    /// The prompt is raw text: no chat template (base models)
    #[arg(long, conflicts_with = "system")]
    raw: bool,
    /// System message before the prompt
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// 0 is greedy; the server's default is 1
    #[arg(long, value_name = "0..2", allow_negative_numbers = true)]
    temperature: Option<f64>,
    /// Sample from the most likely tokens that together have this probability
    #[arg(long, value_name = "0..1")]
    top_p: Option<f64>,
    /// Sample from this many of the most likely tokens
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// Above 1, tokens that were written already become less likely
    #[arg(long, value_name = "1..2")]
    repetition_penalty: Option<f64>,
    /// Makes the answer repeatable; the server draws a seed when absent
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    seed: Option<u64>,
    /// Longest answer; the server's default is 200
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    max_new_tokens: Option<u32>,
    /// End before this text; repeatable
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
    #[command(flatten)]
    priority: PriorityArg,
}

impl GenerationArgs {
    pub(super) fn request(&self, prompt: &str) -> GenerateRequest {
        let prompt = if self.raw {
            Prompt::Text(prompt.to_owned())
        } else {
            let system = self.system.iter().map(|text| input::message(Role::System, text));
            Prompt::Conversation(Conversation {
                messages: system.chain([input::message(Role::User, prompt)]).collect(),
            })
        };
        GenerateRequest {
            model: self.model.clone(),
            prompt: Some(prompt),
            sampling: Some(SamplingParams {
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                repetition_penalty: self.repetition_penalty,
                seed: self.seed,
            }),
            stopping: Some(StoppingParams {
                // 0 stands for the server's default.
                max_new_tokens: self.max_new_tokens.unwrap_or(0),
                stop_sequences: self.stop.clone(),
            }),
            logprobs: None,
            priority: self.priority.value(),
        }
    }
}

/// Let a target answer, streamed to the terminal.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    prompt: TextArgs,
    #[command(flatten)]
    generation: GenerationArgs,
    #[command(flatten)]
    pub(super) connection: Connection,
}

/// Prints the answer while it arrives, or as one JSON document at its end.
pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<Exit> {
    let prompt = args.prompt.read()?;
    global.block_on(generate(args.generation.request(&prompt), global))
}

async fn generate(request: GenerateRequest, global: &Global) -> anyhow::Result<Exit> {
    let client = global.connect().await?;
    let mut events = client.generate(request).await?;
    let mut first = None;
    let mut last = None;
    let mut text = String::new();
    loop {
        let response = events.message().await.map_err(|status| {
            if global.format == Format::Human && !text.is_empty() {
                tell("");
            }
            ClientError::Rpc(RpcError::from_status(&status))
        })?;
        let Some(response) = response else { break };
        if global.format == Format::Jsonl {
            print_json(global.format, &json::message(&response)?)?;
        }
        let Some(event) = response.event else { break };
        match event {
            Event::Started(started) => first = Some(started),
            Event::Delta(delta) => {
                if global.format == Format::Human {
                    let mut out = io::stdout().lock();
                    out.write_all(delta.text.as_bytes())?;
                    out.flush()?;
                }
                text.push_str(&delta.text);
            }
            Event::Finished(finished) => last = Some(finished),
        }
    }
    let (Some(started), Some(finished)) = (first, last) else {
        return Err(ClientError::Protocol("the answer has no beginning or no end".to_owned()).into());
    };
    match global.format {
        Format::Human => {
            print_line("")?;
            if !global.quiet {
                tell(format_args!("{}", summary(&started, &finished)));
            }
        }
        Format::Json => {
            let (started, finished) = (json::message(&started)?, json::message(&finished)?);
            let whole = json!({"text": text, "started": started, "finished": finished});
            print_json(global.format, &whole)?;
        }
        Format::Jsonl => {}
    }
    Ok(Exit::Done)
}

fn summary(started: &GenerateStarted, finished: &GenerateFinished) -> String {
    let reason = finished.finish_reason().as_str_name();
    let reason = reason
        .strip_prefix("FINISH_REASON_")
        .unwrap_or(reason)
        .to_ascii_lowercase();
    let mut parts = vec![
        reason.replace('_', " "),
        counted(started.prompt_tokens, "prompt token", "prompt tokens"),
    ];
    let decode = finished
        .timing
        .as_ref()
        .and_then(|timing| timing.decode.as_ref())
        .map(json::seconds);
    if let Some(usage) = &finished.usage {
        parts.push(counted(usage.completion_tokens, "new token", "new tokens"));
        if let Some(seconds) = decode.filter(|seconds| *seconds > 0.0) {
            parts.push(format!(
                "{:.1} tokens/s",
                f64::from(usage.completion_tokens) / seconds
            ));
        }
    }
    parts.push(format!("seed {}", started.seed));
    if let Some(provenance) = &started.provenance {
        parts.push(provenance.model.clone());
    }
    format!("[{}]", parts.join(", "))
}
