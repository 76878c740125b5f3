//! Who is connected, and who goes when there is no more room.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Connections that made room, and are not closed yet, at a time.
const CLOSING: usize = 32;

/// All open connections and calls, up to a limit of each.
pub(crate) struct Connections {
    most: usize,
    most_calls: usize,
    crowd: Mutex<Crowd>,
    /// One for each connection whose socket is there, whether it has a place or has lost it.
    sockets: Arc<Semaphore>,
}

#[derive(Default)]
struct Crowd {
    /// By serial number: the oldest first.
    peers: BTreeMap<u64, Peer>,
    next: u64,
    calls: usize,
}

struct Peer {
    phase: Phase,
    close: CancellationToken,
}

/// What a connection has shown of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing: its peer has not spoken HTTP/2 yet.
    Silent,
    /// No call is open, since then.
    Idle(Instant),
    /// So many calls are open.
    Busy(usize),
}

impl Connections {
    pub(crate) fn new(most: usize, most_calls: usize) -> Arc<Self> {
        Arc::new(Self {
            most,
            most_calls,
            crowd: Mutex::default(),
            sockets: Arc::new(Semaphore::new((most + CLOSING).min(Semaphore::MAX_PERMITS))),
        })
    }

    /// Connections that are open now.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.crowd().peers.len()
    }

    /// Waits until a socket more may be there: those that made room for others close within moments.
    pub(crate) async fn socket(&self) -> Option<Socket> {
        let permit = Arc::clone(&self.sockets).acquire_owned().await;
        permit.ok().map(Socket)
    }

    /// A place for a new connection. When all are taken, it is that of the oldest connection whose peer has said nothing,
    /// else that of the one that has been without a call for longest. None when every other connection has a call.
    pub(crate) fn admit(self: &Arc<Self>, socket: Option<Socket>) -> Option<Place> {
        let mut crowd = self.crowd();
        if crowd.peers.len() >= self.most && !crowd.shed() {
            return None;
        }
        let (serial, close) = (crowd.next, CancellationToken::new());
        crowd.next += 1;
        let peer = Peer {
            phase: Phase::Silent,
            close: close.clone(),
        };
        crowd.peers.insert(serial, peer);
        drop(crowd);
        Some(Place {
            connections: Arc::clone(self),
            serial,
            close,
            _socket: socket,
        })
    }

    /// Closes one connection that has no call, as when the system has no descriptor for another one.
    pub(crate) fn shed(&self) {
        self.crowd().shed();
    }

    fn crowd(&self) -> MutexGuard<'_, Crowd> {
        self.crowd.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Crowd {
    fn shed(&mut self) -> bool {
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
            peer.close.cancel();
        }
        true
    }
}

/// Leave for a socket to be there.
pub(crate) struct Socket(#[allow(dead_code, reason = "it is given back when dropped")] OwnedSemaphorePermit);

/// One connection's place; free when it is dropped.
pub(crate) struct Place {
    connections: Arc<Connections>,
    serial: u64,
    close: CancellationToken,
    _socket: Option<Socket>,
}

impl Place {
    /// Cancelled when the connection must make room for another.
    pub(crate) fn close(&self) -> CancellationToken {
        self.close.clone()
    }

    /// Its peer speaks HTTP/2.
    pub(crate) fn speaks(&self) {
        self.change(|phase| {
            if *phase == Phase::Silent {
                *phase = Phase::Idle(Instant::now());
            }
        });
    }

    /// A call is open until the result is dropped. None when there are too many, over all connections; one that
    /// `is_exempt` is there all the same.
    pub(crate) fn call(self: &Arc<Self>, is_exempt: bool) -> Option<OpenCall> {
        let mut crowd = self.connections.crowd();
        if crowd.calls >= self.connections.most_calls && !is_exempt {
            return None;
        }
        crowd.calls += 1;
        drop(crowd);
        self.change(|phase| {
            *phase = match *phase {
                Phase::Busy(calls) => Phase::Busy(calls + 1),
                Phase::Silent | Phase::Idle(_) => Phase::Busy(1),
            }
        });
        Some(OpenCall(Arc::clone(self)))
    }

    /// How long it may still stay without a call, if it may for `longest`; none when that is over.
    pub(crate) fn idle_time_left(&self, longest: Duration) -> Option<Duration> {
        let crowd = self.connections.crowd();
        let phase = crowd.peers.get(&self.serial).map(|peer| peer.phase);
        let idle = match phase {
            Some(Phase::Idle(since)) => since.elapsed(),
            _ => Duration::ZERO,
        };
        longest.checked_sub(idle).filter(|left| !left.is_zero())
    }

    fn change(&self, change: impl FnOnce(&mut Phase)) {
        if let Some(peer) = self.connections.crowd().peers.get_mut(&self.serial) {
            change(&mut peer.phase);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.crowd().peers.remove(&self.serial);
    }
}

/// An open call of a connection.
pub(crate) struct OpenCall(Arc<Place>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.connections.crowd().calls -= 1;
        self.0.change(|phase| {
            *phase = match *phase {
                Phase::Busy(calls) if calls > 1 => Phase::Busy(calls - 1),
                _ => Phase::Idle(Instant::now()),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_silent_one_goes_first_then_the_one_longest_without_a_call() {
        let connections = Connections::new(3, 10);
        let [talking, silent, late] = [(); 3].map(|()| Arc::new(connections.admit(None).unwrap()));
        talking.speaks();
        let fourth = Arc::new(connections.admit(None).unwrap());
        assert!(silent.close().is_cancelled());
        assert_eq!(connections.count(), 3);
        late.speaks();
        fourth.speaks();
        // One that has been busy counts from the end of its last call.
        drop(talking.call(false).unwrap());
        let fifth = connections.admit(None).unwrap();
        assert!(late.close().is_cancelled());
        assert!(!talking.close().is_cancelled() && !fourth.close().is_cancelled());
        drop(fifth);
        assert_eq!(connections.count(), 2);
    }

    #[test]
    fn connections_with_calls_stay() {
        let connections = Connections::new(2, 3);
        let [one, two] = [(); 2].map(|()| Arc::new(connections.admit(None).unwrap()));
        let calls = [&one, &one, &two].map(|place| place.call(false).unwrap());
        assert!(two.call(false).is_none(), "three calls are the limit");
        drop(two.call(true).unwrap());
        assert!(connections.admit(None).is_none());
        let [first, second, third] = calls;
        drop(first);
        assert!(
            connections.admit(None).is_none(),
            "one of two calls is still open"
        );
        drop(second);
        assert!(connections.admit(None).is_some());
        assert!(one.close().is_cancelled());
        drop(third);
    }

    #[test]
    fn a_connection_is_idle_from_its_last_call_on() {
        let connections = Connections::new(1, 10);
        let place = Arc::new(connections.admit(None).unwrap());
        let hour = Duration::from_secs(3600);
        let call = place.call(false).unwrap();
        assert_eq!(place.idle_time_left(hour), Some(hour));
        assert_eq!(place.idle_time_left(Duration::ZERO), None);
        drop(call);
        assert!(place.idle_time_left(hour).is_some_and(|left| left <= hour));
        std::thread::yield_now();
        assert_eq!(place.idle_time_left(Duration::from_nanos(1)), None);
    }
}
