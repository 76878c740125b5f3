//! Prints the error that ends a command on stderr: as text for people, as one JSON object for programs.

use std::{ffi::OsString, io::Write as _};

use serde_json::{Value, json};

use super::{
    Format,
    exit::{self, Exit},
    json,
};
use crate::{client::RpcError, config::ConfigError};

/// What helps when a file could not be written for lack of room.
const NO_ROOM: &str = "the disk is full, or a quota or a limit on the size of files is reached: make room there, and run the \
    same command again. What is whole was kept: `babelward bench resume FOLDER` goes on with a run, and a download goes on \
    where it stopped";

/// The error that a command ended with.
pub(super) struct Failure<'a> {
    /// The error, with its causes.
    pub(super) error: &'a anyhow::Error,
    /// The value of `--server`, where it was given.
    pub(super) server: Option<&'a str>,
}

impl Failure<'_> {
    /// Prints it on stderr.
    pub(super) fn print(&self, format: Format) {
        match format {
            Format::Human => write(&self.text()),
            Format::Json | Format::Jsonl => write(&self.json().to_string()),
        }
    }

    fn text(&self) -> String {
        let message = format!("babelward: {:#}", self.error);
        match self.hint() {
            Some(hint) => format!("{message}\n  {hint}"),
            None => message,
        }
    }

    fn json(&self) -> Value {
        let object = match (self.rpc(), self.config()) {
            (Some(error), _) => {
                let mut object = json::rpc_error(error);
                // The context says more, such as how often a stream broke.
                object["message"] = message_with_context(self.error, error).into();
                object
            }
            (None, Some(error)) => {
                let fields = error.problems.iter().map(|problem| {
                    let description = format!("{}; {}", problem.reason, problem.fix);
                    json!({"field": problem.key, "description": description})
                });
                error_object(&error.to_string(), fields.collect())
            }
            (None, None) => error_object(&format!("{:#}", self.error), Vec::new()),
        };
        finished(object, Exit::of_error(self.error), self.hint())
    }

    fn rpc(&self) -> Option<&RpcError> {
        self.error.chain().find_map(exit::rpc_of)
    }

    fn config(&self) -> Option<&ConfigError> {
        self.error.chain().find_map(|cause| cause.downcast_ref())
    }

    /// A command that helps. The server's message cannot name it, since the server does not know this program's commands.
    fn hint(&self) -> Option<String> {
        if exit::is_out_of_room(self.error) {
            return Some(NO_ROOM.to_owned());
        }
        let server = self
            .server
            .map_or_else(String::new, |server| format!(" --server {server}"));
        let hint = match self.rpc()?.reason.as_deref()? {
            "MODEL_NOT_FOUND" | "NO_DEFAULT_MODEL" | "CAPABILITY_MISSING" => {
                format!("`babelward models ls{server}` lists the server's models and what each can do")
            }
            "POLICY_NOT_FOUND" => format!(
                "`babelward policies ls{server}` lists the server's policies; --policy-file sends one of your own"
            ),
            "CALIBRATOR_MISMATCH" => format!(
                "`babelward policies decisions{server}` lists the server's decision policies; `babelward validate calibrate` fits a \
                 calibrator"
            ),
            "MODEL_NOT_LOADED" | "MODEL_LOAD_FAILED" => {
                format!(
                    "`babelward models load{server} ID` loads it, where the server was started with --allow-admin"
                )
            }
            "SERVER_DRAINING" => {
                "the server is being stopped: try again once it is back, or call another".to_owned()
            }
            "CREDENTIALS_MISSING" | "CREDENTIALS_INVALID" | "CREDENTIALS_EXPIRED" => {
                "--token-file names a file with an API key or token, and BABELWARD_TOKEN has one itself; the server's \
                 operator makes keys with `babelward keys new`"
                    .to_owned()
            }
            "SERVER_LOADING" => format!("`babelward models watch{server}` shows how far it is"),
            _ => return None,
        };
        Some(hint)
    }
}

/// Prints what is wrong with a command line. The parser has not read `--format` yet, so it is looked for among the arguments.
pub(super) fn print_usage(error: &clap::Error, arguments: impl Iterator<Item = OsString>) {
    if !asks_for_json(arguments) {
        // When stderr cannot be written there is no other way to report it.
        let _ = error.print();
        return;
    }
    let text = error.to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or(&text);
    let message = message.strip_prefix("error: ").unwrap_or(message).trim();
    let value = finished(error_object(message, Vec::new()), Exit::Usage, None);
    write(&value.to_string());
}

fn asks_for_json(arguments: impl Iterator<Item = OsString>) -> bool {
    let arguments: Vec<_> = arguments.collect();
    let is_json = |value: &str| matches!(value, "json" | "jsonl");
    let joined = arguments
        .iter()
        .filter_map(|argument| argument.to_str()?.strip_prefix("--format="));
    let apart = arguments
        .windows(2)
        .filter(|pair| pair[0] == "--format")
        .filter_map(|pair| pair[1].to_str());
    joined.chain(apart).any(is_json)
}

/// The message with its context, but without code and reason: these have fields of their own.
fn message_with_context(error: &anyhow::Error, rpc: &RpcError) -> String {
    let text = format!("{error:#}");
    match text.strip_suffix(&rpc.to_string()) {
        Some(context) => format!("{context}{}", rpc.message),
        None => text,
    }
}

/// The JSON object of an error that no call returned.
fn error_object(message: &str, field_violations: Vec<Value>) -> Value {
    json!({"code": null, "reason": null, "message": message, "field_violations": field_violations})
}

fn finished(mut object: Value, exit: Exit, hint: Option<String>) -> Value {
    object["hint"] = hint.into();
    object["exit_code"] = exit.code().into();
    json!({"error": object})
}

/// Writes to stderr. When that fails there is no other way to report it.
fn write(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;
    use tonic::Code;

    use super::*;
    use crate::{cli::CommandError, client::ClientError};

    #[test]
    fn errors_of_a_call_name_the_command_that_helps() {
        let error = ClientError::Rpc(RpcError::local(Code::NotFound, "POLICY_NOT_FOUND", "no policy"));
        let error = Err::<(), _>(error).context("judging").unwrap_err();
        let failure = Failure {
            error: &error,
            server: Some("http://guard:1"),
        };
        let text = failure.text();
        assert!(
            text.starts_with("babelward: judging: NOT_FOUND (POLICY_NOT_FOUND): no policy\n  "),
            "{text}"
        );
        assert!(
            text.contains("`babelward policies ls --server http://guard:1`"),
            "{text}"
        );
        let object = failure.json();
        assert_eq!(object["error"]["code"], "NOT_FOUND");
        assert_eq!(object["error"]["reason"], "POLICY_NOT_FOUND");
        assert_eq!(object["error"]["message"], "judging: no policy");
        assert_eq!(object["error"]["exit_code"], 2);
        assert!(
            object["error"]["hint"]
                .as_str()
                .is_some_and(|hint| hint.contains("policies ls"))
        );
    }

    #[test]
    fn every_error_has_the_same_shape_in_json() {
        let error = CommandError::invalid_data("a.txt is not UTF-8 text").into();
        let failure = Failure {
            error: &error,
            server: None,
        };
        let object = failure.json();
        let expected = json!({"error": {
            "code": null, "reason": null, "message": "a.txt is not UTF-8 text", "field_violations": [],
            "hint": null, "exit_code": 7,
        }});
        assert_eq!(object, expected);
    }

    #[test]
    fn the_format_is_found_on_a_command_line_that_is_wrong() {
        let asks = |line: &str| asks_for_json(line.split(' ').map(OsString::from));
        for line in [
            "--format json x",
            "x --format=jsonl",
            "--format human --format json",
        ] {
            assert!(asks(line), "{line}");
        }
        for line in ["--format", "--format human", "x json"] {
            assert!(!asks(line), "{line}");
        }
    }
}
