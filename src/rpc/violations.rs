//! Writes the violations of a request into its status: as details for programs, and in the message for people, because many
//! clients show only the message.
//!
//! Both are sent in headers, and clients refuse headers of 8 KiB or more. 3 KiB of details are 4 KiB in base64, the message
//! is sent twice (the details repeat it), and the rest is small.

use super::error::Violation;

/// Most bytes of violations in the details. Further violations are only counted.
const DETAILS_BYTES: usize = 3 << 10;

/// Bytes that protobuf adds to a violation: three tags and three lengths.
const FRAME_BYTES: usize = 9;

/// Most violations in the message. Further ones are only counted.
const MESSAGE_VIOLATIONS: usize = 8;

/// Most bytes of violations in the message, as they are encoded in the header.
const MESSAGE_BYTES: usize = 1 << 10;

/// The violations for the details of the status, with one that counts the rest.
pub(super) fn for_details(violations: &[Violation]) -> Vec<Violation> {
    let size = |violation: &Violation| violation.field.len() + violation.description.len() + FRAME_BYTES;
    let (mut list, rest) = fitting(violations, DETAILS_BYTES, size);
    if rest > 0 {
        list.push(Violation::new("", format!("and {rest} more")));
    }
    list
}

/// The violations for the message: `field: reason; field: reason; and 3 more`.
pub(super) fn for_message(violations: &[Violation]) -> String {
    let few = &violations[..violations.len().min(MESSAGE_VIOLATIONS)];
    let (list, left_out) = fitting(few, MESSAGE_BYTES, |violation| header_bytes(&sentence(violation)));
    let rest = left_out + (violations.len() - few.len());
    let mut parts: Vec<String> = list.iter().map(sentence).collect();
    if rest > 0 {
        parts.push(format!("and {rest} more"));
    }
    parts.join("; ")
}

/// The first violations whose sizes together are at most `limit` (but at least one), and the number of those left out.
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

/// An upper bound of the bytes of a message when it is percent-encoded.
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

    /// This many violations, each of about this many bytes.
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
            format!("the conversation has a shape that the model does not accept: {text}")
        );
    }

    #[test]
    fn violations_that_do_not_fit_into_the_message_are_counted() {
        let message = for_message(&violations(12, 9));
        assert!(
            message.starts_with("f[0]: is wrong; f[1]: is wrong; "),
            "{message}"
        );
        assert!(
            message.ends_with("; f[7]: is wrong; and 4 more"),
            "eight and a count: {message}"
        );
        let message = for_message(&violations(5, 600));
        assert!(
            message.len() < MESSAGE_BYTES && message.ends_with("; and 4 more"),
            "{message}"
        );
        assert_eq!(for_message(&violations(8, 9)).matches("is wrong").count(), 8);
        assert_eq!(for_message(&[Violation::new("", "is wrong")]), "is wrong");
    }

    #[test]
    fn details_are_complete_if_they_fit_and_otherwise_end_with_a_count() {
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

    /// The size of a header list is that of its names and values, and 32 bytes for each header.
    #[test]
    fn no_status_is_larger_than_the_headers_that_clients_accept() {
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
