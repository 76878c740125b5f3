//! Ctrl-C and SIGTERM, for commands that keep what they have done.

use tokio::signal::unix::{SignalKind, signal};

/// Ready when the user presses Ctrl-C or the process is asked to end; at once where that cannot be noticed. As the first
/// process of a container, one that does not listen for SIGTERM would not end by it.
pub(super) async fn interrupted() {
    // An error means that there is no handler for the signal: then a command must not go on forever.
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
