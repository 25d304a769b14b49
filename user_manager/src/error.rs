//! What can go wrong, and the one place that turns it into a status code.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use common::http::Problem;
use common::types::Invalid;

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Invalid(#[from] Invalid),
    #[error("this email has an account already")]
    EmailTaken,
    #[error("this key belongs to an earlier registration of the email, with another body")]
    KeyReused,
    #[error("the email has had its mails for today")]
    TooManyMails { retry_after: u32 },
    #[error("the link has expired, or a later registration has replaced it; register again to get a new one")]
    LinkExpired,
    #[error("email or password is wrong")]
    WrongCredentials,
    #[error("open the link in the mail that was sent to the email, then log in")]
    Unconfirmed,
    #[error("there is no such account any more")]
    NoAccount,
    #[error("too many passwords are being checked")]
    Busy,
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
        let problem = |status, slug, title| Problem::new(status, slug, title, detail.clone());
        match error {
            Error::Invalid(_) => Problem::invalid(detail),
            Error::EmailTaken => problem(StatusCode::CONFLICT, "email-taken", "The email is taken"),
            Error::KeyReused => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The key belongs to another request",
            ),
            Error::TooManyMails { retry_after } => {
                problem(StatusCode::TOO_MANY_REQUESTS, "too-many-mails", "The email has had enough mails")
                    .retry_after(retry_after)
            }
            Error::LinkExpired => problem(StatusCode::GONE, "link-expired", "The link has expired"),
            Error::WrongCredentials => {
                problem(StatusCode::UNAUTHORIZED, "wrong-credentials", "The login was refused")
            }
            Error::Unconfirmed => {
                problem(StatusCode::FORBIDDEN, "unconfirmed", "The email is not confirmed yet")
            }
            Error::NoAccount => Problem::not_found(detail),
            Error::Busy => Problem::unavailable(detail, 1),
            Error::Internal(error) => Problem::failure(&error),
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        Problem::from(self).into_response()
    }
}
