//! Bodies of JSON at the HTTP port.

use std::sync::LazyLock;

use babelward::{
    http::BodyChecks,
    rpc::{Limits, RequestChecks},
};

/// gRPC's number for a request that is the caller's to mend.
const INVALID_ARGUMENT: i32 = 3;

/// gRPC's number for a defect of the server.
const INTERNAL: i32 = 13;

static BODIES: LazyLock<BodyChecks> =
    LazyLock::new(|| BodyChecks::new().expect("the program's own descriptors"));

static CHECKS: LazyLock<RequestChecks> =
    LazyLock::new(|| RequestChecks::new(Limits::default()).expect("the program's own descriptors"));

/// A path of the HTTP port, the end of a line, and the body of a request: a refusal is the caller's to mend and says why; what is
/// accepted is the message of its call, which that accepts or refuses, and nothing else.
pub(crate) fn bodies(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else {
        return;
    };
    let (path, body) = (&input[..end], &input[end + 1..]);
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    match BODIES.read(path, body) {
        None => {}
        Some(Err(status)) => {
            assert_eq!(i32::from(status.code()), INVALID_ARGUMENT, "{status}");
            assert!(!status.message().is_empty());
        }
        Some(Ok(call)) if call.path.starts_with("/babelward.v1.") => {
            let found = CHECKS.check(&call.path, &call.message);
            let found = found.unwrap_or_else(|| panic!("{} does not take what {path} makes", call.path));
            if let Err(status) = found {
                assert_ne!(i32::from(status.code()), INTERNAL, "internal: {status}");
            }
        }
        // The health check.
        Some(Ok(_)) => {}
    }
}
