//! What was asked.

use std::collections::BTreeMap;
use std::sync::Mutex;

use axum::http::StatusCode;
use serde::Serialize;

use crate::lock;

/// A part of OpenSky that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Endpoint {
    /// `GET /api/flights/arrival`
    Arrival,
    /// `GET /api/flights/departure`
    Departure,
    /// `POST /token`, and its long path
    Token,
}

/// Answers by endpoint and status: `{"arrival": {"200": 3}}`.
pub(crate) type Counts = BTreeMap<Endpoint, BTreeMap<u16, u64>>;

/// Counts answers from the start on. A call whose client went away before its answer is not counted.
#[derive(Default)]
pub(crate) struct Stats(Mutex<Counts>);

impl Stats {
    /// Counts an answer.
    pub(crate) fn count(&self, endpoint: Endpoint, status: StatusCode) {
        *lock(&self.0).entry(endpoint).or_default().entry(status.as_u16()).or_default() += 1;
    }

    /// The counts so far.
    pub(crate) fn counts(&self) -> Counts {
        lock(&self.0).clone()
    }
}
