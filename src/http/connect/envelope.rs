//! The envelope of a message of a stream: a byte of flags, four of the message's length, and the message.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use serde_json::json;

use super::details::error;
use crate::http::status::Refusal;

/// Bytes before a message: its flags and its length.
const PREFIX: usize = 5;

/// The flag of a message that is compressed.
pub(super) const COMPRESSED: u8 = 1;

/// The flag of what ends a stream of answers, and is no message of the call.
pub(super) const END_STREAM: u8 = 2;

/// A message in its envelope.
pub(super) fn seal(flags: u8, message: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(PREFIX + message.len());
    sealed.put_u8(flags);
    // No message is so long: its text has a limit, and an answer was encoded with such a length already.
    sealed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    sealed.put_slice(message);
    sealed.freeze()
}

/// Takes the first message out of what has come of an answer, which is not compressed. `None` if it is incomplete.
pub(super) fn open(bytes: &mut BytesMut) -> Option<Bytes> {
    let ([_, length @ ..], rest) = bytes.split_first_chunk::<PREFIX>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    if rest.len() < length {
        return None;
    }
    bytes.advance(PREFIX);
    Some(bytes.split_to(length).freeze())
}

/// What ends a stream of answers. It is JSON, whatever the messages are.
pub(super) fn end(refusal: Option<&Refusal>) -> Bytes {
    let says = match refusal {
        Some(refusal) => json!({"error": error(refusal)}),
        None => json!({}),
    };
    seal(END_STREAM, says.to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    #[test]
    fn messages_are_taken_one_by_one_as_they_come() {
        let sent = [seal(0, b"one"), seal(0, b""), seal(0, b"three")].concat();
        let (mut bytes, mut taken) = (BytesMut::new(), Vec::new());
        for byte in sent {
            bytes.put_u8(byte);
            while let Some(message) = open(&mut bytes) {
                taken.push(message);
            }
        }
        assert_eq!(taken, ["one", "", "three"]);
        assert!(bytes.is_empty());
    }

    #[test]
    fn the_end_says_nothing_or_the_error() {
        assert_eq!(end(None), b"\x02\0\0\0\x02{}".as_slice());
        let refusal = Refusal::from(Status::not_found("no such model"));
        let end = end(Some(&refusal));
        assert_eq!(end[0], END_STREAM);
        let says: serde_json::Value = serde_json::from_slice(&end[PREFIX..]).unwrap();
        assert_eq!(
            says,
            json!({"error": {"code": "not_found", "message": "no such model"}})
        );
    }
}
