//! The gateway on pingora. What is decided, `policy`, `route` and `problem` decide; here their input is fetched from a
//! session and their verdict carried out.

mod answer;
mod hooks;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::auth::Verifier;
use http::HeaderName;
use http::uri::Authority;
use pingora_core::apps::HttpServerOptions;
use pingora_core::protocols::http::v2::server::default_h2_options;
use pingora_core::server::configuration::ServerConf;
use pingora_proxy::{HttpProxy, Session};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::lifecycle::{Connection, Lifecycle};
use crate::metrics::{Counted, Metrics};
use crate::normalize::{encode, normalize};
use crate::policy::auth::{self, Auth};
use crate::policy::{body, sanity};
use crate::problem::{Refusal, Reply, redirect};
use crate::route::{Route, Service, route};
use crate::upstream::Upstream;

/// How long a client's connection may be idle.
const KEEPALIVE: Duration = Duration::from_secs(75);
const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The gateway as pingora sees it.
pub(crate) struct Gateway {
    /// Whether tokens are asked for.
    pub(crate) auth: Auth,
    /// Verifies them.
    pub(crate) verifier: Verifier,
    /// Where user_manager is.
    pub(crate) user_manager: Arc<Upstream>,
    /// Where data_collector is.
    pub(crate) data_collector: Arc<Upstream>,
    /// Counts requests in flight, for the drain.
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Counts everything, for people.
    pub(crate) metrics: Metrics,
}

/// One request on its way.
pub(crate) struct Context {
    began: Instant,
    id: String,
    /// The path in normal form, as it is logged.
    path: String,
    /// Who gets the request, and the target as it is sent there.
    service: Option<Service>,
    target: Vec<u8>,
    received: u64,
    refusal: Option<Refusal>,
    _holds_drain: TaskTrackerToken,
    _in_flight: Counted,
}

impl Gateway {
    /// Pingora's HTTP server around this gateway.
    pub(crate) fn into_http(self) -> HttpProxy<Gateway> {
        let conf = ServerConf {
            // Upstreams speak plain HTTP, so no authority is trusted. Pingora would read the machine's, and panic
            // where a slim image has none.
            ca_file: Some("/dev/null".to_owned()),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            ..ServerConf::default()
        };
        let mut options = HttpServerOptions::default();
        // CONNECT reaches the filters, and is refused there with an answer of our own.
        options.allow_connect_method_proxying = true;
        options.h2_idle_timeout = Some(KEEPALIVE);
        let mut h2 = default_h2_options();
        h2.max_header_list_size(u32::try_from(sanity::MAX_HEAD).unwrap_or(u32::MAX));
        let mut http = HttpProxy::new(self, Arc::new(conf));
        http.server_options = Some(options);
        http.h2_options = Some(h2);
        http.handle_init_modules();
        http
    }

    fn upstream(&self, service: Service) -> &Upstream {
        match service {
            Service::UserManager => &self.user_manager,
            Service::DataCollector => &self.data_collector,
        }
    }

    /// Every check before the proxy, in their one order. `None` lets the request go on; the answer may also be a
    /// redirect.
    fn admit(&self, session: &Session, context: &mut Context) -> std::result::Result<Option<Reply>, Refusal> {
        let request = session.req_header();
        let raw = session.as_downstream().as_http1().map(|http1| http1.get_headers_raw_bytes());
        sanity::check(&sanity::Head {
            method: &request.method,
            headers: &request.headers,
            authority: request.uri.authority().map(Authority::as_str),
            raw: raw.as_deref(),
        })?;
        let target = normalize(request.raw_path())?;
        context.path = encode(&target.path).into_owned();
        let (service, rest) = match route(&target.path) {
            Route::Proxy { service, rest } => (service, rest),
            Route::Redirect(service) => {
                context.service = Some(service);
                return Ok(Some(redirect(service, target.query, &request.method)));
            }
            Route::Unknown => return Err(Refusal::Unknown),
        };
        context.service = Some(service);
        let path = encode(rest);
        if self.auth == Auth::Required && !auth::is_public(service, &request.method, &path) {
            auth::verify(&self.verifier, &request.headers)?;
        }
        body::announced(&request.headers)?;
        context.target = path.into_owned().into_bytes();
        if let Some(query) = target.query {
            context.target.push(b'?');
            context.target.extend_from_slice(query);
        }
        Ok(None)
    }
}

/// What the accept loop wrote down of the connection.
fn connection(session: &Session) -> Option<&Connection> {
    let digest = session.digest()?.proxy_digest.as_ref()?;
    digest.user_data.as_ref()?.downcast_ref::<Arc<Connection>>().map(Arc::as_ref)
}
