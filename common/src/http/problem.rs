//! RFC 9457 problem details: the one shape of an error over HTTP.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

/// An error as a client sees it: `application/problem+json` with `type` (`urn:vedetta:problem:<slug>`), `title`,
/// `status`, `detail` and, added by [`super::layers`], `request_id`.
#[derive(Clone, Debug)]
pub struct Problem {
    status: StatusCode,
    slug: &'static str,
    title: &'static str,
    detail: String,
    retry_after: Option<u32>,
    extra: Map<String, Value>,
}

impl Problem {
    /// A problem of a kind (`slug`, stable, lower-case words with hyphens) with a title of that kind and the detail
    /// of this occurrence. The detail is for the client: never an internal message.
    pub fn new(
        status: StatusCode,
        slug: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Problem {
        Problem { status, slug, title, detail: detail.into(), retry_after: None, extra: Map::new() }
    }

    /// 400: the request could not be understood.
    pub fn bad_request(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, "bad-request", "The request could not be understood", detail)
    }

    /// 401: no token, or not a valid one.
    pub fn unauthorized(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "A valid token is needed", detail)
    }

    /// 403: the caller may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::FORBIDDEN, "forbidden", "This is not yours", detail)
    }

    /// 404: there is no such thing.
    pub fn not_found(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "not-found", "There is no such thing", detail)
    }

    /// 422: understood, but a value is not allowed.
    pub fn invalid(detail: impl Into<String>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "A value is not allowed", detail)
    }

    /// 503: cannot be answered now; try again in `seconds`.
    pub fn unavailable(detail: impl Into<String>, seconds: u32) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", "This cannot be answered now", detail)
            .retry_after(seconds)
    }

    /// 500: our fault. The cause belongs in the log, not here.
    pub fn internal() -> Problem {
        Problem::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "Something went wrong on our side",
            "the cause is in the service's log, under this request id",
        )
    }

    /// What a request got that failed for a reason of ours: 503 when the database is away or has no turn to give at the
    /// moment, else 500. The cause is logged here and nowhere else.
    pub fn failure(error: &anyhow::Error) -> Problem {
        tracing::error!(error = format!("{error:#}"), "a request failed");
        match error.chain().filter_map(|cause| cause.downcast_ref()).any(crate::db::is_passing) {
            true => Problem::unavailable("the database cannot answer at the moment", 5),
            false => Problem::internal(),
        }
    }

    /// Adds `Retry-After`, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Problem {
        self.retry_after = Some(seconds);
        self
    }

    /// Adds a member of its own, such as `nearest`.
    #[must_use]
    pub fn with(mut self, member: &str, value: impl Into<Value>) -> Problem {
        self.extra.insert(member.to_owned(), value.into());
        self
    }

    /// The status code.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The JSON body, under this request id if there is one.
    pub fn body(&self, request_id: Option<&str>) -> Value {
        let mut body = json!({
            "type": format!("urn:vedetta:problem:{}", self.slug),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        if let Value::Object(members) = &mut body {
            members.extend(self.extra.clone());
            members.extend(request_id.map(|id| ("request_id".to_owned(), id.into())));
        }
        body
    }

    fn response(&self) -> Response {
        let mut response = Response::new(Body::from(self.body(None).to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// The layers find the problem among the response's extensions and complete it with the request id.
    fn into_response(self) -> Response {
        let mut response = self.response();
        response.extensions_mut().insert(self);
        response
    }
}
