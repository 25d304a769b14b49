//! VerifyUser, for other services: gRPC on a port of its own.

use std::time::Duration;

use common::auth::User;
use common::db::is_passing;
use common::http::connections;
use common::rpc::users::users_server::{Users, UsersServer};
use common::rpc::users::verify_user_request::Who;
use common::rpc::users::{User as FoundUser, VerifyUserRequest, VerifyUserResponse};
use common::types::Invalid;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::State;
use crate::store::Store;

/// How long a call may take; a caller with less time says so (`grpc-timeout`).
const DEADLINE: Duration = Duration::from_secs(5);
/// Calls at once on a connection.
const STREAMS: u32 = 256;
/// How often a silent connection is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// How long calls in flight may take when the service is to stop.
const LAST_CALLS: Duration = Duration::from_secs(2);
/// The largest request, in bytes.
const REQUEST_LIMIT: usize = 4096;
/// How often the health service learns whether the database answers.
const LOOK: Duration = Duration::from_secs(5);

struct Verification {
    store: Store,
    /// Whether somebody whose address is not confirmed is a user all the same.
    counts_unconfirmed: bool,
}

#[tonic::async_trait]
impl Users for Verification {
    async fn verify_user(
        &self,
        request: Request<VerifyUserRequest>,
    ) -> Result<Response<VerifyUserResponse>, Status> {
        let refuse = |error: Invalid| Status::invalid_argument(error.to_string());
        let found = match request.into_inner().who {
            Some(Who::Account(account)) => {
                self.store.user(account.parse().map_err(refuse)?, self.counts_unconfirmed).await
            }
            Some(Who::Email(email)) => {
                self.store.user_by_email(&email.parse().map_err(refuse)?, self.counts_unconfirmed).await
            }
            None => return Err(Status::invalid_argument("account or email must be there")),
        };
        let user = found.map_err(|error| failed(&error))?.map(|User { account, email }| FoundUser {
            account: account.to_string(),
            email: email.as_str().to_owned(),
        });
        Ok(Response::new(VerifyUserResponse { user }))
    }
}

fn failed(error: &anyhow::Error) -> Status {
    tracing::error!(error = format!("{error:#}"), "VerifyUser failed");
    match error.chain().filter_map(|cause| cause.downcast_ref()).any(is_passing) {
        true => Status::unavailable("the database cannot answer at the moment"),
        false => Status::internal("the cause is in the log"),
    }
}

/// Serves until cancelled; calls in flight are finished, for which there are [`LAST_CALLS`].
pub(crate) async fn serve(
    listener: TcpListener,
    state: &State,
    token: CancellationToken,
) -> anyhow::Result<()> {
    let (reporter, health) = health_reporter();
    let (store, counts_unconfirmed) = (state.store.clone(), state.counts_unconfirmed());
    let users = UsersServer::new(Verification { store: store.clone(), counts_unconfirmed })
        .max_decoding_message_size(REQUEST_LIMIT);
    report(&reporter, true).await;
    let watching = tokio::spawn(report_health(reporter, store, token.clone()));
    let serving = Server::builder()
        .timeout(DEADLINE)
        .max_concurrent_streams(STREAMS)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1))
        .add_service(health)
        .add_service(users)
        .serve_with_incoming_shutdown(connections(listener), token.cancelled());
    let late = async {
        token.cancelled().await;
        tokio::time::sleep(LAST_CALLS).await;
    };
    tokio::select! {
        served = serving => served?,
        // Somebody who watches the health service, or says nothing, is not waited for.
        () = late => {}
    }
    Ok(watching.await?)
}

/// Tells the health service what the database says; at the end, that nothing is served any more.
async fn report_health(reporter: HealthReporter, store: Store, token: CancellationToken) {
    let looking = async {
        loop {
            tokio::time::sleep(LOOK).await;
            report(&reporter, store.ping().await.is_ok()).await;
        }
    };
    token.run_until_cancelled(looking).await;
    report(&reporter, false).await;
}

/// Of this service, and of the server as a whole, for those who ask without a name.
async fn report(reporter: &HealthReporter, serves: bool) {
    let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
    for name in ["", <UsersServer<Verification> as NamedService>::NAME] {
        reporter.set_service_status(name, status).await;
    }
}
