//! Calls and results of tools, as chat templates read them from messages: `tool_calls` with `function.name` and
//! `function.arguments`, the role `tool`, `name` and `tool_call_id`.
//!
//! Names and arguments are a caller's or a model's words, so they are marked like the texts of messages: every text in the arguments,
//! keys included. Arguments that are no JSON object are given to the template as one text. Ids, which some templates want and the
//! services have no field for, are made here: `call00000` and so on, nine letters and digits, as Mistral's templates ask for.

use std::collections::VecDeque;

use minijinja::Value;

use super::{
    chat::{CalledTool, ToolUse},
    marks::{Marks, Need, ToolWord},
    python,
};

/// What is in the messages of a conversation besides their texts.
#[derive(Default)]
pub(super) struct ToolWords {
    /// Of each message.
    fields: Vec<MessageFields>,
    words: Vec<ToolWord>,
}

/// Fields of a message.
#[derive(Default)]
struct MessageFields {
    is_result: bool,
    values: Vec<(&'static str, Value)>,
}

/// A call that has no result yet.
struct OpenCall {
    id: String,
    name: String,
}

impl ToolWords {
    /// The words of each message's calls and results.
    pub(super) fn of(uses: &[&ToolUse], marks: &Marks) -> Self {
        let mut own = Self::default();
        let mut open: VecDeque<OpenCall> = VecDeque::new();
        let mut calls = 0;
        for (index, tools) in uses.iter().enumerate() {
            let fields = match tools {
                ToolUse::None => MessageFields::default(),
                ToolUse::Calls(called) => {
                    open.clear();
                    let mut values = Vec::with_capacity(called.len());
                    for CalledTool { name, arguments } in called {
                        let id = format!("call{calls:05}");
                        calls += 1;
                        let function = [
                            ("name", own.marked(index, name, Need::Shown, marks)),
                            ("arguments", own.arguments(index, arguments, marks)),
                        ];
                        values.push(Value::from_pairs([
                            ("id", Value::from(id.as_str())),
                            ("type", Value::from("function")),
                            ("function", Value::from_pairs(function)),
                        ]));
                        open.push_back(OpenCall {
                            id,
                            name: name.clone(),
                        });
                    }
                    MessageFields {
                        is_result: false,
                        values: vec![("tool_calls", values.into_iter().collect())],
                    }
                }
                ToolUse::Result { tool } => {
                    let same = |call: &OpenCall| tool.is_empty() || call.name == *tool;
                    let at = open.iter().position(same);
                    let call = at.and_then(|at| open.remove(at));
                    let name = match (tool.as_str(), &call) {
                        ("", Some(call)) => call.name.clone(),
                        (name, _) => name.to_owned(),
                    };
                    let mut values = Vec::new();
                    if !name.is_empty() {
                        values.push(("name", own.marked(index, &name, Need::MayBeLeftOut, marks)));
                    }
                    values.extend(call.map(|call| ("tool_call_id", Value::from(call.id))));
                    MessageFields {
                        is_result: true,
                        values,
                    }
                }
            };
            own.fields.push(fields);
        }
        own
    }

    /// The words that have marks.
    pub(super) fn words(&self) -> &[ToolWord] {
        &self.words
    }

    /// A message as the template reads it.
    pub(super) fn message(&self, index: usize, role: &'static str, content: &str) -> Value {
        let fields = self.fields.get(index);
        let role = match fields.is_some_and(|fields| fields.is_result) {
            true => "tool",
            false => role,
        };
        let own = fields.map_or(&[][..], |fields| &fields.values);
        let message = [("role", Value::from(role)), ("content", Value::from(content))];
        Value::from_pairs(message.into_iter().chain(own.iter().cloned()))
    }

    fn arguments(&mut self, message: usize, arguments: &str, marks: &Marks) -> Value {
        match serde_json::from_str(arguments) {
            Ok(json @ serde_json::Value::Object(_)) => self.json(message, &json, marks),
            Ok(_) | Err(_) => self.marked(message, arguments, Need::Shown, marks),
        }
    }

    fn json(&mut self, message: usize, json: &serde_json::Value, marks: &Marks) -> Value {
        match json {
            serde_json::Value::String(text) => self.marked(message, text, Need::Shown, marks),
            serde_json::Value::Array(items) => {
                items.iter().map(|item| self.json(message, item, marks)).collect()
            }
            serde_json::Value::Object(fields) => {
                let mut values = Vec::with_capacity(fields.len());
                for (key, value) in fields {
                    let key = self.marked(message, key, Need::Shown, marks);
                    values.push((key, self.json(message, value, marks)));
                }
                Value::from_pairs(values)
            }
            serde_json::Value::Null => Value::from(()),
            serde_json::Value::Bool(flag) => Value::from(*flag),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => Value::from(number),
                (None, Some(number)) => Value::from(number),
                (None, None) => Value::from(number.as_f64().unwrap_or_default()),
            },
        }
    }

    fn marked(&mut self, message: usize, text: &str, need: Need, marks: &Marks) -> Value {
        let marked = marks.around_word(self.words.len(), text);
        let words = python::strip(text);
        if !words.is_empty() {
            self.words.push(ToolWord {
                message,
                text: words.to_owned(),
                need,
            });
        }
        Value::from(marked)
    }
}
