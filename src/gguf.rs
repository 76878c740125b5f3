//! The GGUF container (version 2 and 3, little endian): metadata, tensor directory, and tensors read in pieces.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>. Every length and offset is checked
//! against the file, so a damaged or hostile file gives an error, never a panic or a huge allocation.

use std::{
    collections::HashMap,
    io::{BufReader, Read},
    path::{Path, PathBuf},
};

use crate::files::Pieces;

const MAGIC: &[u8; 4] = b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_DIMENSIONS: u32 = 4;
const MAX_NESTING: usize = 4;
/// Most bytes of the header. The largest vocabularies with their merges take 20 MB.
const MAX_HEADER_BYTES: u64 = 64 << 20;
/// Most elements of all arrays together. Each takes 32 bytes in memory, whatever its size in the file. The largest
/// vocabularies have one and a half million.
const MAX_ARRAY_ELEMENTS: u64 = 16 << 20;

/// Why a GGUF file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file could not be opened.
    #[error("cannot read {path}")]
    Io {
        /// The file.
        path: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The content is not valid GGUF.
    #[error("{path}: not a valid GGUF file: {reason}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong, and where.
        reason: String,
    },
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Unsigned integers of all widths.
    Uint(u64),
    /// Signed integers of all widths.
    Int(i64),
    /// Both float widths.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    String(String),
    /// An array of any of these.
    Array(Vec<Value>),
}

impl Value {
    /// The value as an unsigned integer, if it is an integer that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Uint(v) => Some(*v),
            Self::Int(v) => u64::try_from(*v).ok(),
            _ => None,
        }
    }

    /// The value as a signed integer.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Uint(v) => i64::try_from(*v).ok(),
            Self::Int(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a float. Integers are converted.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(v) => Some(*v),
            Self::Uint(v) => Some(*v as f64),
            Self::Int(v) => Some(*v as f64),
            _ => None,
        }
    }

    /// The value as a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(v) => Some(*v),
            _ => None,
        }
    }

    /// The value as a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(v) => Some(v),
            _ => None,
        }
    }

    /// The value as an array.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(v) => Some(v),
            _ => None,
        }
    }
}

/// The shape and type of a tensor, and where it is in the file.
#[derive(Debug, Clone)]
pub struct TensorInfo {
    /// Dimensions as GGUF has them: the contiguous one first (`[in, out]` for a projection).
    pub dimensions: Vec<usize>,
    /// The number of its ggml type.
    pub ggml_type: u32,
    /// Offset of its first byte in the file.
    pub offset: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.dimensions.iter().product()
    }
}

/// An open GGUF file.
pub struct Gguf {
    path: PathBuf,
    pieces: Pieces,
    metadata: HashMap<String, Value>,
    tensors: HashMap<String, TensorInfo>,
}

impl Gguf {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let io = |source| GgufError::Io {
            path: path.display().to_string(),
            source,
        };
        let pieces = Pieces::open(path).map_err(io)?;
        let header = Reader::new(BufReader::new(pieces.from_start()), pieces.len()).header();
        let (metadata, tensors) = header.map_err(|reason| GgufError::Invalid {
            path: path.display().to_string(),
            reason,
        })?;
        Ok(Self {
            path: path.to_owned(),
            pieces,
            metadata,
            tensors,
        })
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A metadata value.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    /// A string value.
    pub fn get_str(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Value::as_str)
    }

    /// An unsigned integer value.
    pub fn get_u64(&self, key: &str) -> Option<u64> {
        self.get(key).and_then(Value::as_u64)
    }

    /// A float value.
    pub fn get_f64(&self, key: &str) -> Option<f64> {
        self.get(key).and_then(Value::as_f64)
    }

    /// A boolean value.
    pub fn get_bool(&self, key: &str) -> Option<bool> {
        self.get(key).and_then(Value::as_bool)
    }

    /// The entry of a tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors.get(name)
    }

    /// All tensors, in no particular order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorInfo)> {
        self.tensors.iter().map(|(name, info)| (name.as_str(), info))
    }

    /// The file, from which tensors are read.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }
}

type Header = (HashMap<String, Value>, HashMap<String, TensorInfo>);

/// Reads a header from its beginning.
struct Reader<R> {
    input: R,
    /// Bytes of the whole file.
    len: u64,
    position: u64,
    /// Elements of arrays so far.
    elements: u64,
}

impl<R: Read> Reader<R> {
    fn new(input: R, len: u64) -> Self {
        Self {
            input,
            len,
            position: 0,
            elements: 0,
        }
    }

    fn header(mut self) -> Result<Header, String> {
        if self.array()? != *MAGIC {
            return Err("it does not begin with GGUF".into());
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(format!("version {version} is not supported (2 and 3 are)"));
        }
        let tensor_count = self.u64()?;
        let metadata_count = self.u64()?;
        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = self.string()?;
            let kind = self.u32()?;
            let value = self
                .value(kind, 0)
                .map_err(|e| format!("metadata `{key}`: {e}"))?;
            metadata.insert(key, value);
        }
        let alignment = metadata
            .get("general.alignment")
            .and_then(Value::as_u64)
            .unwrap_or(DEFAULT_ALIGNMENT);
        if alignment == 0 || !alignment.is_power_of_two() {
            return Err(format!("general.alignment is {alignment}, not a power of two"));
        }
        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = self.string()?;
            let info = self.tensor_info().map_err(|e| format!("tensor `{name}`: {e}"))?;
            if tensors.insert(name.clone(), info).is_some() {
                return Err(format!("tensor `{name}` appears twice"));
            }
        }
        let data_start = self.position.next_multiple_of(alignment);
        for (name, info) in &mut tensors {
            if info.offset % alignment != 0 {
                return Err(format!(
                    "tensor `{name}`: its offset {} is not a multiple of general.alignment, which is {alignment}",
                    info.offset
                ));
            }
            match data_start.checked_add(info.offset) {
                Some(offset) if offset <= self.len => info.offset = offset,
                _ => return Err(format!("tensor `{name}` lies outside the file")),
            }
        }
        Ok((metadata, tensors))
    }

    fn tensor_info(&mut self) -> Result<TensorInfo, String> {
        let count = self.u32()?;
        if count == 0 || count > MAX_DIMENSIONS {
            return Err(format!("{count} dimensions"));
        }
        let mut dimensions = Vec::with_capacity(count as usize);
        let mut elements = 1usize;
        for _ in 0..count {
            let size = usize::try_from(self.u64()?).map_err(|_| "a dimension is too large")?;
            elements = elements.checked_mul(size).ok_or("the dimensions overflow")?;
            dimensions.push(size);
        }
        let ggml_type = self.u32()?;
        let offset = self.u64()?;
        Ok(TensorInfo {
            dimensions,
            ggml_type,
            offset,
        })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Uint(self.byte()?.into()),
            1 => Value::Int((self.byte()? as i8).into()),
            2 => Value::Uint(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Int(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Uint(self.u32()?.into()),
            5 => Value::Int(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.byte()? != 0),
            8 => Value::String(self.string()?),
            9 => {
                if depth == MAX_NESTING {
                    return Err("arrays are nested too deep".into());
                }
                let kind = self.u32()?;
                let count = self.u64()?;
                // Each element takes at least a byte, so a count beyond the end of the file is wrong.
                if count > self.len.saturating_sub(self.position) {
                    return Err(format!("an array of {count} elements does not fit the file"));
                }
                self.elements = self.elements.saturating_add(count);
                if self.elements > MAX_ARRAY_ELEMENTS {
                    return Err(format!(
                        "the arrays have more than {MAX_ARRAY_ELEMENTS} elements, which no vocabulary has"
                    ));
                }
                let mut values = Vec::new();
                for _ in 0..count {
                    values.push(self.value(kind, depth + 1)?);
                }
                Value::Array(values)
            }
            10 => Value::Uint(self.u64()?),
            11 => Value::Int(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("unknown value type {other}")),
        })
    }

    /// Fills `out` with the next bytes of the header.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), String> {
        let end = self.position.saturating_add(out.len() as u64);
        if end > MAX_HEADER_BYTES {
            return Err(format!(
                "the header has more than {MAX_HEADER_BYTES} bytes, which no model needs"
            ));
        }
        self.input.read_exact(out).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                format!("the file ends inside the header, before byte {end}")
            }
            _ => format!("the header cannot be read at byte {}: {error}", self.position),
        })?;
        self.position = end;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn byte(&mut self) -> Result<u8, String> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        // The length is checked before memory is allocated for it.
        if length > self.len.saturating_sub(self.position).min(MAX_HEADER_BYTES) {
            return Err(format!("a string of {length} bytes does not fit the file"));
        }
        let mut bytes = vec![0; length as usize];
        self.fill(&mut bytes)?;
        // Some vocabularies hold tokens that are not UTF-8; they stay readable and never fail a load.
        Ok(String::from_utf8(bytes)
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(bytes: &[u8]) -> Result<Header, String> {
        Reader::new(bytes, bytes.len() as u64).header()
    }

    fn sample() -> Vec<u8> {
        sample_at(0)
    }

    /// A file whose tensor is at `offset` of the data.
    fn sample_at(offset: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        let string = |bytes: &mut Vec<u8>, s: &str| {
            bytes.extend((s.len() as u64).to_le_bytes());
            bytes.extend(s.as_bytes());
        };
        bytes.extend(MAGIC);
        bytes.extend(3u32.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        string(&mut bytes, "general.architecture");
        bytes.extend(8u32.to_le_bytes());
        string(&mut bytes, "llama");
        string(&mut bytes, "scores");
        bytes.extend(9u32.to_le_bytes());
        bytes.extend(6u32.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(1.5f32.to_le_bytes());
        bytes.extend((-2.0f32).to_le_bytes());
        string(&mut bytes, "w");
        bytes.extend(2u32.to_le_bytes());
        bytes.extend(4u64.to_le_bytes());
        bytes.extend(2u64.to_le_bytes());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(32) + 32 + offset as usize, 7);
        bytes
    }

    #[test]
    fn reads_metadata_and_tensors() {
        let bytes = sample();
        let (metadata, tensors) = header(&bytes).unwrap();
        assert_eq!(metadata["general.architecture"].as_str(), Some("llama"));
        assert_eq!(metadata["scores"].as_array().unwrap()[1].as_f64(), Some(-2.0));
        assert_eq!(tensors["w"].dimensions, [4, 2]);
        assert_eq!(tensors["w"].offset, bytes.len() as u64 - 32);
    }

    #[test]
    fn a_tensor_off_its_alignment_is_refused() {
        assert!(header(&sample_at(64)).is_ok());
        for offset in [1, 4, 33] {
            let error = header(&sample_at(offset)).unwrap_err();
            assert!(
                error.contains("tensor `w`") && error.contains("general.alignment"),
                "{error}"
            );
        }
    }

    #[test]
    fn lengths_that_the_file_does_not_have_take_no_memory() {
        let mut bytes = sample();
        // The length of the first key.
        bytes[24..32].copy_from_slice(&(1u64 << 40).to_le_bytes());
        let error = header(&bytes).unwrap_err();
        assert!(error.contains("does not fit the file"), "{error}");
        // In a sparse file, so the text is as long as the length says, but longer than any header may be.
        let error = Reader::new(&bytes[..], 1 << 50).header().unwrap_err();
        assert!(error.contains("does not fit the file"), "{error}");
    }

    #[test]
    fn arrays_have_a_limit() {
        let mut bytes = sample();
        let scores = bytes.windows(6).position(|w| w == b"scores").unwrap();
        let count = scores + 6 + 4 + 4;
        bytes[count..count + 8].copy_from_slice(&(MAX_ARRAY_ELEMENTS + 1).to_le_bytes());
        let error = Reader::new(&bytes[..], 1 << 50).header().unwrap_err();
        assert!(error.contains("which no vocabulary has"), "{error}");
    }

    proptest! {
        #[test]
        fn damaged_headers_never_panic(position in 0usize..200, byte: u8, cut in 0usize..300) {
            let mut bytes = sample();
            let at = position % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut.max(1));
            let _ = header(&bytes);
        }
    }
}
