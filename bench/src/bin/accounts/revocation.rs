//! How soon another service, which polls the key feed, refuses the token of a deleted account.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use common::auth::{Verifier, poll_feed};
use common::clock::Clock;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::service::Service;
use crate::{PASSWORD, email, person};

/// How many people this needs; others are not among them.
const FIRST: u64 = 1_000_000_000;

/// Seconds from each deletion to the refusal, sorted.
pub(crate) async fn measure(service: &Service, times: u64) -> anyhow::Result<Vec<f64>> {
    let (verifier, stop) = (Verifier::new(Clock::System), CancellationToken::new());
    let _stop = stop.clone().drop_guard();
    tokio::spawn(poll_feed(format!("{}/keys", service.admin), verifier.clone(), stop));
    let mut seconds = Vec::new();
    for n in FIRST..FIRST + times {
        service.post("/register", &person(n)).await?.error_for_status()?;
        let login = service.post("/login", &json!({"email": email(n), "password": PASSWORD})).await?;
        let login: Value = login.error_for_status()?.json().await?;
        let token = login["access_token"].as_str().context("a token")?.to_owned();
        until(|| verifier.verify(&token).is_ok()).await?;
        service.delete(&token).await?;
        let deleted = Instant::now();
        until(|| verifier.verify(&token).is_err()).await?;
        seconds.push(deleted.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

async fn until(is: impl Fn() -> bool) -> anyhow::Result<()> {
    let waiting = async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), waiting).await.context("waited in vain")
}
