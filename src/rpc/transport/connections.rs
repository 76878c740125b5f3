//! The open connections, and which of them is evicted when there is no room for another.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::rpc::clock::now;

/// Most evicted connections that are not closed yet.
const CLOSING: usize = 32;

/// Most open health checks of one connection.
const CHECKS: usize = 8;

/// All open connections and calls, up to a limit of each.
pub(crate) struct Connections {
    most: usize,
    most_calls: usize,
    peers: Mutex<PeerTable>,
    /// One permit for each open socket, whether its connection is admitted or evicted.
    sockets: Arc<Semaphore>,
}

/// The peers of all admitted connections.
#[derive(Default)]
struct PeerTable {
    /// Peers by serial number, so the oldest is first.
    peers: BTreeMap<u64, Peer>,
    next: u64,
    calls: usize,
}

struct Peer {
    phase: Phase,
    /// Open health checks.
    checks: usize,
    /// Cancelled when the connection is evicted.
    evicted: CancellationToken,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its peer has not spoken HTTP yet.
    Silent,
    /// It has had no open call since this moment.
    Idle(Instant),
    /// This many calls are open.
    Busy(usize),
}

impl Connections {
    pub(crate) fn new(most: usize, most_calls: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_calls,
            peers: Mutex::default(),
            sockets: Arc::new(Semaphore::new((most + CLOSING).min(Semaphore::MAX_PERMITS))),
        })
    }

    /// Number of admitted connections.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.table().peers.len()
    }

    /// Waits until one more socket may be open. Evicted connections close theirs within moments.
    pub(crate) async fn acquire_socket(&self) -> Option<SocketPermit> {
        let permit = Arc::clone(&self.sockets).acquire_owned().await;
        permit.ok().map(SocketPermit)
    }

    /// Admits a new connection. When there are as many as may be, another is evicted for it: the oldest whose peer has not
    /// spoken, otherwise the one that has been without a call for longest. `None` when every other connection has a call.
    pub(crate) fn admit(self: &Arc<Self>, socket: Option<SocketPermit>) -> Option<ConnectionPermit> {
        let mut table = self.table();
        if table.peers.len() >= self.most && !table.evict_one() {
            return None;
        }
        let (serial, evicted) = (table.next, CancellationToken::new());
        table.next += 1;
        let peer = Peer {
            phase: Phase::Silent,
            checks: 0,
            evicted: evicted.clone(),
        };
        table.peers.insert(serial, peer);
        drop(table);
        metrics::gauge!("babelward_connections").increment(1);
        Some(ConnectionPermit {
            connections: Arc::clone(self),
            serial,
            evicted,
            _socket: socket,
        })
    }

    /// Evicts one connection that has no call, for example because the system has no descriptor for another.
    pub(crate) fn evict_one(&self) {
        self.table().evict_one();
    }

    fn table(&self) -> MutexGuard<'_, PeerTable> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PeerTable {
    /// Evicts one connection without a call. Returns `false` when there is none.
    fn evict_one(&mut self) -> bool {
        let mut silent = self.peers.iter().filter(|(_, peer)| peer.phase == Phase::Silent);
        let idle = self.peers.iter().filter_map(|(serial, peer)| match peer.phase {
            Phase::Idle(since) => Some((since, serial)),
            Phase::Silent | Phase::Busy(_) => None,
        });
        let chosen = silent
            .next()
            .map(|(serial, _)| serial)
            .or_else(|| idle.min().map(|(_, serial)| serial));
        let Some(serial) = chosen.copied() else {
            return false;
        };
        if let Some(peer) = self.peers.remove(&serial) {
            peer.evicted.cancel();
        }
        true
    }
}

/// What a call is to the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    /// It is counted, and its connection is not evicted meanwhile.
    Counted,
    /// A health check is answered however many calls are open, because a busy server is not unhealthy. Strangers may send it,
    /// so a connection with nothing else is evicted for others.
    HealthCheck,
}

/// Permits one open socket.
pub(crate) struct SocketPermit(
    #[allow(dead_code, reason = "it is released when dropped")] OwnedSemaphorePermit,
);

/// Permits one connection until it is dropped.
pub(crate) struct ConnectionPermit {
    connections: Arc<Connections>,
    serial: u64,
    evicted: CancellationToken,
    _socket: Option<SocketPermit>,
}

impl ConnectionPermit {
    /// Cancelled when the connection is evicted for another.
    pub(crate) fn evicted(&self) -> CancellationToken {
        self.evicted.clone()
    }

    /// The number of the connection. No other one of its listener has it.
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Records that the peer speaks HTTP/2.
    pub(crate) fn has_spoken(&self) {
        self.change(|phase| {
            if *phase == Phase::Silent {
                *phase = Phase::Idle(now());
            }
        });
    }

    /// Counts an open call until the result is dropped. `None` when there are too many over all connections, or too many
    /// health checks on this one.
    pub(crate) fn begin_call(self: &Arc<Self>, kind: CallKind) -> Option<OpenCall> {
        let mut table = self.connections.table();
        match kind {
            CallKind::Counted if table.calls >= self.connections.most_calls => return None,
            CallKind::Counted => {
                table.calls += 1;
                drop(table);
                self.change(|phase| {
                    *phase = match *phase {
                        Phase::Busy(calls) => Phase::Busy(calls + 1),
                        Phase::Silent | Phase::Idle(_) => Phase::Busy(1),
                    }
                });
            }
            CallKind::HealthCheck => {
                let peer = table.peers.get_mut(&self.serial)?;
                if peer.checks >= CHECKS {
                    return None;
                }
                peer.checks += 1;
            }
        }
        Some(OpenCall {
            connection: Arc::clone(self),
            kind,
        })
    }

    /// How much longer the connection may be without a call, if it may for `longest`; `None` when that time is over.
    pub(crate) fn idle_time_left(&self, longest: Duration) -> Option<Duration> {
        let table = self.connections.table();
        let phase = table.peers.get(&self.serial).map(|peer| peer.phase);
        let idle = match phase {
            Some(Phase::Idle(since)) => now().saturating_duration_since(since),
            _ => Duration::ZERO,
        };
        longest.checked_sub(idle).filter(|left| !left.is_zero())
    }

    fn change(&self, change: impl FnOnce(&mut Phase)) {
        if let Some(peer) = self.connections.table().peers.get_mut(&self.serial) {
            change(&mut peer.phase);
        }
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.connections.table().peers.remove(&self.serial);
        metrics::gauge!("babelward_connections").decrement(1);
    }
}

/// An open call of a connection.
pub(crate) struct OpenCall {
    connection: Arc<ConnectionPermit>,
    kind: CallKind,
}

impl OpenCall {
    pub(crate) fn kind(&self) -> CallKind {
        self.kind
    }

    /// The number of its connection.
    pub(crate) fn connection(&self) -> u64 {
        self.connection.serial()
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        let mut table = self.connection.connections.table();
        match self.kind {
            CallKind::Counted => {
                table.calls -= 1;
                drop(table);
                self.connection.change(|phase| {
                    *phase = match *phase {
                        Phase::Busy(calls) if calls > 1 => Phase::Busy(calls - 1),
                        _ => Phase::Idle(now()),
                    }
                });
            }
            CallKind::HealthCheck => {
                if let Some(peer) = table.peers.get_mut(&self.connection.serial) {
                    peer.checks -= 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_one_is_evicted_first_then_the_one_longest_without_a_call() {
        let connections = Connections::new(3, 10);
        let [talking, silent, late] = [(); 3].map(|()| Arc::new(connections.admit(None).unwrap()));
        talking.has_spoken();
        let fourth = Arc::new(connections.admit(None).unwrap());
        assert!(silent.evicted().is_cancelled());
        assert_eq!(connections.count(), 3);
        late.has_spoken();
        fourth.has_spoken();
        // A connection that was busy is idle from the end of its last call on.
        drop(talking.begin_call(CallKind::Counted).unwrap());
        let fifth = connections.admit(None).unwrap();
        assert!(late.evicted().is_cancelled());
        assert!(!talking.evicted().is_cancelled() && !fourth.evicted().is_cancelled());
        drop(fifth);
        assert_eq!(connections.count(), 2);
    }

    #[test]
    fn connections_with_calls_are_kept() {
        let connections = Connections::new(2, 3);
        let [one, two] = [(); 2].map(|()| Arc::new(connections.admit(None).unwrap()));
        let calls = [&one, &one, &two].map(|permit| permit.begin_call(CallKind::Counted).unwrap());
        assert!(
            two.begin_call(CallKind::Counted).is_none(),
            "three calls are the limit"
        );
        drop(two.begin_call(CallKind::HealthCheck).unwrap());
        assert!(connections.admit(None).is_none());
        let [first, second, third] = calls;
        drop(first);
        assert!(
            connections.admit(None).is_none(),
            "one of two calls is still open"
        );
        drop(second);
        assert!(connections.admit(None).is_some());
        assert!(one.evicted().is_cancelled());
        drop(third);
    }

    #[test]
    fn health_checks_do_not_keep_a_connection() {
        let connections = Connections::new(1, 1);
        let strange = Arc::new(connections.admit(None).unwrap());
        strange.has_spoken();
        let mut checks: Vec<_> = (0..CHECKS)
            .map(|_| strange.begin_call(CallKind::HealthCheck).unwrap())
            .collect();
        assert!(
            strange.begin_call(CallKind::HealthCheck).is_none(),
            "eight are the limit"
        );
        checks.pop();
        let again = strange.begin_call(CallKind::HealthCheck);
        assert!(again.is_some());
        // They take no place of a call either.
        let call = strange.begin_call(CallKind::Counted).unwrap();
        assert!(connections.admit(None).is_none(), "a call keeps its connection");
        drop(call);
        let next = connections.admit(None);
        assert!(next.is_some() && strange.evicted().is_cancelled());
        assert!(strange.begin_call(CallKind::HealthCheck).is_none());
        drop((checks, again));
        assert_eq!(connections.count(), 1);
    }

    #[test]
    fn a_connection_is_idle_from_its_last_call_on() {
        let connections = Connections::new(1, 10);
        let permit = Arc::new(connections.admit(None).unwrap());
        let hour = Duration::from_secs(3600);
        let call = permit.begin_call(CallKind::Counted).unwrap();
        assert_eq!(permit.idle_time_left(hour), Some(hour));
        assert_eq!(permit.idle_time_left(Duration::ZERO), None);
        drop(call);
        assert!(permit.idle_time_left(hour).is_some_and(|left| left <= hour));
        std::thread::yield_now();
        assert_eq!(permit.idle_time_left(Duration::from_nanos(1)), None);
    }
}
