//! What can be wrong with the files of a model, as types: which file, tensor or key it is, what was found there, and what
//! was expected.
//!
//! These errors show their causes in their own text and hand out none, so that one line says everything.

use std::io;

use super::spec::{FactorsProblem, FormatError, TensorFormat};

/// What is wrong with the files of a model or of an adapter.
#[derive(Debug, thiserror::Error)]
pub enum InvalidModel {
    /// A tensor is missing, or is not what the model needs.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A file of a folder cannot be read, or says something that makes no sense.
    #[error(transparent)]
    File(#[from] FileError),
    /// The metadata of a GGUF file describe no model that can be computed.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The GGUF container itself is damaged: what is wrong with it, and where.
    #[error("not a valid GGUF file: {0}")]
    Gguf(String),
    /// The shape of a made-up model is unknown.
    #[error("dummy shape `{found}` is unknown ({known})")]
    DummyShape {
        /// The shape that was asked for.
        found: String,
        /// The shapes that there are.
        known: &'static str,
    },
    /// The window of a made-up model is no number, or is too long.
    #[error("dummy window `{found}` is no number of tokens from 1 to {longest}")]
    DummyWindow {
        /// What was asked for.
        found: String,
        /// The longest window that there is, in tokens.
        longest: usize,
    },
    /// The storage format of a made-up model is unknown.
    #[error("dummy format `{found}` is unknown ({known})")]
    DummyFormat {
        /// The format that was asked for.
        found: String,
        /// The formats that there are.
        known: &'static str,
    },
}

/// A tensor that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("tensor `{tensor}`: {problem}")]
pub struct TensorError {
    /// The tensor's name in its file.
    pub tensor: String,
    /// What is wrong with it.
    pub problem: TensorProblem,
}

/// Why a tensor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TensorProblem {
    /// No file of the model has it.
    #[error("it is missing")]
    Missing,
    /// Its shape is not the one that the model's configuration asks for.
    #[error("the shape is {found:?}, expected {expected:?}")]
    Shape {
        /// Dimensions in the file, outputs first.
        found: Vec<usize>,
        /// Dimensions that the model needs, outputs first.
        expected: Vec<usize>,
    },
    /// It has fewer bytes, or more, than its shape and format need.
    #[error("{bytes} bytes do not hold {rows} x {cols} of {}", format.name())]
    Length {
        /// Bytes in the file.
        bytes: usize,
        /// Rows of its shape.
        rows: usize,
        /// Columns of its shape.
        cols: usize,
        /// Its storage format.
        format: TensorFormat,
    },
    /// Its elements do not fill whole blocks of its quantised format.
    #[error("the shape {shape:?} does not fill whole blocks of {}", format.name())]
    Blocks {
        /// Its dimensions, outputs first.
        shape: Vec<usize>,
        /// Its storage format.
        format: TensorFormat,
    },
    /// Its GGUF storage format cannot be read.
    #[error("{0}")]
    Format(FormatError),
    /// Its safetensors type cannot be read.
    #[error("its type is {found}; F32, F16 and BF16 are supported")]
    Type {
        /// The type in the file, as safetensors names it.
        found: String,
    },
    /// It begins or ends where the file has no bytes.
    #[error("its data lies outside the file (is the download complete?)")]
    OutsideFile,
    /// It begins inside of another tensor.
    #[error("it begins at byte {start}, inside of tensor `{other}`, which ends at byte {end}")]
    Overlap {
        /// Offset of its first byte in the file.
        start: u64,
        /// Name of the tensor that lies there.
        other: String,
        /// Offset behind that tensor's last byte.
        end: u64,
    },
    /// Its table of position embeddings is shorter than the context window.
    #[error("it has {found} rows, but a context window of {needed} tokens needs a row for each position")]
    TooFewPositions {
        /// Rows in the file.
        found: usize,
        /// Positions that the model was made for.
        needed: usize,
    },
    /// A single row is read of it, which it does not have.
    #[error("there is no row {row} of {rows}")]
    NoRow {
        /// Index of the row that is read.
        row: usize,
        /// Rows in the file.
        rows: usize,
    },
    /// Its factors on rotary frequencies cannot be used.
    #[error("it {0}")]
    Factors(FactorsProblem),
    /// A decoder's file has it, but nothing computes with it: the model is not what its configuration says.
    #[error("it is not part of a `{architecture}` model of {layers} layers as this program knows it")]
    NotOfTheDecoder {
        /// The architecture that the configuration names.
        architecture: String,
        /// Layers that the configuration counts.
        layers: usize,
    },
    /// An encoder's file has it, but nothing computes with it: the model is not what its configuration says.
    #[error("it is not part of the model that config.json describes")]
    NotOfTheEncoder,
    /// The system could not read its bytes.
    #[error("it could not be read: {0}")]
    Read(io::Error),
    /// The system has no memory for it.
    #[error("there is no memory for it: {0}")]
    Memory(io::Error),
    /// The device that it is loaded onto failed.
    #[error("the device failed: {0}")]
    Device(Box<dyn std::error::Error + Send + Sync>),
}

/// A file of a model's folder that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {problem}")]
pub struct FileError {
    /// The file's name in the folder.
    pub file: String,
    /// What is wrong with it.
    pub problem: FileProblem,
}

/// Why a file of a model's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileProblem {
    /// The system could not read it.
    #[error("{0}")]
    Read(io::Error),
    /// It is not JSON, or not of the form that is expected.
    #[error("{0}")]
    Json(serde_json::Error),
    /// It is JSON, but not an object with keys.
    #[error("it is not an object")]
    NotAnObject,
    /// What it says makes no model that can be computed.
    #[error("{0}")]
    Config(ConfigError),
    /// The length of its safetensors header is not one that a file of this length can have.
    #[error("a header of {bytes} bytes is too long for this file")]
    HeaderLength {
        /// Bytes of the header, as the file says.
        bytes: u64,
    },
    /// The system could not read its safetensors header.
    #[error("its header cannot be read: {0}")]
    HeaderRead(io::Error),
    /// Its safetensors header is damaged.
    #[error("its header is invalid: {0}")]
    Header(serde_json::Error),
    /// Its length is not what its safetensors header says.
    #[error(
        "it has {found} bytes, and its header speaks of {data} after the first {header} (is the download complete?)"
    )]
    Length {
        /// Bytes of the file.
        found: u64,
        /// Bytes of all tensors, as the header says.
        data: usize,
        /// Bytes before the first tensor.
        header: u64,
    },
    /// The index of a sharded model says that a tensor is in this file, but it is not.
    #[error("tensor `{tensor}` is missing, although the index says it is there")]
    NotAsIndexed {
        /// The tensor's name.
        tensor: String,
    },
}

/// Why a configuration, or the metadata of a GGUF file, describe no model that can be computed.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A key is missing, or its value cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A tensor that the configuration is read from cannot be used.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// The document is not of the form that is expected.
    #[error("{0}")]
    Form(serde_json::Error),
    /// A size is too small or too large for a model: the file is damaged or hostile.
    #[error("the {name} is {found}, but it has to be {}", range(*min, *max))]
    Size {
        /// What has this size.
        name: &'static str,
        /// The size in the file.
        found: usize,
        /// The smallest size that can be used.
        min: usize,
        /// The largest size that can be used; `None` where there is no limit.
        max: Option<usize>,
    },
    /// A number that the arithmetic uses is not one that it can use.
    #[error("the {name} is {found}, but it has to be {expected}")]
    Number {
        /// What has this value.
        name: &'static str,
        /// The value in the file.
        found: f32,
        /// What values can be used.
        expected: &'static str,
    },
    /// Query heads cannot be divided equally among the key and value heads.
    #[error("{heads} heads cannot share {kv_heads} kv heads")]
    HeadGroups {
        /// Query heads.
        heads: usize,
        /// Key and value heads.
        kv_heads: usize,
    },
    /// Heads have a size that attention does not compute.
    #[error("a head size of {found} is not supported (multiples of 16 are)")]
    HeadSize {
        /// Dimensions of a head in the file.
        found: usize,
    },
    /// The rotary embedding rotates more dimensions than a head has.
    #[error("{rotated} rotated dimensions are more than the head size {head_dim}")]
    RotatedDimensions {
        /// Dimensions that are rotated.
        rotated: usize,
        /// Dimensions of a head.
        head_dim: usize,
    },
    /// The rotary base and its scaling lead to frequencies that are infinite or not a number.
    #[error("the rotary base or scaling gives frequencies that are not finite")]
    RotaryFrequencies,
}

/// A key whose value cannot be used, and why.
#[derive(Debug, thiserror::Error)]
#[error("{key} {problem}")]
pub struct KeyError {
    /// The key's name, with those of the objects around it where it is not at the top.
    pub key: String,
    /// What is wrong with its value.
    pub problem: KeyProblem,
}

/// Why the value of a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyProblem {
    /// The file does not have the key.
    #[error("is missing")]
    Missing,
    /// The file does not have the key, which only some models need.
    #[error("is missing: {reason}")]
    MissingFor {
        /// Why this model needs it, or what can be written there.
        reason: String,
    },
    /// The value is not of this type. It is not shown, for it may be long.
    #[error("is not {expected}")]
    NotA {
        /// The type, with its article.
        expected: String,
    },
    /// The value differs from the only one that fits.
    #[error("is {found}, expected {expected}")]
    Differs {
        /// The value in the file.
        found: String,
        /// The value, or the type of value, that fits.
        expected: String,
    },
    /// The value stands for something that this program does not compute; these values it does.
    #[error("is {found}; {} supported", choices(supported))]
    Unsupported {
        /// The value in the file.
        found: String,
        /// The values that are supported, one at least.
        supported: Vec<String>,
    },
    /// The value stands for something that this program does not compute.
    #[error("is {found}, which is not supported")]
    NotSupported {
        /// The value in the file.
        found: String,
    },
    /// The value breaks a rule.
    #[error("is {found}; it has to {rule}")]
    Breaks {
        /// The value in the file.
        found: String,
        /// The rule, as what comes after "it has to".
        rule: String,
    },
    /// A list does not have an entry for each layer.
    #[error("has {found} entries for {layers} layers")]
    Entries {
        /// Entries in the file.
        found: usize,
        /// Layers of the model.
        layers: usize,
    },
    /// The value needs tensors that the file does not have, or rules out some that it has.
    #[error(
        "is `{found}` with tensors that do not belong to it or are missing; none, linear and longrope are supported"
    )]
    RotaryTensors {
        /// The kind of scaling in the file.
        found: String,
    },
    /// The factors on rotary frequencies that it lists cannot be used.
    #[error("{0}")]
    Factors(FactorsProblem),
    /// Different types of layers have different values there.
    #[error("differ between types of layers, which is not supported here")]
    DiffersByLayer,
    /// It names a file that does not lie in the same folder.
    #[error("is `{found}`, which is not a plain file name")]
    NotAPlainFileName {
        /// The name in the file.
        found: String,
    },
    /// It is a regular expression that cannot be used.
    #[error("is not a pattern that can be used: {0}")]
    Pattern(Box<fancy_regex::Error>),
    /// It names a module that the adapter has no tensors for.
    #[error("names `{module}`, but there are no tensors for it")]
    NoTensors {
        /// The module, as the file names it.
        module: String,
    },
}

impl TensorProblem {
    /// The error of the tensor that has this problem.
    pub(crate) fn of(self, tensor: impl Into<String>) -> TensorError {
        TensorError {
            tensor: tensor.into(),
            problem: self,
        }
    }
}

impl FileProblem {
    /// The error of the file that has this problem.
    pub(crate) fn of(self, file: impl Into<String>) -> FileError {
        FileError {
            file: file.into(),
            problem: self,
        }
    }
}

impl ConfigError {
    /// The error of the file that says so.
    pub(crate) fn of(self, file: impl Into<String>) -> FileError {
        FileProblem::Config(self).of(file)
    }
}

impl KeyProblem {
    /// The error of the key that has this problem.
    pub(crate) fn of(self, key: impl Into<String>) -> KeyError {
        KeyError {
            key: key.into(),
            problem: self,
        }
    }

    /// A text that is none of those that are supported.
    pub(crate) fn unsupported_text<'a>(found: &str, supported: impl IntoIterator<Item = &'a str>) -> Self {
        let quoted = |text: &str| format!("`{text}`");
        Self::Unsupported {
            found: quoted(found),
            supported: supported.into_iter().map(quoted).collect(),
        }
    }

    /// A value that breaks a rule, which is what comes after "it has to".
    pub(crate) fn breaks(found: impl ToString, rule: impl Into<String>) -> Self {
        Self::Breaks {
            found: found.to_string(),
            rule: rule.into(),
        }
    }
}

/// `from 1 to 9`, or `at least 1`.
fn range(min: usize, max: Option<usize>) -> String {
    match max {
        Some(max) => format!("from {min} to {max}"),
        None => format!("at least {min}"),
    }
}

/// `a, b and c are`, or `a is`.
fn choices(names: &[String]) -> String {
    match names.split_last() {
        Some((last, [])) => format!("{last} is"),
        Some((last, rest)) => format!("{} and {last} are", rest.join(", ")),
        None => "nothing else is".to_owned(),
    }
}
