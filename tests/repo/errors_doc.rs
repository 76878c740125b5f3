//! docs/errors.md lists exactly the reasons that the server can give, with their codes.

use babelward::rpc::Reason;
use tonic::Code;

#[test]
fn the_table_of_errors_is_the_servers() {
    let text = include_str!("../../docs/errors.md");
    let documented: Vec<(String, String)> = text
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| {
            let mut cells = line
                .split('|')
                .skip(1)
                .map(|cell| cell.trim().trim_matches('`').to_owned());
            (cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    let ours: Vec<(String, String)> = Reason::ALL
        .iter()
        .map(|reason| (reason.name().to_owned(), name(reason.code()).to_owned()))
        .collect();
    assert_eq!(documented.len(), Reason::ALL.len());
    for row in &ours {
        assert!(documented.contains(row), "docs/errors.md lacks {row:?}");
    }
    for row in &documented {
        assert!(
            ours.contains(row),
            "docs/errors.md has {row:?}, which the server never gives"
        );
    }
}

fn name(code: Code) -> &'static str {
    match code {
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::Cancelled => "CANCELLED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Internal => "INTERNAL",
        Code::Unimplemented => "UNIMPLEMENTED",
        other => panic!("no reason should have {other:?}"),
    }
}
