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
    CommandError, Connection, Exit, Format, Global,
    guard_args::{GuardArgs, check_look, exit, retracted, summary},
    input, json,
    output::{print_json, tell},
    priority::PriorityArg,
};
use crate::{
    client::{ClientError, GuardSender, GuardedText},
    proto::{Conversation, GuardStart, GuardStreamResponse, Role, guard_stream_response::Event},
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
    #[command(flatten)]
    rules: GuardArgs,
    #[command(flatten)]
    priority: PriorityArg,
    #[command(flatten)]
    pub(super) connection: Connection,
}

impl Args {
    fn start(&self) -> Result<GuardStart, CommandError> {
        let prompt = self.prompt.as_deref();
        Ok(GuardStart {
            model: self.model.clone(),
            conversation: prompt.map(|prompt| Conversation {
                messages: vec![input::message(Role::User, prompt)],
            }),
            policy_source: self.rules.policy()?.for_guard(),
            options: Some(self.rules.options()),
            priority: self.priority.value(),
            decision_policy: self.rules.decision.policy.clone(),
            language: self.rules.decision.language.clone(),
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
    let policy = args.rules.policy()?;
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
            Event::Look(look) => check_look(&policy, &look)?,
            Event::Retracted(retraction) if !global.quiet => tell(retracted(&retraction)),
            Event::Retracted(_) | Event::Heartbeat(_) => {}
            Event::Ended(ended) => break ended,
        }
    };
    if global.format == Format::Json {
        let released = String::from_utf8_lossy(&text.borrow().released).into_owned();
        let whole = json!({"text": released, "ended": json::message(&ended)?});
        print_json(global.format, &whole)?;
    }
    args.rules.check_end(&ended)?;
    if !global.quiet {
        tell(summary(&ended));
    }
    exit(ended)
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
