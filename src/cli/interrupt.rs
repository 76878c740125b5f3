//! Ctrl-C, for commands that keep what they have done.

/// Ready when the user presses Ctrl-C; at once where that cannot be noticed.
pub(super) async fn interrupted() {
    // An error means that there is no handler for the signal: then a command must not go on forever.
    let _ = tokio::signal::ctrl_c().await;
}
