//! Violated fields in a status: as details for programs, and in its message for people, since many clients show
//! nothing but the message.
//!
//! Both travel in headers, and clients refuse headers from 8 KiB on: 3 KiB of details are 4 KiB in base64, the
//! message is there twice (the details repeat it), and the rest is small.

use super::error::Violation;

/// Violations are details up to this many bytes; the rest is counted.
const LISTED_BYTES: usize = 3 << 10;

/// What protobuf adds to a violation: three tags and three lengths.
const FRAME_BYTES: usize = 9;

/// The message has at most this many violations, and counts the rest.
const NAMED: usize = 8;

/// Bytes of violations in the message, as the header has them.
const NAMED_BYTES: usize = 1 << 10;

/// The violations that are details of the status, with one that counts the rest.
pub(super) fn listed(violations: &[Violation]) -> Vec<Violation> {
    let size = |violation: &Violation| violation.field.len() + violation.description.len() + FRAME_BYTES;
    let (mut list, rest) = fitting(violations, LISTED_BYTES, size);
    if rest > 0 {
        list.push(Violation::new("", format!("and {rest} more")));
    }
    list
}

/// What goes into the message after a colon: `field: reason; field: reason; and 3 more`.
pub(super) fn named(violations: &[Violation]) -> String {
    let few = &violations[..violations.len().min(NAMED)];
    let (list, left_out) = fitting(few, NAMED_BYTES, |violation| header_bytes(&sentence(violation)));
    let rest = left_out + (violations.len() - few.len());
    let mut parts: Vec<String> = list.iter().map(sentence).collect();
    if rest > 0 {
        parts.push(format!("and {rest} more"));
    }
    parts.join("; ")
}

/// The first violations, of which the sizes together are at most `limit` (one at least), and how many are left.
fn fitting(
    violations: &[Violation],
    limit: usize,
    size: impl Fn(&Violation) -> usize,
) -> (Vec<Violation>, usize) {
    let mut bytes = 0;
    let mut list = Vec::new();
    for violation in violations {
        bytes += size(violation);
        if bytes > limit && !list.is_empty() {
            break;
        }
        list.push(violation.clone());
    }
    let rest = violations.len() - list.len();
    (list, rest)
}

fn sentence(violation: &Violation) -> String {
    if violation.field.is_empty() {
        violation.description.clone()
    } else {
        format!("{}: {}", violation.field, violation.description)
    }
}

/// A message's bytes once it is percent-encoded, or a few more.
fn header_bytes(text: &str) -> usize {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.,:;=/()[]".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { 1 } else { 3 }).sum()
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderMap;
    use tonic_types::StatusExt as _;

    use super::*;
    use crate::rpc::error::ServiceError;

    /// As many as asked for, each of about this many bytes.
    fn violations(count: usize, bytes: usize) -> Vec<Violation> {
        let description = "is wrong ".repeat(bytes.div_ceil(9));
        (0..count)
            .map(|n| Violation::new(format!("f[{n}]"), description.trim_end()))
            .collect()
    }

    #[test]
    fn the_message_says_what_is_wrong_with_each_field() {
        let two = vec![
            Violation::new("conversation.messages[0].content", "must have 1..=9 bytes, has 0"),
            Violation::new("model", "must have 0..=128 bytes, has 200"),
        ];
        let text = "conversation.messages[0].content: must have 1..=9 bytes, has 0; \
                    model: must have 0..=128 bytes, has 200";
        let status = ServiceError::InvalidFields(two.clone()).to_status("r1");
        assert_eq!(status.message(), format!("invalid fields: {text}"));
        assert_eq!(
            ServiceError::InvalidFields(two.clone()).to_item().message,
            status.message()
        );
        let shape = ServiceError::ConversationShape(two).to_status("r1");
        assert_eq!(
            shape.message(),
            format!("the conversation has a shape that the model does not take: {text}")
        );
    }

    #[test]
    fn what_does_not_fit_the_message_is_counted_there() {
        let message = named(&violations(12, 9));
        assert!(
            message.starts_with("f[0]: is wrong; f[1]: is wrong; "),
            "{message}"
        );
        assert!(
            message.ends_with("; f[7]: is wrong; and 4 more"),
            "eight and a count: {message}"
        );
        let message = named(&violations(5, 600));
        assert!(
            message.len() < NAMED_BYTES && message.ends_with("; and 4 more"),
            "{message}"
        );
        assert_eq!(named(&violations(8, 9)).matches("is wrong").count(), 8);
        assert_eq!(named(&[Violation::new("", "is wrong")]), "is wrong");
    }

    #[test]
    fn details_are_complete_where_they_fit_and_end_with_a_count_where_not() {
        let status = ServiceError::InvalidFields(violations(20, 9)).to_status("r1");
        let details = status.get_error_details();
        assert_eq!(details.bad_request().unwrap().field_violations.len(), 20);
        assert_eq!(details.request_info().unwrap().request_id, "r1");

        let status = ServiceError::InvalidFields(violations(10_000, 9)).to_status("r1");
        let details = status.get_error_details();
        let list = &details.bad_request().unwrap().field_violations;
        assert!(list.len() > 100, "{}", list.len());
        assert_eq!(
            list.last().unwrap().description,
            format!("and {} more", 10_000 - (list.len() - 1))
        );
    }

    /// The size of a header list is that of names and values and 32 for each.
    #[test]
    fn no_status_is_larger_than_the_headers_that_clients_take() {
        let id = "x".repeat(128);
        for bytes in [1, 40, 200, 600, 1000] {
            for error in [ServiceError::InvalidFields, ServiceError::ConversationShape] {
                let status = error(violations(5000, bytes)).to_status(&id);
                let mut headers = HeaderMap::new();
                status.add_header(&mut headers).unwrap();
                headers.insert("content-type", "application/grpc".parse().unwrap());
                headers.insert("x-request-id", id.parse().unwrap());
                let size: usize = headers
                    .iter()
                    .map(|(name, value)| name.as_str().len() + value.len() + 32)
                    .sum();
                assert!(size < 8 << 10, "{size} bytes for violations of {bytes} bytes");
            }
        }
    }
}
