//! Files that may be replaced while the server runs: certificates, keys and tokens' keys. A new file that is not valid
//! leaves the old content in force, and the log says so.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

/// What came of looking at files again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reloaded {
    /// The files are those that were looked at last.
    Unchanged,
    /// The files have new content, which is in force from now on.
    Replaced,
    /// The files have changed and cannot be used, for this reason. The earlier content stays in force.
    Kept(String),
}

/// Something that is read from files and can be read again.
pub trait Reload: Send + Sync {
    /// What the files are, for the log.
    fn name(&self) -> &'static str;

    /// Reads the files again if they have changed. It reads files, so it may block for a moment.
    fn reload(&self) -> Reloaded;
}

/// Looks at the files of all `things` again and again: every `period`, and whenever `asked` receives a message. The first
/// look is one period from now. Returns when nobody can ask any more.
pub async fn keep_current(things: Vec<Arc<dyn Reload>>, period: Duration, mut asked: mpsc::Receiver<()>) {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once, and the files have just been read.
    ticks.tick().await;
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            message = asked.recv() => match message {
                Some(()) => tracing::info!("certificates, keys and token keys are read again"),
                None => return,
            },
        }
        for thing in &things {
            let thing = Arc::clone(thing);
            // Nothing is lost if the thread fails: the earlier content stays in force.
            let _ = tokio::task::spawn_blocking(move || look(thing.as_ref())).await;
        }
    }
}

fn look(thing: &dyn Reload) {
    let what = thing.name();
    let outcome = match thing.reload() {
        Reloaded::Unchanged => return,
        Reloaded::Replaced => {
            tracing::info!(what, "a file has changed, and its new content is in force");
            "replaced"
        }
        Reloaded::Kept(reason) => {
            tracing::warn!(
                what,
                reason,
                "a file has changed and cannot be used; the earlier content stays in force"
            );
            "kept"
        }
    };
    metrics::counter!("babelward_reloads_total", "what" => what, "outcome" => outcome).increment(1);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Reload for Counted {
        fn name(&self) -> &'static str {
            "counted"
        }

        fn reload(&self) -> Reloaded {
            self.0.fetch_add(1, Ordering::AcqRel);
            Reloaded::Unchanged
        }
    }

    #[tokio::test(start_paused = true)]
    async fn files_are_looked_at_every_period_and_when_asked() {
        let counted = Arc::new(Counted::default());
        let (ask, asked) = mpsc::channel(1);
        let things: Vec<Arc<dyn Reload>> = vec![Arc::clone(&counted) as Arc<dyn Reload>];
        let task = tokio::spawn(keep_current(things, Duration::from_secs(3600), asked));
        ask.send(()).await.unwrap();
        while counted.0.load(Ordering::Acquire) < 1 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_secs(3601)).await;
        while counted.0.load(Ordering::Acquire) < 2 {
            tokio::task::yield_now().await;
        }
        drop(ask);
        task.await.unwrap();
    }
}
