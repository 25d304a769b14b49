//! The HTTP client of the services.

use std::time::Duration;

/// A client with bounds: 5 s to connect, `timeout` for a whole call, no redirects (credentials stay where they
/// were sent).
pub fn client(timeout: Duration) -> reqwest::Result<reqwest::Client> {
    crate::tls::install();
    reqwest::Client::builder()
        .user_agent(concat!("vedetta/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(Duration::from_secs(5).min(timeout))
        .timeout(timeout)
        .redirect(reqwest::redirect::Policy::none())
        .build()
}
