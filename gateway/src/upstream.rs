//! A service behind the gateway: where it is, which of its addresses work, how much it is asked at once, and whether a
//! request that failed is sent again. Knows nothing of pingora; time is handed in.

mod address;
mod endpoint;
mod health;
mod retry;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;

use self::address::{Address, Policy};
pub use self::endpoint::Endpoint;
use self::retry::Budget;
pub(crate) use self::retry::{Failure, MAX_RETRIES, Tried};
use crate::settings::UpstreamSettings;

/// How often names are resolved anew.
const REFRESH: Duration = Duration::from_secs(10);

/// What is counted of one service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counters {
    /// Addresses ejected because requests failed.
    pub(crate) ejections: Counter,
    /// Requests sent once more.
    pub(crate) retries: Counter,
    /// Addresses that are neither down nor ejected now.
    pub(crate) healthy: Gauge,
    /// Connections made.
    pub(crate) connected: Counter,
    /// Requests sent on a kept connection.
    pub(crate) reused: Counter,
}

/// One service.
#[derive(Debug)]
pub(crate) struct Upstream {
    name: String,
    endpoints: Vec<Endpoint>,
    admin_port: u16,
    health_interval: Option<Duration>,
    policy: Policy,
    max_in_flight: usize,
    in_flight: AtomicUsize,
    /// Of those, requests whose body is still to come.
    arriving: AtomicUsize,
    budget: Budget,
    addresses: ArcSwap<Vec<Arc<Address>>>,
    turn: AtomicUsize,
    /// Held while addresses change and are counted, or of two that fail at once each could take the other for a good one.
    changes: Mutex<()>,
    counters: Counters,
}

/// A request's place among those in flight to one service, until it is dropped.
#[derive(Debug)]
pub(crate) struct InFlight {
    upstream: Arc<Upstream>,
    arriving: bool,
}

impl InFlight {
    /// The whole body has come.
    pub(crate) fn has_arrived(&mut self) {
        if std::mem::take(&mut self.arriving) {
            self.upstream.arriving.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.has_arrived();
        self.upstream.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Upstream {
    /// A service that knows its literal addresses, all up; names wait for [`Upstream::watch`].
    pub(crate) fn new(settings: &UpstreamSettings, counters: Counters) -> Arc<Upstream> {
        let literals = settings.addresses.iter().filter_map(Endpoint::literal);
        let addresses: Vec<_> = literals.map(|socket| Arc::new(Address::new(socket))).collect();
        let upstream = Upstream {
            name: settings.name.clone(),
            endpoints: settings.addresses.clone(),
            admin_port: settings.admin_port,
            health_interval: settings.health_interval,
            policy: Policy { eject_after: settings.eject_after, eject_for: settings.eject_for },
            max_in_flight: settings.max_in_flight,
            in_flight: AtomicUsize::new(0),
            arriving: AtomicUsize::new(0),
            budget: Budget::new(settings.retry_budget, settings.max_in_flight, Instant::now()),
            addresses: ArcSwap::from_pointee(addresses),
            turn: AtomicUsize::new(0),
            changes: Mutex::default(),
            counters,
        };
        upstream.count_healthy();
        Arc::new(upstream)
    }

    /// Whether there is any address; a name has none before it was resolved.
    pub(crate) fn is_known(&self) -> bool {
        !self.addresses.load().is_empty()
    }

    /// A place for one request, or none when as many as may be are in flight. Requests whose body is still `arriving` have
    /// half of all places: slow clients cannot take those of the others.
    pub(crate) fn admit(self: &Arc<Upstream>, arriving: bool) -> Option<InFlight> {
        let take = |count: &AtomicUsize, most: usize| {
            let more = |now: usize| (now < most).then_some(now + 1);
            count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
        };
        if arriving && !take(&self.arriving, self.max_in_flight.div_ceil(2)) {
            return None;
        }
        if !take(&self.in_flight, self.max_in_flight) {
            if arriving {
                self.arriving.fetch_sub(1, Ordering::Relaxed);
            }
            return None;
        }
        self.budget.deposit();
        Some(InFlight { upstream: self.clone(), arriving })
    }

    /// A request goes out on a connection that was kept, or made for it.
    pub(crate) fn connected(&self, reused: bool) {
        if reused {
            self.counters.reused.inc()
        } else {
            self.counters.connected.inc()
        };
    }

    /// The next address in turn that works, rather one that this request has not tried; an ejected one when there is no
    /// other. None when all are down by checks, or none is known.
    ///
    /// The address must then be tried: after an ejection this request may be the one that finds out.
    pub(crate) fn pick(&self, tried: &Tried, now: Instant) -> Option<SocketAddr> {
        let addresses = self.addresses.load();
        // Who is passed over has had its turn, or its neighbour would get twice as much.
        for _ in 0..addresses.len() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed).checked_rem(addresses.len())?;
            let address = addresses.get(turn)?;
            if !tried.contains(address.socket) && address.takes(now, &self.policy) {
                return Some(address.socket);
            }
        }
        let known = addresses.iter().filter(|address| !address.is_down());
        let best = known.min_by_key(|address| (tried.contains(address.socket), !address.is_good()));
        best.map(|address| address.socket)
    }

    /// A request got an answer from this address, whatever its status.
    pub(crate) fn succeeded(&self, socket: SocketAddr) {
        let addresses = self.addresses.load();
        let address = addresses.iter().find(|address| address.socket == socket);
        if address.is_some_and(|address| address.succeeded()) {
            let _one_by_one = self.one_by_one();
            tracing::info!(upstream = %self.name, address = %socket, "an address is back");
            self.count_healthy();
        }
    }

    /// No connection to this address came about, or no answer in time.
    pub(crate) fn failed(&self, socket: SocketAddr, now: Instant) {
        let _one_by_one = self.one_by_one();
        let addresses = self.addresses.load();
        let Some(address) = addresses.iter().find(|address| address.socket == socket) else { return };
        let is_last = !addresses.iter().any(|other| other.socket != socket && other.is_good());
        if address.failed(now, &self.policy, is_last) {
            tracing::warn!(upstream = %self.name, address = %socket, "an address is ejected");
            self.counters.ejections.inc();
            self.count_healthy();
        }
    }

    /// Whether a request that has failed at the addresses it tried is sent again. True takes it from the budget and
    /// counts it.
    pub(crate) fn may_retry(&self, failure: Failure, tried: &Tried, now: Instant) -> bool {
        let sensible = !tried.is_full()
            && match failure {
                Failure::Connect => self.has_other_than(tried),
                Failure::Exchange { repeatable } => repeatable,
            };
        let may = sensible && self.budget.withdraw(now);
        if may {
            self.counters.retries.inc();
        }
        may
    }

    /// Keeps addresses and their health up to date, for ever where there is anything to do.
    pub(crate) async fn watch(&self) {
        let checking = async {
            if let Some(interval) = self.health_interval {
                self.keep_checking(interval).await;
            }
        };
        tokio::join!(self.keep_resolving(), checking);
    }

    fn has_other_than(&self, tried: &Tried) -> bool {
        self.addresses.load().iter().any(|address| !tried.contains(address.socket) && !address.is_down())
    }

    fn checked(&self, socket: SocketAddr, good: bool, now: Instant) {
        let _one_by_one = self.one_by_one();
        let addresses = self.addresses.load();
        let Some(address) = addresses.iter().find(|address| address.socket == socket) else { return };
        if address.checked(good, now) {
            if good {
                tracing::info!(upstream = %self.name, address = %socket, "an address is up");
            } else {
                tracing::warn!(upstream = %self.name, address = %socket, "an address is down");
            }
            self.count_healthy();
        }
    }

    /// Resolves the names now and every 10 s, for ever. A name that fails keeps the others' addresses; when all
    /// fail, the last known ones stay.
    async fn keep_resolving(&self) {
        if self.endpoints.iter().all(|endpoint| endpoint.literal().is_some()) {
            return;
        }
        loop {
            let mut found = Vec::new();
            for endpoint in &self.endpoints {
                match endpoint.resolve().await {
                    Ok(addresses) => found.extend(addresses),
                    Err(error) => {
                        tracing::warn!(upstream = %self.name, host = %endpoint.host(), %error, "a name does not resolve");
                    }
                }
            }
            self.resolved(found);
            tokio::time::sleep(REFRESH).await;
        }
    }

    /// Takes new addresses in; those that stay keep what is known of them.
    fn resolved(&self, mut found: Vec<SocketAddr>) {
        found.sort_unstable();
        found.dedup();
        let _one_by_one = self.one_by_one();
        let known = self.addresses.load();
        if found.is_empty() || known.iter().map(|address| address.socket).eq(found.iter().copied()) {
            return;
        }
        tracing::info!(upstream = %self.name, addresses = ?found, "an upstream's addresses");
        let kept = |socket| known.iter().find(|address| address.socket == socket).cloned();
        let addresses: Vec<_> = found
            .into_iter()
            .map(|socket| kept(socket).unwrap_or_else(|| Arc::new(Address::new(socket))))
            .collect();
        self.addresses.store(Arc::new(addresses));
        self.count_healthy();
    }

    fn count_healthy(&self) {
        let healthy = self.addresses.load().iter().filter(|address| address.is_good()).count();
        self.counters.healthy.set(i64::try_from(healthy).unwrap_or(i64::MAX));
    }

    fn one_by_one(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
