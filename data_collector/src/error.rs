//! What can go wrong, and the one place that turns it into a status code.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use common::http::Problem;
use common::types::{Icao, Invalid};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(#[from] Invalid),
    #[error("{airport} is not in the catalogue of airports")]
    UnknownAirport { airport: String, nearest: Vec<Icao> },
    #[error("you have no interest in {0}")]
    NoInterest(Icao),
    #[error("an account may have {0} interests; end one first")]
    TooManyInterests(i64),
    #[error("the account was deleted")]
    Forgotten,
    #[error("accounts cannot be verified at the moment")]
    UserManagerAway(tonic::Status),
    #[error("a collection can be asked for once a minute")]
    TooSoon,
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        Error::Internal(error.into())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Problem {
        let detail = error.to_string();
        match error {
            Error::Invalid(_) => Problem::invalid(detail),
            Error::UnknownAirport { nearest, .. } => {
                let nearest: Vec<String> = nearest.iter().map(Icao::to_string).collect();
                Problem::new(
                    StatusCode::UNPROCESSABLE_ENTITY,
                    "unknown-airport",
                    "There is no such airport",
                    detail,
                )
                .with("nearest", nearest)
            }
            Error::NoInterest(_) => Problem::not_found(detail),
            Error::TooManyInterests(_) => Problem::new(
                StatusCode::CONFLICT,
                "too-many-interests",
                "That is one interest too many",
                detail,
            ),
            Error::Forgotten => Problem::unauthorized(detail),
            Error::UserManagerAway(status) => {
                tracing::warn!(code = ?status.code(), error = status.message(), "VerifyUser failed");
                Problem::unavailable(detail, 5)
            }
            Error::TooSoon => {
                Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-soon", "Ask again later", detail)
                    .retry_after(60)
            }
            Error::Internal(error) => Problem::failure(&error),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
