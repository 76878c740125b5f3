//! Text to tokens and back: tokenizers, chat templates, incremental detokenisation, stop strings.

mod added;
mod allowance;
mod byte_level;
mod chat_template;
mod coverage;
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
mod pipeline;
mod pre;
mod python;
mod spm;
mod stream;
mod strftime;
#[cfg(test)]
pub(crate) mod test_files;
#[cfg(test)]
mod thought_tests;
mod tokenizer;
mod unigram;
#[cfg(test)]
mod vocabulary_tests;
mod weighed;
mod words;

pub use allowance::{Allowance, TokenCount, Watch};
pub use chat_template::{ChatMessage, ChatRole, ChatTemplate, TemplateError};
pub use marks::Rendered;
pub(crate) use python::strip;
pub use stream::{StopMatcher, TextStream};
pub use tokenizer::{Segment, Tokenizer, TokenizerError};
