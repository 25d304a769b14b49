//! Asks the addresses of a service whether they are ready.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Upstream;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// So that several gateways do not ask in step.
const JITTER: std::ops::Range<f64> = 0.9..1.1;

impl Upstream {
    /// Asks every address's admin port for `/readyz` about every `interval`, for ever. An answer that is no success is as
    /// bad as none.
    pub(super) async fn keep_checking(&self, interval: Duration) {
        let client = match common::http::client(PATIENCE) {
            Ok(client) => client,
            Err(error) => {
                tracing::error!(upstream = %self.name, %error, "health is not checked");
                return;
            }
        };
        loop {
            sleep(interval.mul_f64(rand::random_range(JITTER))).await;
            let mut checks = JoinSet::new();
            for address in self.addresses.load().iter() {
                let socket = address.socket;
                let asked = client.get(url(socket, self.admin_port)).send();
                checks.spawn(async move {
                    (socket, asked.await.is_ok_and(|answer| answer.status().is_success()))
                });
            }
            while let Some(checked) = checks.join_next().await {
                if let Ok((socket, good)) = checked {
                    self.checked(socket, good, Instant::now());
                }
            }
        }
    }
}

fn url(socket: SocketAddr, port: u16) -> String {
    format!("http://{}/readyz", SocketAddr::new(socket.ip(), port))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU16, Ordering};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::get;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;
    use crate::settings::UpstreamSettings;
    use crate::upstream::{Counters, Tried};

    #[test]
    fn the_admin_port_is_on_the_address_itself() {
        assert_eq!(url("192.0.2.1:80".parse().unwrap(), 9), "http://192.0.2.1:9/readyz");
        assert_eq!(url("[2001:db8::1]:80".parse().unwrap(), 9), "http://[2001:db8::1]:9/readyz");
    }

    /// A service's admin port that answers with the status it is told to.
    async fn admin_port(status: Arc<AtomicU16>) -> u16 {
        let ready =
            get(async move || StatusCode::from_u16(status.load(Ordering::Relaxed)).unwrap_or_default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let router = Router::new().route("/readyz", ready);
        tokio::spawn(async move { axum::serve(listener, router).await });
        port
    }

    #[tokio::test]
    async fn an_address_that_is_not_ready_is_down_until_it_is() {
        let status = Arc::new(AtomicU16::new(200));
        let settings = UpstreamSettings {
            health_interval: Some(Duration::from_millis(10)),
            ..UpstreamSettings::new(
                "service",
                vec!["http://127.0.0.1:1".parse().unwrap()],
                admin_port(status.clone()).await,
            )
        };
        let counters = Counters::default();
        let upstream = Upstream::new(&settings, counters.clone());
        let watching = upstream.clone();
        let task = tokio::spawn(async move { watching.watch().await });
        let becomes = async |up: bool| {
            let is = || upstream.pick(&Tried::default(), Instant::now()).is_some() == up;
            let waited = async {
                while !is() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(Duration::from_secs(60), waited).await.unwrap();
            assert_eq!(counters.healthy.get(), i64::from(up));
        };
        becomes(true).await;
        status.store(503, Ordering::Relaxed);
        becomes(false).await;
        status.store(200, Ordering::Relaxed);
        becomes(true).await;
        status.store(302, Ordering::Relaxed);
        becomes(false).await;
        task.abort();
    }

    #[tokio::test]
    async fn checks_that_are_off_never_end_anything() {
        let settings = UpstreamSettings {
            health_interval: None,
            ..UpstreamSettings::new("service", vec!["http://127.0.0.1:1".parse().unwrap()], 1)
        };
        let upstream = Upstream::new(&settings, Counters::default());
        // With literal addresses and no checks there is nothing to watch.
        timeout(Duration::from_secs(60), upstream.watch()).await.unwrap();
        assert!(upstream.pick(&Tried::default(), Instant::now()).is_some());
    }
}
