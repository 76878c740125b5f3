//! Turns text into tokens and back: tokenizers, chat templates, incremental detokenisation, and stop strings.

mod added;
mod allowance;
mod byte_level;
mod chat;
mod chat_template;
mod coverage;
mod error;
mod folder_settings;
#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod hostile_template_tests;
#[cfg(test)]
mod hostile_tests;
mod jinja;
mod load_folder;
mod load_gguf;
mod load_model;
mod marks;
mod metered;
mod parts;
mod pipeline;
mod pre;
mod python;
mod segment;
mod spm;
mod stream;
mod strftime;
#[cfg(test)]
pub(crate) mod test_files;
#[cfg(test)]
mod thought_tests;
mod tokenizer;
#[cfg(test)]
mod tool_tests;
mod tool_words;
mod unigram;
#[cfg(test)]
mod vocabulary_tests;
mod words;

pub use allowance::{Allowance, Watch};
pub use chat::{CalledTool, ChatMessage, ChatRole, ChatTurn, TemplateError, ToolUse};
pub use chat_template::ChatTemplate;
pub use error::{TokenCount, TokenizerError};
pub use marks::Rendered;
pub(crate) use python::strip;
pub use segment::Segment;
pub use stream::{StopMatcher, StopStrings, TextStream};
pub use tokenizer::Tokenizer;
