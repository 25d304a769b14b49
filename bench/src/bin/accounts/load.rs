//! Clients that ask again as soon as they have their answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::try_join_all;
use reqwest::StatusCode;
use serde_json::json;

use crate::service::Service;
use crate::{PASSWORD, email, person};

#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// Each time another person.
    Register,
    /// Those who are registered, in turn.
    Login,
}

/// What came of it.
pub(crate) struct Done {
    took: Duration,
    latencies: Vec<Duration>,
    /// Answers with 503.
    pub(crate) refused: u64,
    /// The most memory the service held meanwhile.
    pub(crate) peak_mb: f64,
}

impl Done {
    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn refused_per_second(&self) -> f64 {
        self.refused as f64 / self.took.as_secs_f64()
    }

    pub(crate) fn median_ms(&self) -> f64 {
        self.quantile_ms(0.5)
    }

    pub(crate) fn p99_ms(&self) -> f64 {
        self.quantile_ms(0.99)
    }

    /// Latencies are sorted.
    fn quantile_ms(&self, share: f64) -> f64 {
        let place = (self.latencies.len().saturating_sub(1) as f64 * share) as usize;
        self.latencies.get(place).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Has so many clients ask for so long; what is under way then is waited for.
pub(crate) async fn run(
    service: &Service,
    load: Load,
    clients: usize,
    time: Duration,
) -> anyhow::Result<Done> {
    service.forget_peak()?;
    let (began, next) = (Instant::now(), AtomicU64::new(0));
    let client = async || {
        let (mut latencies, mut refused) = (Vec::new(), 0_u64);
        while began.elapsed() < time {
            let sent = Instant::now();
            match ask(service, load, &next).await? {
                StatusCode::OK | StatusCode::CREATED => latencies.push(sent.elapsed()),
                // As it is told to: Retry-After is a second.
                StatusCode::SERVICE_UNAVAILABLE => {
                    refused += 1;
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                other => anyhow::bail!("answered {other}"),
            }
        }
        Ok((latencies, refused))
    };
    let all = try_join_all((0..clients).map(|_| client())).await?;
    let took = began.elapsed();
    let refused = all.iter().map(|(_, refused)| refused).sum();
    let mut latencies: Vec<Duration> = all.into_iter().flat_map(|(latencies, _)| latencies).collect();
    latencies.sort_unstable();
    Ok(Done { took, latencies, refused, peak_mb: service.peak_mb()? })
}

async fn ask(service: &Service, load: Load, next: &AtomicU64) -> anyhow::Result<StatusCode> {
    let (path, body) = match load {
        Load::Register => ("/register", person(service.registered.fetch_add(1, Ordering::Relaxed))),
        Load::Login => {
            let n = next.fetch_add(1, Ordering::Relaxed) % service.registered.load(Ordering::Relaxed);
            ("/login", json!({"email": email(n), "password": PASSWORD}))
        }
    };
    let answer = service.post(path, &body).await.context("no answer")?;
    let status = answer.status();
    // Read whole, so that the connection can be used again.
    answer.bytes().await?;
    Ok(status)
}
