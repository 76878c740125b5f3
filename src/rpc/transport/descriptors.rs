//! The limit on open files. Every connection is one, and model files and the metrics port need some too.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that connections leave free for model files, logs, connections of the metrics port, and connections that
/// are being closed.
const RESERVED: u64 = 128;

/// Raises the process's limit on open files to the maximum that the system allows. If the system refuses, the limit stays
/// as it is.
pub(crate) fn raise_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit on open files could not be raised");
    }
}

/// How many connections may be open: `wanted`, or fewer if the process may not open that many files.
pub(crate) fn connection_limit(wanted: usize) -> usize {
    within(wanted, getrlimit(Resource::Nofile).current)
}

/// The same when `descriptors` files may be open; `None` is no limit.
fn within(wanted: usize, descriptors: Option<u64>) -> usize {
    let Some(descriptors) = descriptors else {
        return wanted;
    };
    // When there are few descriptors, connections get half of them.
    let free = descriptors.saturating_sub(RESERVED).max(descriptors / 2).max(1);
    usize::try_from(free).map_or(wanted, |free| wanted.min(free))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_files() {
        assert_eq!(within(1024, None), 1024);
        assert_eq!(within(1024, Some(1 << 20)), 1024);
        assert_eq!(within(1024, Some(1024)), 896);
        assert_eq!(within(1024, Some(200)), 100);
        assert_eq!(within(1024, Some(1)), 1);
    }
}
