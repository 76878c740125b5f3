//! Counts the elements of a message's lists before it is decoded. An empty element takes two bytes on the wire and many
//! times that in memory, and decoding millions of them would block a thread of the server.

use std::collections::HashMap;

use prost::Message as _;
use prost_types::{
    DescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

use super::{error::Violation, limits::Limits, method::Method};

/// A message whose lists have up to this many times their limits is still decoded and checked field by field, so that its
/// caller learns of everything that is wrong with it.
const SLACK: usize = 2;

/// Most fields of a message besides those of its lists.
const OTHER_FIELDS: usize = 1 << 16;

/// The lists of all requests, with their limits.
pub(crate) struct ElementCounts {
    nodes: Vec<Node>,
    roots: HashMap<&'static str, usize>,
    lists: usize,
    most_fields: usize,
}

/// A message type.
#[derive(Default)]
struct Node {
    /// The fields that are lists, or are messages which may contain some.
    fields: Vec<Field>,
}

struct Field {
    number: u64,
    name: String,
    kind: Kind,
    list: Option<List>,
}

#[derive(Clone, Copy)]
struct List {
    index: usize,
    most: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    /// A message of this type.
    Message(usize),
    /// Numbers that may be packed, each ended by a byte below 128.
    Varints,
    /// Text or bytes.
    Text,
}

/// The limit of a list by its full name.
fn limit(name: &str, limits: &Limits) -> Option<usize> {
    Some(match name {
        "babelward.v1.Conversation.messages" => limits.messages,
        "babelward.v1.Message.parts" => crate::guard::MAX_PARTS,
        "babelward.v1.Message.tool_calls" => crate::guard::MAX_TOOL_CALLS,
        "babelward.v1.TokenIds.ids" => limits.token_ids,
        "babelward.v1.StoppingParams.stop_sequences" => limits.stop_sequences,
        "babelward.v1.Policy.categories" => crate::guard::MAX_CATEGORIES,
        "babelward.v1.ClassifyRequest.classifiers" => super::validate::MOST_CLASSIFIERS,
        "babelward.v1.BatchClassifyRequest.items" | "babelward.v1.EstimateQualityRequest.pairs" => {
            limits.batch_items
        }
        "babelward.v1.ClassifyRenderingsRequest.renderings" => super::validate::MOST_RENDERINGS,
        "babelward.v1.TranslationOptions.languages" => super::validate::MOST_LANGUAGES,
        _ => return None,
    })
}

impl ElementCounts {
    /// The lists of all requests in these descriptors.
    pub(crate) fn new(descriptors: &[u8], limits: &Limits) -> Result<Self, prost::DecodeError> {
        let set = FileDescriptorSet::decode(descriptors)?;
        let mut types = HashMap::new();
        let mut requests = HashMap::new();
        for file in &set.file {
            for message in &file.message_type {
                types.insert(format!(".{}.{}", file.package(), message.name()), message);
            }
            for service in &file.service {
                for method in &service.method {
                    let name = format!("{}.{}/{}", file.package(), service.name(), method.name());
                    requests.insert(name, method.input_type().to_owned());
                }
            }
        }
        let mut counts = Self {
            nodes: Vec::new(),
            roots: HashMap::new(),
            lists: 0,
            most_fields: limits
                .batch_items
                .saturating_mul(limits.messages)
                .saturating_mul(4 * SLACK)
                .saturating_add(limits.token_ids.saturating_mul(SLACK))
                .saturating_add(OTHER_FIELDS),
        };
        let mut known = HashMap::new();
        for method in Method::ALL {
            if let Some(input) = requests.get(method.name()) {
                let root = counts.add(input, &types, &mut known, limits);
                counts.roots.insert(method.name(), root);
            }
        }
        Ok(counts)
    }

    fn add(
        &mut self,
        name: &str,
        types: &HashMap<String, &DescriptorProto>,
        known: &mut HashMap<String, usize>,
        limits: &Limits,
    ) -> usize {
        if let Some(node) = known.get(name) {
            return *node;
        }
        let node = self.nodes.len();
        self.nodes.push(Node::default());
        known.insert(name.to_owned(), node);
        let declared = types.get(name).map_or(&[][..], |message| &message.field);
        let mut fields = Vec::new();
        for field in declared {
            let full_name = format!("{}.{}", name.trim_start_matches('.'), field.name());
            let list = if field.label() == Label::Repeated {
                limit(&full_name, limits).map(|most| {
                    self.lists += 1;
                    List {
                        index: self.lists - 1,
                        most,
                    }
                })
            } else {
                None
            };
            let kind = match field.r#type() {
                Type::Message => Kind::Message(self.add(field.type_name(), types, known, limits)),
                Type::String | Type::Bytes => Kind::Text,
                _ => Kind::Varints,
            };
            if list.is_some() || matches!(kind, Kind::Message(_)) {
                fields.push(Field {
                    number: u64::try_from(field.number()).unwrap_or(0),
                    name: field.name().to_owned(),
                    kind,
                    list,
                });
            }
        }
        self.nodes[node].fields = fields;
        node
    }

    /// Refuses a request if one of its lists is far too long, and names the first such list. Bytes that are not a message
    /// pass, because the decoder refuses them.
    pub(crate) fn check(&self, method: Method, message: &[u8]) -> Result<(), Violation> {
        let Some(root) = self.roots.get(method.name()) else {
            return Ok(());
        };
        let mut walk = Walk {
            counts: self,
            seen: vec![0; self.lists],
            fields: 0,
            path: Vec::new(),
        };
        match walk.message(*root, message) {
            Err(Stop::Violation(violation)) => Err(violation),
            Ok(()) | Err(Stop::Malformed) => Ok(()),
        }
    }
}

/// The id of a stream's message, which is the first field 1 of its outermost level; empty when there is none.
pub(crate) fn first_id(mut message: &[u8]) -> &[u8] {
    while let Some((number, value)) = next_field(&mut message) {
        if let (1, Value::Bytes(id)) = (number, value) {
            return id;
        }
    }
    &[]
}

enum Stop {
    Violation(Violation),
    Malformed,
}

/// The value of a field. Numbers are not read.
enum Value<'a> {
    Number,
    Bytes(&'a [u8]),
    GroupStart,
    GroupEnd,
}

/// The next field; `None` at the end, and where the bytes are not a message.
fn next_field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = varint(bytes)?;
    let value = match key & 7 {
        0 => varint(bytes).map(|_| Value::Number),
        1 => take(bytes, 8).map(|_| Value::Number),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            take(bytes, length).map(Value::Bytes)
        }
        3 => Some(Value::GroupStart),
        4 => Some(Value::GroupEnd),
        5 => take(bytes, 4).map(|_| Value::Number),
        _ => None,
    };
    Some((key >> 3, value?))
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            *bytes = &bytes[index + 1..];
            return Some(value);
        }
    }
    None
}

fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    Some(taken)
}

/// One walk through a message.
struct Walk<'a> {
    counts: &'a ElementCounts,
    /// For each list, its elements so far, within the element of the list around it.
    seen: Vec<usize>,
    fields: usize,
    path: Vec<(&'a str, Option<usize>)>,
}

impl<'a> Walk<'a> {
    fn message(&mut self, node: usize, mut bytes: &[u8]) -> Result<(), Stop> {
        let mut groups = 0_usize;
        while !bytes.is_empty() {
            let (number, value) = next_field(&mut bytes).ok_or(Stop::Malformed)?;
            self.fields += 1;
            if self.fields > self.counts.most_fields {
                let most = self.counts.most_fields;
                return Err(self.violation(format!(
                    "the request has more than {most} fields up to here: send less at once"
                )));
            }
            match value {
                Value::GroupStart => groups += 1,
                Value::GroupEnd => groups = groups.checked_sub(1).ok_or(Stop::Malformed)?,
                // None of our messages has groups, and the decoder skips them.
                Value::Number | Value::Bytes(_) if groups > 0 => {}
                Value::Number => self.value(node, number, None)?,
                Value::Bytes(content) => self.value(node, number, Some(content))?,
            }
        }
        Ok(())
    }

    fn value(&mut self, node: usize, number: u64, content: Option<&[u8]>) -> Result<(), Stop> {
        let counts = self.counts;
        let field = counts.nodes[node]
            .fields
            .iter()
            .find(|field| field.number == number);
        let Some(field) = field else {
            return Ok(());
        };
        let elements = match (field.kind, content) {
            (Kind::Varints, Some(packed)) => packed.iter().filter(|byte| **byte < 0x80).count(),
            _ => 1,
        };
        let index = field.list.map(|list| self.seen[list.index]);
        self.path.push((&field.name, index));
        if let Some(List { index, most }) = field.list {
            self.seen[index] += elements;
            if self.seen[index] > most.saturating_mul(SLACK) {
                self.path.pop();
                self.path.push((&field.name, None));
                return Err(self.violation(format!(
                    "must have at most {most} elements, has more than {}",
                    most.saturating_mul(SLACK)
                )));
            }
        }
        if let (Kind::Message(inner), Some(content)) = (field.kind, content) {
            // Each element of a list counts its own lists. The lists of a field that is given twice are counted together,
            // because the decoder joins them.
            let outer = field.list.map(|_| self.seen.clone());
            self.message(inner, content)?;
            if let Some(outer) = outer {
                self.seen = outer;
            }
        }
        self.path.pop();
        Ok(())
    }

    fn violation(&self, description: String) -> Stop {
        let steps = self.path.iter().map(|(name, index)| match index {
            Some(index) => format!("{name}[{index}]"),
            None => (*name).to_owned(),
        });
        let path = steps.collect::<Vec<_>>().join(".");
        Stop::Violation(Violation::new(path, description))
    }
}

#[cfg(test)]
#[path = "element_counts_tests.rs"]
mod tests;
