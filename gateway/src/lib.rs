//! Vedetta's front door: TLS, routing in one normal form, tokens, on Pingora.
//!
//! The pure core (`normalize`, `route`, `policy`, `problem`) decides; a thin shell (`proxy`, `edge`, `lifecycle`) is
//! all that knows Pingora.

mod access_log;
mod certificate;
pub mod check;
mod config;
mod edge;
mod exchange;
pub mod gen_cert;
mod lifecycle;
mod listeners;
mod metrics;
mod normalize;
mod policy;
mod problem;
mod proxy;
mod route;
mod settings;
mod streams;
pub mod takeover;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use common::auth::{Auth, Verifier, poll_feed};
use common::http::{Admin, admin, ready_when, serve};
use common::service::{self, Parts, StartError};
use tokio::signal::unix::Signal;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::access_log::AccessLog;
use crate::certificate::{Current, hangups, server_config};
pub use crate::config::Config;
use crate::edge::{Edge, redirect};
use crate::lifecycle::Lifecycle;
use crate::listeners::Listeners;
use crate::metrics::Metrics;
use crate::policy::rate::Limiter;
use crate::proxy::Gateway;
use crate::route::Routes;
use crate::settings::Settings;
use crate::streams::Streams;
use crate::takeover::{Giver, Predecessor, Taker};
use crate::upstream::Upstream;

/// The gateway, listening but not yet serving.
pub struct App {
    gateway: Arc<Gateway>,
    certificates: Arc<Current>,
    hangups: Signal,
    tls: Arc<rustls::ServerConfig>,
    listeners: Listeners,
    addr: SocketAddr,
    admin: Admin,
    admin_addr: SocketAddr,
}

impl App {
    /// Reads the certificates and binds all ports, so that a wrong option is told before anything is served.
    pub async fn build(config: Config, parts: Parts) -> Result<App, StartError> {
        let prepared = Prepared::new(config)?;
        let listeners = Listeners::bind(&prepared.settings).await?;
        App::assemble(prepared, listeners, parts)
    }

    fn assemble(prepared: Prepared, listeners: Listeners, parts: Parts) -> Result<App, StartError> {
        let Prepared { settings, certificates, hangups } = prepared;
        let (metrics, registry) = Metrics::new(&settings.node);
        metrics.certificate_expires(certificates.expiry());
        let tls = server_config(certificates.clone())?;
        let gateway = Arc::new(gateway(settings, Verifier::new(parts.clock), metrics)?);
        let ready = readiness(gateway.settings.auth, gateway.verifier.clone(), gateway.lifecycle.clone());
        Ok(App {
            gateway,
            certificates,
            hangups,
            tls,
            addr: service::local_addr(&listeners.https)?,
            admin: Admin { metrics: registry, ready },
            admin_addr: service::local_addr(&listeners.admin)?,
            listeners,
        })
    }

    /// Where HTTPS is served.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Where `/healthz`, `/readyz` and `/metrics` are served.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Where plain HTTP is redirected, if it is.
    pub fn redirect_addr(&self) -> Option<SocketAddr> {
        self.listeners.redirect.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until `token` is cancelled and then everything in flight has been answered. Bounding the time of that
    /// is the caller's; dropping the future cuts off what is left.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        self.run_between(None, None, token).await
    }

    /// As [`App::run`], but begins when `before` has been told, and ends, too, when `after` has taken over.
    async fn run_between(
        self,
        before: Option<Predecessor>,
        after: Option<Giver>,
        token: CancellationToken,
    ) -> anyhow::Result<()> {
        let App { gateway, certificates, hangups, tls, listeners, addr, admin: page, admin_addr } = self;
        // The admin port and the feed outlive the last request.
        let drained = CancellationToken::new();
        let _ends_the_rest = drained.clone().drop_guard();
        let _last_lines = LastLines(gateway.clone());
        gateway.keep_informed(&drained);
        tokio::spawn(certificates.keep_fresh(hangups, gateway.metrics.clone(), drained.clone()));
        let edge = Edge::new(tls, gateway.clone())?;
        if let Some(before) = before {
            let relieved = async {
                gateway.knows_addresses().await;
                before.relieve(&page.ready).await
            };
            match token.run_until_cancelled(relieved).await {
                Some(relieved) => relieved?,
                None => return Ok(()),
            }
        }
        tracing::info!(%addr, admin = %admin_addr, "serving");
        let admin_ends = drained.child_token();
        if let Some(after) = after {
            let giving = after.give_until_cancelled(listeners.sockets()?, token.clone(), admin_ends.clone());
            tokio::spawn(drained.clone().run_until_cancelled_owned(giving));
        }
        let Listeners { https, admin: admin_listener, redirect: redirect_listener } = listeners;
        if let Some(listener) = redirect_listener {
            let redirecting = redirect(gateway.clone(), listener, addr.port());
            let token = token.clone();
            tokio::spawn(async move { token.run_until_cancelled(redirecting).await });
        }
        let admin = tokio::spawn(serve(admin_listener, admin(page), admin_ends));
        edge.serve(https, token).await;
        drained.cancel();
        admin.await?.context("the admin port")
    }
}

/// Writes what waits in the access log when it is dropped: also when the time for the drain has run out.
struct LastLines(Arc<Gateway>);

impl Drop for LastLines {
    fn drop(&mut self) {
        // Requests that were cut end on other threads, each with a line.
        for _ in 0..100 {
            if !self.0.lifecycle.has_requests() {
                break;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(log) = &self.0.access_log {
            log.close();
        }
    }
}

/// What can be wrong before a port is taken: the configuration and the certificates.
struct Prepared {
    settings: Settings,
    certificates: Arc<Current>,
    hangups: Signal,
}

impl Prepared {
    fn new(config: Config) -> Result<Prepared, StartError> {
        common::tls::install();
        let hangups = hangups()?;
        let settings = config.resolve()?;
        let certificates = Arc::new(Current::load(&settings.certificates)?);
        Ok(Prepared { settings, certificates, hangups })
    }
}

/// The command `gateway serve`: [`App::build`] and [`App::run`] in a process that can change places with another, see
/// [`takeover`].
pub async fn serve_command(
    config: Config,
    options: takeover::Options,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let after = Giver::new(options.path())?;
    let prepared = Prepared::new(config)?;
    allow_files(prepared.settings.limits.connections);
    let (listeners, before) = if options.upgrade {
        let taker = Taker::new(options.path()).await?;
        let Some(taken) = token.run_until_cancelled(taker.take()).await else { return Ok(()) };
        let (sockets, before) = taken?;
        (Listeners::inherit(sockets, &prepared.settings).await?, Some(before))
    } else {
        (Listeners::bind(&prepared.settings).await?, None)
    };
    App::assemble(prepared, listeners, Parts::default())?.run_between(before, Some(after), token).await
}

/// Every connection is a file, and so is that to a service: takes as many as the system gives.
fn allow_files(connections: u32) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let files = if raised.is_ok() { maximum } else { current };
    if let Some(files) = files.filter(|files| *files < u64::from(connections) * 2) {
        tracing::warn!(files, connections, "the system allows fewer open files than twice the connections");
    }
}

fn gateway(settings: Settings, verifier: Verifier, metrics: Metrics) -> Result<Gateway, StartError> {
    let access_log = if settings.access_log {
        Some(AccessLog::start(metrics.log_drops()).map_err(StartError::new)?)
    } else {
        None
    };
    let upstreams = settings.upstreams.iter();
    let clients = settings.limits.rate_clients;
    Ok(Gateway {
        routes: Routes::new(&settings.routes),
        upstreams: upstreams.map(|one| Upstream::new(one, metrics.upstream(&one.name))).collect(),
        verifier,
        rate: settings.limits.rate.map(|rate| Limiter::new("default", rate, clients)),
        rate_login: settings.limits.rate_login.map(|rate| Limiter::new("login", rate, clients)),
        gathered: Arc::new(Semaphore::new(proxy::GATHERED)),
        streams: Arc::new(Streams::new(settings.limits.streams, metrics.streams())),
        lifecycle: Arc::new(Lifecycle::default()),
        metrics,
        access_log,
        settings,
    })
}

impl Gateway {
    /// Waits until every service has an address, but not for ever: a name that does not resolve now did not for the
    /// gateway before either.
    async fn knows_addresses(&self) {
        let known = async {
            while !self.upstreams.iter().all(|upstream| upstream.is_known()) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), known).await;
    }

    /// Keeps what requests are decided by up to date until `token` is cancelled: keys, addresses, streams.
    fn keep_informed(self: &Arc<Gateway>, token: &CancellationToken) {
        match self.settings.auth {
            Auth::Required => {
                let keys = &self.settings.upstreams[self.settings.keys];
                for endpoint in &keys.addresses {
                    let url = endpoint.url(keys.admin_port, "/keys");
                    let polling = poll_feed(url, self.verifier.clone(), token.clone());
                    tokio::spawn(async move {
                        if let Err(error) = polling.await {
                            tracing::error!(error = format!("{error:#}"), "the key feed is not polled");
                        }
                    });
                }
            }
            Auth::Off => self.settings.auth.warn_when_off(),
        }
        for upstream in self.upstreams.clone() {
            let token = token.clone();
            tokio::spawn(async move { token.run_until_cancelled(upstream.watch()).await });
        }
        let (gateway, token) = (self.clone(), token.clone());
        tokio::spawn(async move {
            let watching =
                gateway.streams.keep_watch(&gateway.verifier, gateway.settings.timeouts.stream_idle);
            token.run_until_cancelled(watching).await
        });
        let gateway = self.clone();
        tokio::spawn(async move {
            gateway.lifecycle.stopping().cancelled().await;
            gateway.streams.close();
        });
    }
}

fn readiness(auth: Auth, verifier: Verifier, lifecycle: Arc<Lifecycle>) -> common::http::Readiness {
    ready_when(move || {
        let missing = if lifecycle.is_stopping() {
            Some("stopping")
        } else if auth == Auth::Required && !verifier.loaded() {
            Some("the keys of user_manager have not been loaded")
        } else {
            None
        };
        async move { missing.map_or(Ok(()), |what| Err(what.to_owned())) }
    })
}
