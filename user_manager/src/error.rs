//! What can go wrong, and the one place that turns it into a status code.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use common::auth;
use common::http::Problem;
use common::types::Invalid;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(#[from] Invalid),
    #[error("this email has an account already")]
    EmailTaken,
    #[error("email or password is wrong")]
    WrongCredentials,
    #[error("there is no such account any more")]
    NoAccount,
    #[error("too many passwords are being checked")]
    Busy,
    #[error(transparent)]
    Auth(#[from] auth::Error),
    #[error(transparent)]
    Internal(#[from] anyhow::Error),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Error {
        Error::Internal(error.into())
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let detail = self.to_string();
        let problem = match self {
            Error::Invalid(_) => Problem::invalid(detail),
            Error::EmailTaken => {
                Problem::new(StatusCode::CONFLICT, "email-taken", "The email is taken", detail)
            }
            Error::WrongCredentials => {
                Problem::new(StatusCode::UNAUTHORIZED, "wrong-credentials", "The login was refused", detail)
            }
            Error::NoAccount => Problem::not_found(detail),
            Error::Busy => Problem::unavailable(detail, 1),
            Error::Auth(error) => error.into(),
            Error::Internal(error) => Problem::failure(&error),
        };
        problem.into_response()
    }
}
