//! Which connections of the metrics port are open, and which one is closed for a new one. A peer that opens many closes its
//! own first, so that whoever reaches the port cannot keep Prometheus or a probe out.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
};

/// Most open connections. Each may hold an answer that its peer does not read, which is as long as all metrics.
pub(super) const CONNECTIONS: usize = 256;

/// Most open connections of one peer. A reading takes milliseconds, so more are no reader's.
pub(super) const PEER_CONNECTIONS: usize = 16;

/// The open connections, from the oldest to the newest.
pub(super) struct OpenConnections<C>(VecDeque<(IpAddr, C)>);

impl<C> OpenConnections<C> {
    pub(super) fn new() -> Self {
        Self(VecDeque::new())
    }

    /// Forgets the connections that have ended.
    pub(super) fn retain(&mut self, is_open: impl Fn(&C) -> bool) {
        self.0.retain(|(_, connection)| is_open(connection));
    }

    /// Makes room for a connection of this peer. Returns the one that is to be closed for it: where the peer has as many as it
    /// may have, its oldest; where there is no more room at all, the oldest of the peer that has the most.
    pub(super) fn make_room(&mut self, peer: IpAddr) -> Option<C> {
        let mut counts: HashMap<IpAddr, usize> = HashMap::new();
        for (of, _) in &self.0 {
            *counts.entry(*of).or_default() += 1;
        }
        let peer = counted_as(peer);
        let count = |of: &IpAddr| counts.get(of).copied().unwrap_or_default();
        let of = if count(&peer) >= PEER_CONNECTIONS {
            peer
        } else if self.0.len() >= CONNECTIONS {
            let most = counts.values().copied().max()?;
            self.0.iter().map(|(of, _)| *of).find(|of| count(of) == most)?
        } else {
            return None;
        };
        let oldest = self.0.iter().position(|(other, _)| *other == of)?;
        self.0.remove(oldest).map(|(_, connection)| connection)
    }

    /// Adds a connection of this peer.
    pub(super) fn push(&mut self, peer: IpAddr, connection: C) {
        self.0.push_back((counted_as(peer), connection));
    }
}

/// The address under which a peer is counted. Of IPv6, whoever has one address usually has all with the same first 64 bits.
fn counted_as(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opens a connection of this peer, with this number; the number of the one that is closed for it.
    fn open(connections: &mut OpenConnections<usize>, peer: &str, number: usize) -> Option<usize> {
        let peer = peer.parse().unwrap();
        let closed = connections.make_room(peer);
        connections.push(peer, number);
        assert!(connections.0.len() <= CONNECTIONS);
        closed
    }

    #[test]
    fn whoever_opens_too_many_closes_its_own() {
        let mut connections = OpenConnections::new();
        assert_eq!(open(&mut connections, "192.0.2.1", 1000), None);
        for number in 0..3 * PEER_CONNECTIONS {
            let closed = number.checked_sub(PEER_CONNECTIONS);
            // The same IPv4 address, as a listener for IPv6 sees it too.
            assert_eq!(open(&mut connections, "::ffff:192.0.2.2", number), closed);
        }
        for number in 0..2 * PEER_CONNECTIONS {
            let closed = number.checked_sub(PEER_CONNECTIONS);
            assert_eq!(
                open(&mut connections, &format!("2001:db8::{number:x}"), number),
                closed
            );
        }
        connections.retain(|number| *number == 1000);
        assert_eq!(connections.0.len(), 1);
    }

    #[test]
    fn when_there_is_no_room_the_peer_with_the_most_makes_it() {
        let mut connections = OpenConnections::new();
        open(&mut connections, "192.0.2.1", 1000);
        open(&mut connections, "192.0.2.2", 2000);
        open(&mut connections, "192.0.2.2", 2001);
        for number in 3..CONNECTIONS {
            let one_each = format!("198.51.{}.{}", 100 + number / 256, number % 256);
            assert_eq!(open(&mut connections, &one_each, number), None);
        }
        assert_eq!(open(&mut connections, "203.0.113.1", 5000), Some(2000));
        // Now all have one, and the oldest goes.
        assert_eq!(open(&mut connections, "203.0.113.2", 5001), Some(1000));
    }
}
