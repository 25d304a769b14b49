//! Who a client is, as far as its address tells, and how many connections it may have at once.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A client: an IPv4 address, or an IPv6 network of 64 bits, which is the least that one household or one machine
/// gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Client {
    /// An address.
    V4([u8; 4]),
    /// The first half of an address.
    V6([u8; 8]),
}

impl Client {
    /// Whose address this is.
    pub(crate) fn of(address: IpAddr) -> Client {
        match address.to_canonical() {
            IpAddr::V4(address) => Client::V4(address.octets()),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Client::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Client::V4(octets) => Ipv4Addr::from(octets).fmt(f),
            Client::V6([a, b, c, d, e, g, h, i]) => {
                let network = Ipv6Addr::from([a, b, c, d, e, g, h, i, 0, 0, 0, 0, 0, 0, 0, 0]);
                write!(f, "{network}/64")
            }
        }
    }
}

/// How many connections each client has. It knows only clients that have one, so all connections bound its size.
#[derive(Debug)]
pub(crate) struct Clients {
    most: u32,
    connected: Mutex<HashMap<Client, u32>>,
}

/// One connection of a client; dropped when it ends.
#[derive(Debug)]
pub(crate) struct Guard {
    clients: Arc<Clients>,
    client: Client,
}

impl Clients {
    /// Each client may have `most` connections at once.
    pub(crate) fn new(most: u32) -> Clients {
        Clients { most, connected: Mutex::default() }
    }

    /// Counts a connection of `client` as long as the guard lives; none if it has as many as it may have.
    pub(crate) fn enter(self: &Arc<Self>, client: Client) -> Option<Guard> {
        let mut connected = self.connected();
        let now = connected.get(&client).copied().unwrap_or(0);
        if now >= self.most {
            return None;
        }
        connected.insert(client, now + 1);
        Some(Guard { clients: self.clone(), client })
    }

    fn connected(&self) -> MutexGuard<'_, HashMap<Client, u32>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut connected = self.clients.connected();
        match connected.get_mut(&self.client) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(connected.remove(&self.client)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(address: &str) -> Client {
        Client::of(address.parse().unwrap())
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_64_bits() {
        assert_eq!(client("::ffff:192.0.2.1"), client("192.0.2.1"));
        assert_ne!(client("192.0.2.1"), client("192.0.2.2"));
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(client("192.0.2.1").to_string(), "192.0.2.1");
        assert_eq!(client("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn a_client_has_at_most_so_many_connections_and_others_are_not_concerned() {
        let clients = Arc::new(Clients::new(2));
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        let first = clients.enter(one).unwrap();
        let _second = clients.enter(one).unwrap();
        assert!(clients.enter(one).is_none());
        assert!(clients.enter(one).is_none(), "being refused does not count");
        let others = clients.enter(other).unwrap();
        drop(first);
        let _third = clients.enter(one).unwrap();
        assert!(clients.enter(one).is_none());
        drop(others);
        assert_eq!(clients.connected().len(), 1, "who has no connection is not known");
    }

    #[test]
    fn nothing_is_lost_when_many_come_and_go_at_once() {
        let clients = Arc::new(Clients::new(3));
        let most_seen = std::sync::atomic::AtomicU32::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let (clients, most_seen) = (&clients, &most_seen);
                scope.spawn(move || {
                    for n in 0..2_000_u32 {
                        let client = Client::V4([192, 0, 2, (n % 3) as u8 + thread % 2]);
                        let guard = clients.enter(client);
                        let count = clients.connected().get(&client).copied().unwrap_or(0);
                        most_seen.fetch_max(count, std::sync::atomic::Ordering::Relaxed);
                        drop(guard);
                    }
                });
            }
        });
        assert!((1..=3).contains(&most_seen.into_inner()));
        assert!(clients.connected().is_empty());
    }
}
