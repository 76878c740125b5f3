//! `guard`: a filter that lets a growing text through as far as a guard has looked at it.

use std::{
    cell::RefCell,
    io::{self, IsTerminal as _, Read as _, Write as _},
    pin::pin,
    thread,
};

use serde_json::json;
use tokio::sync::mpsc;

use super::{
    CommandError, Connection, Exit, Format, Global, classify, input, json,
    output::{print_json, tell},
    policy::{PolicyArgs, check_policy},
    priority::PriorityArg,
};
use crate::{
    client::{ClientError, GuardSender, GuardedText, RpcError},
    proto::{
        Conversation, GuardCadence, GuardEnded, GuardFailureMode, GuardMode, GuardOptions, GuardStart,
        GuardStreamResponse, Role, guard_ended::Reason, guard_stream_response::Event,
    },
};

/// Most bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;

/// Let a text through as far as a guard has looked at it: `some-model | babelward guard`.
///
/// The text comes on standard input, and what is released goes to standard output at once. Ends with exit code 3 when the text is
/// blocked because it is unsafe, and with 8 when the guard fails; then the rest is not released.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The user's prompt that the text answers; without it, the text itself is judged as a user's prompt
    #[arg(long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Guard to judge with, instead of the server's default
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    model: String,
    /// When text is released
    #[arg(long, value_enum, value_name = "WHEN", default_value = "hold-back")]
    mode: Mode,
    /// What becomes of text that the guard fails to judge
    #[arg(long, value_enum, value_name = "WHAT", default_value = "closed")]
    on_failure: OnFailure,
    /// Look after so many tokens, 8 to 512; the server's default is 64
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    every: Option<u32>,
    /// Do not look at the ends of sentences and lines as well
    #[arg(long)]
    no_sentence_end: bool,
    /// A look at a part of the text finds it unsafe if its unsafe_score is at least this; the server's default is 0.5. The
    /// complete text is judged by its label
    #[arg(long, value_name = "0..1", allow_negative_numbers = true)]
    interim_threshold: Option<f64>,
    /// Unsafe looks in a row before a part of the text is blocked, 1 to 8; the server's default is 2
    #[arg(long, value_name = "LOOKS", value_parser = clap::value_parser!(u32).range(1..))]
    confirmations: Option<u32>,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    priority: PriorityArg,
    #[command(flatten)]
    pub(super) connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum Mode {
    /// When a look that covers it has passed.
    HoldBack,
    /// At once; what turns out to be unsafe is reported, and the text ends there.
    Optimistic,
    /// At once, and nothing ends it; looks are only reported.
    Observe,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
enum OnFailure {
    /// It is not released, and the command ends.
    Closed,
    /// It is released, and standard error says so.
    Open,
}

impl Args {
    fn start(&self) -> Result<GuardStart, CommandError> {
        let mode = match self.mode {
            Mode::HoldBack => GuardMode::HoldBack,
            Mode::Optimistic => GuardMode::Optimistic,
            Mode::Observe => GuardMode::Observe,
        };
        let failure_mode = match self.on_failure {
            OnFailure::Closed => GuardFailureMode::Closed,
            OnFailure::Open => GuardFailureMode::Open,
        };
        let prompt = self.prompt.as_deref();
        Ok(GuardStart {
            model: self.model.clone(),
            conversation: prompt.map(|prompt| Conversation {
                messages: vec![input::message(Role::User, prompt)],
            }),
            policy_source: self.policy.choice()?.for_guard(),
            options: Some(GuardOptions {
                mode: mode.into(),
                failure_mode: failure_mode.into(),
                // 0 stands for the server's default.
                cadence: Some(GuardCadence {
                    tokens: self.every.unwrap_or(0),
                    sentence_end: self.no_sentence_end.then_some(false),
                }),
                interim_threshold: self.interim_threshold,
                confirmations: self.confirmations.unwrap_or(0),
            }),
            priority: self.priority.value(),
            ..GuardStart::default()
        })
    }
}

/// Lets standard input through to standard output.
pub(crate) fn run(args: &Args, global: &Global) -> anyhow::Result<Exit> {
    if io::stdin().is_terminal() {
        return Err(CommandError::usage(
            "there is no text: `some-model | babelward guard` reads it from a pipe",
        )
        .into());
    }
    let start = args.start()?;
    global.block_on(guard(start, args, global))
}

async fn guard(start: GuardStart, args: &Args, global: &Global) -> anyhow::Result<Exit> {
    let client = global.connect().await?;
    let GuardedText { sender, mut events } = client.guard_stream(start).await?;
    let text = RefCell::new(Text::default());
    let mut sending = pin!(send_all(sender, &text));
    let mut is_sending = true;
    let policy = args.policy.choice()?;
    let ended = loop {
        let event = tokio::select! {
            sent = &mut sending, if is_sending => {
                is_sending = false;
                sent?;
                continue;
            }
            event = events.next() => event?,
        };
        if global.format == Format::Jsonl {
            let response = GuardStreamResponse {
                event: Some(event.clone()),
            };
            print_json(global.format, &json::message(&response)?)?;
        }
        match event {
            Event::Released(released) => text
                .borrow_mut()
                .release(released.released_bytes, global.format)?,
            Event::Look(look) => {
                if let Some(verdict) = &look.verdict {
                    check_policy(&policy, verdict)?;
                }
            }
            Event::Retracted(retracted) if !global.quiet => tell(format_args!(
                "[retracted: what was released behind byte {} of the text]",
                retracted.kept_bytes
            )),
            Event::Retracted(_) | Event::Heartbeat(_) => {}
            Event::Ended(ended) => break ended,
        }
    };
    if global.format == Format::Json {
        let released = String::from_utf8_lossy(&text.borrow().released).into_owned();
        let whole = json!({"text": released, "ended": json::message(&ended)?});
        print_json(global.format, &whole)?;
    }
    if !global.quiet {
        tell(summary(&ended));
    }
    exit(ended)
}

fn exit(ended: GuardEnded) -> anyhow::Result<Exit> {
    match (ended.reason(), ended.error) {
        (Reason::Complete, _) => Ok(Exit::Done),
        (Reason::Policy, _) => Ok(Exit::Unsafe),
        (Reason::GuardFailed, _) => Ok(Exit::Undetermined),
        (_, Some(error)) => Err(ClientError::Rpc(RpcError::from_item(error)).into()),
        (_, None) => {
            let message = "the text ended for a reason that this client does not know";
            Err(ClientError::Protocol(message.to_owned()).into())
        }
    }
}

/// One line on how the text ended.
fn summary(ended: &GuardEnded) -> String {
    let reason = ended.reason().as_str_name();
    let reason = reason.strip_prefix("REASON_").unwrap_or(reason);
    let mut parts = vec![
        reason.to_ascii_lowercase().replace('_', " "),
        format!(
            "{} of {} bytes released",
            ended.released_bytes, ended.received_bytes
        ),
        super::output::counted(ended.looks, "look", "looks"),
    ];
    if ended.unguarded {
        parts.push("UNGUARDED: the guard failed, and text was released all the same".to_owned());
    }
    if let (Reason::GuardFailed, Some(error)) = (ended.reason(), &ended.error) {
        parts.push(RpcError::from_item(error.clone()).to_string());
    }
    if let Some(verdict) = &ended.verdict {
        parts.push(classify::line(verdict, true));
    }
    format!("[{}]", parts.join(", "))
}

/// The text, as far as it has been read.
#[derive(Default)]
struct Text {
    /// Bytes that have been read and not released.
    held: Vec<u8>,
    /// Bytes that have been released so far.
    released_bytes: u64,
    /// Those bytes, where they are printed at the end.
    released: Vec<u8>,
}

impl Text {
    /// Lets the text through up to so many bytes of it.
    fn release(&mut self, to: u64, format: Format) -> anyhow::Result<()> {
        let more = to.checked_sub(self.released_bytes);
        let more = more
            .and_then(|more| usize::try_from(more).ok())
            .filter(|more| *more <= self.held.len());
        let Some(more) = more else {
            let message = "the server releases text that was not sent".to_owned();
            return Err(ClientError::Protocol(message).into());
        };
        self.released_bytes = to;
        let released: Vec<u8> = self.held.drain(..more).collect();
        match format {
            Format::Human => {
                let mut out = io::stdout().lock();
                out.write_all(&released)?;
                out.flush()?;
            }
            Format::Json => self.released.extend(released),
            Format::Jsonl => {}
        }
        Ok(())
    }
}

/// Sends standard input to its end, or until the server wants no more.
async fn send_all(sender: GuardSender, text: &RefCell<Text>) -> anyhow::Result<()> {
    let mut pieces = pieces_of_stdin();
    let mut is_empty = true;
    while let Some(piece) = pieces.recv().await {
        let piece = piece?;
        is_empty = false;
        text.borrow_mut().held.extend_from_slice(&piece);
        if !sender.chunk(piece).await {
            return Ok(());
        }
    }
    if is_empty {
        return Err(CommandError::nothing("the input is empty: there is nothing to guard").into());
    }
    sender.end().await;
    Ok(())
}

/// What arrives on standard input. The thread that reads it does not keep the command from ending.
fn pieces_of_stdin() -> mpsc::Receiver<io::Result<Vec<u8>>> {
    let (sender, pieces) = mpsc::channel(1);
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE_BYTES];
        loop {
            let piece = match io::stdin().lock().read(&mut buffer) {
                Ok(0) => return,
                Ok(bytes) => Ok(buffer[..bytes].to_vec()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let is_last = piece.is_err();
            if sender.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    pieces
}
