//! What the network between the service and its peers lost. The calls hold the time it took to send
//! it again, so that a slow network looks like a slow peer unless it is said.

use evidence::{Coverage, Peer};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use wire::Resent;

/// Peers remembered.
const PEERS: usize = 4096;

/// What was sent again since the session began, by peer.
#[derive(Debug, Default)]
pub(crate) struct Network {
    resent: BTreeMap<SocketAddr, Resent>,
}

impl Network {
    /// Adds what a window showed of the service's `peers` (strangers' connections may be captured
    /// as well); when that is anything, a line for the report.
    pub(crate) fn tell(
        &mut self,
        news: &HashMap<SocketAddr, Resent>,
        peers: &[Peer],
    ) -> Option<Coverage> {
        // Loopback loses nothing: there the other side was busy.
        let known = |server: &SocketAddr| {
            !server.ip().is_loopback() && peers.iter().any(|p| is_at(p, *server))
        };
        let mut fresh = false;
        for (server, resent) in news.iter().filter(|n| known(n.0)) {
            if self.resent.len() < PEERS || self.resent.contains_key(server) {
                self.resent.entry(*server).or_default().add(*resent);
                fresh = true;
            }
        }
        let (server, worst) = self.resent.iter().max_by_key(|(_, r)| r.waited)?;
        let all: u64 = self.resent.values().map(|r| r.packets).sum();
        let name = peers.iter().find(|p| is_at(p, *server));
        let name = name.map_or_else(|| server.to_string(), |p| p.name.clone());
        let others = match all - worst.packets {
            0 => String::new(),
            n => format!(", {n} more to and from other peers"),
        };
        let reason = format!(
            "the network lost {} packets to and from {name} that were sent again{others}: at least \
             {:.0} ms of the time of its calls in this run is the network's, not the peer's",
            worst.packets,
            worst.waited.as_ms(),
        );
        let hint = format!("ss -ti dst {} shows the connections' retransmissions", server.ip());
        fresh.then(|| Coverage::partial("network", reason, hint))
    }
}

fn is_at(peer: &Peer, server: SocketAddr) -> bool {
    peer.port == server.port() && peer.address.parse::<IpAddr>().is_ok_and(|ip| server.ip() == ip)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evidence::{Nanos, Protocol};

    #[test]
    fn sums_are_told_with_the_worst_peer() {
        let mut network = Network::default();
        let resent = |packets, ms: u64| Resent { packets, waited: Nanos(ms * 1_000_000) };
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (a, b, stranger) = (at("10.0.0.2:5432"), at("10.0.0.3:80"), at("10.0.0.4:80"));
        let peer = |server: SocketAddr| Peer {
            name: format!("opaque {server}"),
            address: server.ip().to_string(),
            port: server.port(),
            protocol: Protocol::Opaque,
            connections: 1,
            process: None,
        };
        let peers = [peer(a), peer(b)];
        assert_eq!(network.tell(&HashMap::from([(stranger, resent(9, 9_000))]), &peers), None);
        network.tell(&HashMap::from([(a, resent(2, 400))]), &peers);
        let news = HashMap::from([(a, resent(1, 200)), (b, resent(5, 10))]);
        let reason = network.tell(&news, &peers).unwrap().reason;
        assert!(reason.starts_with("the network lost 3 packets to and from opaque 10.0.0.2:5432"));
        assert!(reason.contains("5 more") && reason.contains("600 ms"), "{reason}");
        assert_eq!(network.tell(&HashMap::new(), &peers), None);
    }
}
