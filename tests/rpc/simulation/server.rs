//! A simulated server: the real services and registry, and the real engine with its turns taken by the simulation.

use std::{sync::Arc, time::Duration};

use babelward::{
    auth::{QuotaLimits, Quotas},
    engine::{CallerTurns, Clock, Driver},
    random::{Random, mix},
    registry::Registry,
    rpc::{self, Listeners, Security, ServeError, ServerOptions},
};
use tokio::{
    sync::oneshot,
    task::{JoinHandle, spawn_blocking, yield_now},
    time::{Instant, sleep},
};

use super::network::Network;
use crate::{
    rig::{self, Setup, TARGET},
    scripted::Gate,
};

/// Blocks of a model's pool: few, so that sequences are preempted now and then.
const BLOCKS: usize = 400;

/// What a server allows.
#[derive(Debug, Clone)]
pub struct Allowed {
    pub queue_items: usize,
    pub calls: usize,
    pub requests_per_minute: Option<u32>,
}

/// One life of a server, from its start to its end.
pub struct Life {
    pub registry: Arc<Registry>,
    turns: Arc<CallerTurns>,
    ticking: JoinHandle<()>,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), ServeError>>,
}

impl Life {
    /// Starts a server of this name. Loading its models takes no time of the simulation.
    pub async fn begin(network: &Network, name: &str, allowed: &Allowed, seed: u64) -> Self {
        let turns = Arc::new(CallerTurns::default());
        let setup = Setup {
            queue_items: allowed.queue_items,
            blocks: BLOCKS,
            context: 2048,
            clock: Clock::new(|| Instant::now().into_std()),
            driver: Driver::Caller(Arc::clone(&turns)),
            ..Setup::default()
        };
        let loading = spawn_blocking(move || rig::registry(&setup, &Gate::default()));
        while !loading.is_finished() {
            turns.turn();
            yield_now().await;
        }
        let registry = loading.await.unwrap();
        let limits = QuotaLimits {
            requests: allowed.requests_per_minute,
            tokens: None,
        };
        let listeners = Listeners {
            security: Security {
                quotas: Quotas::new(limits, []),
                ..Security::default()
            },
            ..Listeners::unprotected(network.listen(name))
        };
        let mut options = ServerOptions::default();
        options.limits.calls = allowed.calls;
        let (stop, stopped) = oneshot::channel();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(rpc::serve_on(listeners, Arc::clone(&registry), options, shutdown));
        Self {
            ticking: tokio::spawn(tick(Arc::clone(&turns), seed)),
            registry,
            turns,
            stop: Some(stop),
            serving,
        }
    }

    /// Whether nothing is queued or runs, and every block but the pinned ones is free.
    pub fn is_idle(&self) -> bool {
        let stats = self.registry.stats(self.registry.find(TARGET).unwrap());
        stats.queued == 0
            && stats.running == 0
            && stats.free_blocks + stats.pinned_blocks == stats.total_blocks
    }

    /// Ends as a process does that is killed.
    pub fn kill(self, network: &Network, name: &str) {
        network.close(name);
        self.serving.abort();
        self.end();
    }

    /// Ends as a process does that is asked to, and returns how long that took.
    pub async fn drain(mut self, network: &Network, name: &str) -> Duration {
        let began = Instant::now();
        let _ = self.stop.take().unwrap().send(());
        (&mut self.serving).await.unwrap().unwrap();
        let took = began.elapsed();
        network.close(name);
        self.end();
        took
    }

    fn end(self) {
        self.ticking.abort();
        assert!(self.registry.shutdown(), "the engine does not end");
        assert!(!self.turns.turn(), "an engine that has ended takes turns");
    }
}

/// Takes the engine's turns. A turn submits a step or waits for one, so that the time between two turns is the time that
/// the device takes.
async fn tick(turns: Arc<CallerTurns>, seed: u64) {
    let mut number = 0;
    loop {
        let mut random = Random::new(mix(seed ^ number));
        number += 1;
        let busy = turns.turn();
        let pause = if busy { 1 + random.bits() % 8 } else { 10 };
        sleep(Duration::from_millis(pause)).await;
    }
}
