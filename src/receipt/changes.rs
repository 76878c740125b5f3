//! What differs between two receipts.

use std::fmt;

use serde_json::Value;

use super::{body::ReceiptBody, exact::ulps};

/// What may differ without the verdict being another one: who computed it where, by which version.
const CIRCUMSTANCES: [&str; 6] = [
    "computed_by.model",
    "computed_by.policy",
    "computed_by.instruction_set",
    "computed_by.device",
    "computed_by.determinism",
    "computed_by.server_version",
];

/// Something that is not as it was.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Change {
    /// Its path in the receipt, such as `computed_by.model_digest`.
    pub what: String,
    /// What the receipt says, as JSON; null where it says nothing.
    pub was: Value,
    /// What it is now; null where there is nothing.
    pub is: Value,
    /// For numbers, how many 64-bit numbers lie between the two, one of them counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ulps: Option<u64>,
    /// Whether it makes the verdict, the decision, or what they were computed with another one. Where it does not, the change is
    /// one of circumstances: machine, server version, names.
    pub matters: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, was, is, .. } = self;
        match self.ulps {
            Some(ulps) => {
                let unit = if ulps == 1 { "ulp" } else { "ulps" };
                write!(f, "{what} differs by {ulps} {unit}: was {was}, is {is}")
            }
            None => write!(f, "{what} differs: was {was}, is {is}"),
        }
    }
}

/// Everything that differs, in the order of the receipt. Texts that a receipt keeps are not compared: their digest is.
pub fn changes(was: &ReceiptBody, is: &ReceiptBody) -> Vec<Change> {
    let json = |body: &ReceiptBody| {
        let mut body = body.clone();
        body.input.messages = None;
        serde_json::to_value(body).unwrap_or_default()
    };
    let mut found = Vec::new();
    compare("", &json(was), &json(is), &mut found);
    found
}

fn compare(path: &str, was: &Value, is: &Value, found: &mut Vec<Change>) {
    if was == is {
        return;
    }
    let mut change = |ulps: Option<u64>, was: &Value, is: &Value| {
        found.push(Change {
            what: path.to_owned(),
            was: was.clone(),
            is: is.clone(),
            ulps,
            matters: !CIRCUMSTANCES.contains(&path),
        });
    };
    match (was, is) {
        (Value::Object(old), Value::Object(new)) => {
            if let (Some(a), Some(b)) = (number(was), number(is)) {
                change(Some(ulps(a, b)), &old["value"], &new["value"]);
                return;
            }
            let below = |key: &str| match path {
                "" => key.to_owned(),
                path => format!("{path}.{key}"),
            };
            for (key, was) in old {
                compare(&below(key), was, new.get(key).unwrap_or(&Value::Null), found);
            }
            for (key, is) in new.iter().filter(|(key, _)| !old.contains_key(*key)) {
                compare(&below(key), &Value::Null, is, found);
            }
        }
        _ => change(None, was, is),
    }
}

/// The number that an [`super::Exact`] is.
fn number(value: &Value) -> Option<f64> {
    value.get("bits")?;
    value.get("value")?.as_f64()
}
