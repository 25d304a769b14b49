//! The operator's side: faults and counts while running.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use common::http::Json;
use serde::Serialize;

use crate::faults::{Change, Faults};
use crate::stats::Counts;
use crate::{Replay, lock};

/// The routes under `/admin`.
pub(crate) fn routes() -> Router<Arc<Replay>> {
    Router::new().route("/admin/faults", get(faults).patch(change)).route("/admin/stats", get(stats))
}

/// What is in force now.
#[derive(Serialize)]
struct InForce {
    #[serde(flatten)]
    faults: Faults,
    /// The least that any client has left today.
    credits_remaining: u32,
}

async fn faults(State(replay): State<Arc<Replay>>) -> Json<InForce> {
    in_force(&replay)
}

async fn change(State(replay): State<Arc<Replay>>, Json(change): Json<Change>) -> Json<InForce> {
    lock(&replay.faults).change(&change);
    if let Some(remaining) = change.credits_remaining {
        replay.credits.set_remaining(remaining, replay.clock.now());
    }
    let in_force = in_force(&replay);
    tracing::info!(faults = ?in_force.0.faults, credits_remaining = in_force.0.credits_remaining, "faults changed");
    in_force
}

async fn stats(State(replay): State<Arc<Replay>>) -> Json<Counts> {
    Json(replay.stats.counts())
}

fn in_force(replay: &Replay) -> Json<InForce> {
    Json(InForce {
        faults: *lock(&replay.faults),
        credits_remaining: replay.credits.least(replay.clock.now()),
    })
}
