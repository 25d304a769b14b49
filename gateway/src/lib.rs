//! Vedetta's front door: TLS, routing in one normal form, tokens, on Pingora.
//!
//! The pure core (`normalize`, `route`, `policy`, `problem`) decides; a thin shell (`proxy`, `edge`, `lifecycle`) is
//! all that knows Pingora.

mod certificate;
mod config;
mod edge;
pub mod gen_cert;
mod lifecycle;
mod metrics;
mod normalize;
mod policy;
mod problem;
mod proxy;
mod route;
pub mod upstream;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use common::auth::{Verifier, poll_feed};
use common::http::{Admin, admin, ready_when, serve};
use common::service::{self, Parts, StartError};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::certificate::{Certificate, Current, server_config};
pub use crate::config::Config;
use crate::edge::Edge;
use crate::lifecycle::Lifecycle;
use crate::metrics::Metrics;
pub use crate::policy::auth::Auth;
use crate::proxy::Gateway;
use crate::upstream::Upstream;

/// The gateway, listening but not yet serving.
pub struct App {
    edge: Edge,
    listener: TcpListener,
    addr: SocketAddr,
    admin: Admin,
    admin_listener: TcpListener,
    admin_addr: SocketAddr,
    verifier: Verifier,
    /// Addresses of the key feed; none when no token is asked for.
    feeds: Vec<String>,
    upstreams: [Arc<Upstream>; 2],
}

impl App {
    /// Reads the certificate and binds both ports, so that a wrong option is told before anything is served.
    pub async fn build(config: Config, parts: Parts) -> Result<App, StartError> {
        common::tls::install();
        let certificate = Certificate::load(&config.tls_cert, &config.tls_key)?;
        let (metrics, registry) = Metrics::new(&config.node);
        metrics.certificate_expires(certificate.expiry());
        let tls = server_config(Arc::new(Current::new(certificate)))?;
        let listener = service::bind("--listen", &config.listen).await?;
        let admin_listener = service::bind("--admin-listen", &config.admin_listen).await?;

        let feeds = match config.auth {
            Auth::Required => {
                let port = config.user_manager_admin_port;
                config.user_manager_url.iter().map(|endpoint| endpoint.url(port, "/keys")).collect()
            }
            Auth::Off => Vec::new(),
        };
        let verifier = Verifier::new(parts.clock);
        let lifecycle = Arc::new(Lifecycle::default());
        let user_manager = Arc::new(Upstream::new(config.user_manager_url));
        let data_collector = Arc::new(Upstream::new(config.data_collector_url));
        let upstreams = [user_manager.clone(), data_collector.clone()];
        let ready = readiness(config.auth, verifier.clone(), lifecycle.clone());
        let gateway = Gateway {
            auth: config.auth,
            verifier: verifier.clone(),
            user_manager,
            data_collector,
            lifecycle: lifecycle.clone(),
            metrics: metrics.clone(),
        };
        let edge = Edge::new(tls, Arc::new(gateway.into_http()), lifecycle, metrics, config.max_connections);
        Ok(App {
            edge,
            addr: service::local_addr(&listener)?,
            listener,
            admin: Admin { metrics: registry, ready },
            admin_addr: service::local_addr(&admin_listener)?,
            admin_listener,
            verifier,
            feeds,
            upstreams,
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

    /// Serves until `token` is cancelled and then everything in flight has been answered. Bounding the time of that
    /// is the caller's; dropping the future cuts off what is left.
    pub async fn run(self, token: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(addr = %self.addr, admin = %self.admin_addr, "serving");
        if self.feeds.is_empty() {
            tracing::warn!("AUTH=off: no token is asked for; anybody may be anyone");
        }
        // The admin port and the feed outlive the last request.
        let drained = CancellationToken::new();
        let _ends_the_rest = drained.clone().drop_guard();
        for url in self.feeds {
            let polling = poll_feed(url, self.verifier.clone(), drained.clone());
            tokio::spawn(async move {
                if let Err(error) = polling.await {
                    tracing::error!(error = format!("{error:#}"), "the key feed is not polled");
                }
            });
        }
        for upstream in self.upstreams {
            let drained = drained.clone();
            tokio::spawn(async move { drained.run_until_cancelled(upstream.keep_resolving()).await });
        }
        let admin = tokio::spawn(serve(self.admin_listener, admin(self.admin), drained.clone()));
        self.edge.serve(self.listener, token).await;
        drained.cancel();
        admin.await?.context("the admin port")
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
