//! Lays a file over the defaults, key by key.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroUsize;

use super::values::{
    address, duration, host_port, name, network, number, number_or_off, operation, or_off, origin, parsed,
    path, prefix, share, word,
};
use super::{CertificateTable, File, LimitsTable, Problem, RouteTable, TimeoutsTable, UpstreamTable};
use crate::settings::{CertificateFiles, Limits, RouteSettings, Settings, Timeouts, UpstreamSettings};

/// More than any of what is counted here: a slip of the finger.
const MANY: i64 = 1_000_000;

/// The defaults with the file's values over them. A value that cannot be taken becomes a problem and changes nothing.
pub(super) fn apply(file: File, problems: &mut Vec<Problem>) -> Settings {
    let mut settings = Settings::default();
    let mut table = Table { path: String::new(), problems };
    table.put("listen", file.listen, &mut settings.listen, host_port);
    table.put("admin_listen", file.admin_listen, &mut settings.admin_listen, host_port);
    table.put("redirect_listen", file.redirect_listen, &mut settings.redirect_listen, or_off(host_port));
    table.put("node", file.node, &mut settings.node, name);
    table.put("workers", file.workers, &mut settings.workers, |given| {
        number(1..=1_024)(given).map(|workers| NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN))
    });
    table.put("auth", file.auth, &mut settings.auth, word);
    table.put("encoded_slash", file.encoded_slash, &mut settings.encoded_slash, word);
    table.put_all("trusted_proxies", file.trusted_proxies, &mut settings.trusted_proxies, network);
    table.put_all("cors_origins", file.cors_origins, &mut settings.cors_origins, origin);
    table.put("access_log", file.access_log, &mut settings.access_log, Ok);
    certificates(&mut table, file.certificates, &mut settings.certificates);
    limits(table.inner("limits"), file.limits, &mut settings.limits);
    timeouts(table.inner("timeouts"), file.timeouts, &mut settings.timeouts);
    upstreams(&mut table, file.upstreams, &mut settings.upstreams);
    routes(&mut table, file.routes, &settings.upstreams, &mut settings.routes);
    table.put("keys", file.keys, &mut settings.keys, |name| place_of(&settings.upstreams, &name));
    settings
}

fn certificates(
    table: &mut Table<'_>,
    given: Option<Vec<CertificateTable>>,
    certificates: &mut Vec<CertificateFiles>,
) {
    let Some(given) = given else { return };
    if given.is_empty() {
        table.refuse("certificates", "there is none");
        return;
    }
    certificates.clear();
    for (place, files) in given.into_iter().enumerate() {
        let mut table = table.inner(&format!("certificates[{place}]"));
        let cert = table.required("cert", files.cert, path);
        let key = table.required("key", files.key, path);
        if let (Some(cert), Some(key)) = (cert, key) {
            certificates.push(CertificateFiles { cert, key });
        }
    }
}

fn limits(mut table: Table<'_>, given: LimitsTable, limits: &mut Limits) {
    table.put("connections", given.connections, &mut limits.connections, number(1..=MANY));
    table.put(
        "connections_per_client",
        given.connections_per_client,
        &mut limits.connections_per_client,
        number_or_off(1..=MANY),
    );
    // Less holds no browser's request, and pingora reads heads of up to a mebibyte.
    table.put("head", given.head, &mut limits.head, number(1_024..=MANY));
    table.put("rate", given.rate, &mut limits.rate, or_off(parsed));
    table.put("rate_login", given.rate_login, &mut limits.rate_login, or_off(parsed));
    table.put("rate_clients", given.rate_clients, &mut limits.rate_clients, number(1..=10 * MANY));
    table.put("h2_streams", given.h2_streams, &mut limits.h2_streams, number(1..=10_000));
    table.put("h2_control_frames", given.h2_control_frames, &mut limits.h2_control_frames, number(1..=MANY));
    table.put("streams", given.streams, &mut limits.streams, number(1..=MANY));
    table.put("body_rate", given.body_rate, &mut limits.body_rate, number(1..=1_000 * MANY));
}

fn timeouts(mut table: Table<'_>, given: TimeoutsTable, timeouts: &mut Timeouts) {
    table.put("handshake", given.handshake, &mut timeouts.handshake, duration);
    table.put("head", given.head, &mut timeouts.head, duration);
    table.put("idle", given.idle, &mut timeouts.idle, duration);
    table.put("body", given.body, &mut timeouts.body, duration);
    table.put("write", given.write, &mut timeouts.write, duration);
    table.put("stream_idle", given.stream_idle, &mut timeouts.stream_idle, duration);
    table.put("connect", given.connect, &mut timeouts.connect, duration);
    table.put("upstream_read", given.upstream_read, &mut timeouts.upstream_read, duration);
    table.put("upstream_write", given.upstream_write, &mut timeouts.upstream_write, duration);
    table.put("upstream_idle", given.upstream_idle, &mut timeouts.upstream_idle, duration);
}

/// Those of the same name as a built-in one change it; others are added.
fn upstreams(
    table: &mut Table<'_>,
    given: BTreeMap<String, UpstreamTable>,
    upstreams: &mut Vec<UpstreamSettings>,
) {
    for (called, given) in given {
        if let Err(why) = name(called.clone()) {
            table.refuse("upstreams", why);
        }
        let mut table = table.inner(&format!("upstreams.{called}"));
        match upstreams.iter_mut().find(|upstream| upstream.name == called) {
            Some(known) => upstream(&mut table, given, known),
            None => {
                for (key, is_missing) in
                    [("addresses", given.addresses.is_none()), ("admin_port", given.admin_port.is_none())]
                {
                    if is_missing {
                        table.refuse(key, MISSING);
                    }
                }
                let mut new = UpstreamSettings::new(&called, Vec::new(), 0);
                upstream(&mut table, given, &mut new);
                upstreams.push(new);
            }
        }
    }
}

fn upstream(table: &mut Table<'_>, given: UpstreamTable, upstream: &mut UpstreamSettings) {
    if given.addresses.as_ref().is_some_and(Vec::is_empty) {
        table.refuse("addresses", "there is none");
    }
    table.put_all("addresses", given.addresses, &mut upstream.addresses, address);
    table.put("admin_port", given.admin_port, &mut upstream.admin_port, number(1..=65_535));
    table.put("max_in_flight", given.max_in_flight, &mut upstream.max_in_flight, number(1..=MANY));
    table.put("health_interval", given.health_interval, &mut upstream.health_interval, or_off(duration));
    table.put("eject_after", given.eject_after, &mut upstream.eject_after, number(1..=1_000));
    table.put("eject_for", given.eject_for, &mut upstream.eject_for, duration);
    table.put("retry_budget", given.retry_budget, &mut upstream.retry_budget, share);
}

/// The file's routes in place of the built-in ones.
fn routes(
    table: &mut Table<'_>,
    given: Option<Vec<RouteTable>>,
    upstreams: &[UpstreamSettings],
    routes: &mut Vec<RouteSettings>,
) {
    let Some(given) = given else { return };
    if given.is_empty() {
        table.refuse("routes", "there is none");
        return;
    }
    routes.clear();
    for (place, given) in given.into_iter().enumerate() {
        let mut table = table.inner(&format!("routes[{place}]"));
        let prefix = table.required("prefix", given.prefix, prefix).unwrap_or_default();
        if let Some(first) = routes.iter().position(|route| !prefix.is_empty() && route.prefix == prefix) {
            table.refuse("prefix", format!("routes[{first}] has {prefix:?} already"));
        }
        let upstream = table.required("upstream", given.upstream, |name| place_of(upstreams, &name));
        let mut route = RouteSettings::new(&prefix, upstream.unwrap_or_default());
        table.put("max_body", given.max_body, &mut route.max_body, number(1..=1 << 40));
        table.put_all("public", given.public, &mut route.public, operation);
        table.put_all("costly", given.costly, &mut route.costly, operation);
        routes.push(route);
    }
}

fn place_of(upstreams: &[UpstreamSettings], name: &str) -> Result<usize, String> {
    let place = upstreams.iter().position(|upstream| upstream.name == name);
    place.ok_or_else(|| format!("there is no upstream {name:?}"))
}

const MISSING: &str = "it is missing";

/// A table of the file, by its path: takes values to their places, and writes down those that cannot be taken.
struct Table<'a> {
    path: String,
    problems: &'a mut Vec<Problem>,
}

impl Table<'_> {
    fn inner(&mut self, key: &str) -> Table<'_> {
        Table { path: self.path_of(key), problems: self.problems }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn refuse(&mut self, key: &str, why: impl Display) {
        let path = self.path_of(key);
        self.problems.push(Problem::new(&path, why));
    }

    fn put<G, T>(
        &mut self,
        key: &str,
        given: Option<G>,
        place: &mut T,
        parse: impl FnOnce(G) -> Result<T, String>,
    ) {
        match given.map(parse) {
            Some(Ok(value)) => *place = value,
            Some(Err(why)) => self.refuse(key, why),
            None => {}
        }
    }

    /// A list replaces the one that was there.
    fn put_all<G, T>(
        &mut self,
        key: &str,
        given: Option<Vec<G>>,
        place: &mut Vec<T>,
        parse: impl Fn(G) -> Result<T, String>,
    ) {
        let Some(given) = given else { return };
        place.clear();
        for (index, given) in given.into_iter().enumerate() {
            match parse(given) {
                Ok(value) => place.push(value),
                Err(why) => self.refuse(&format!("{key}[{index}]"), why),
            }
        }
    }

    fn required<G, T>(
        &mut self,
        key: &str,
        given: Option<G>,
        parse: impl FnOnce(G) -> Result<T, String>,
    ) -> Option<T> {
        let mut found = None;
        match given {
            Some(given) => self.put(key, Some(given), &mut found, |given| parse(given).map(Some)),
            None => self.refuse(key, MISSING),
        }
        found
    }
}
