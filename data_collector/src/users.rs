//! What user_manager says of accounts: asked over gRPC when an interest is made, and told over the bus when one is deleted.

use std::time::Duration;

use common::auth::{Auth, Caller, User};
use common::bus::{Consumer, Delivery, Failure};
use common::http::Problem;
use common::messages::UserForgotten;
use common::rpc::users::users_client::UsersClient;
use common::rpc::users::verify_user_request::Who;
use common::rpc::users::{User as FoundUser, VerifyUserRequest};
use common::service::StartError;
use common::types::{Account, Email, Icao, Invalid};
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::State;
use crate::error::Error;

/// The consumer group.
pub(crate) const GROUP: &str = "collector_group";
/// How long user_manager may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it is still there, and how long it may take to answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(5));
/// The largest answer, in bytes.
const ANSWER_LIMIT: usize = 4096;

/// Asks user_manager who has an account.
#[derive(Clone)]
pub(crate) struct Users(UsersClient<Channel>);

impl Users {
    /// Of the user_manager at `url` (http://host:port). It is connected to when it is asked first, and again when the
    /// connection is lost.
    pub(crate) fn of(url: &str) -> Result<Users, StartError> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| StartError::new(format!("USER_MANAGER_GRPC_URL: {error}")))?
            .connect_timeout(DEADLINE)
            .timeout(DEADLINE)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        Ok(Users(UsersClient::new(endpoint.connect_lazy()).max_decoding_message_size(ANSWER_LIMIT)))
    }

    /// The user of an account or an address, if there is one.
    async fn verify(&self, who: Who) -> Result<Option<User>, Error> {
        let mut request = Request::new(VerifyUserRequest { who: Some(who) });
        // So that user_manager does not go on with what nobody waits for any more.
        request.set_timeout(DEADLINE);
        let mut users = self.0.clone();
        // Over the connecting, too.
        let answered = tokio::time::timeout(DEADLINE, users.verify_user(request)).await;
        let answer = answered.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")));
        let answer = answer.map_err(Error::UserManagerAway)?;
        let user = |FoundUser { account, email }: FoundUser| {
            Ok(User { account: account.parse()?, email: email.parse()? })
        };
        let unreadable = |error: Invalid| Error::UserManagerAway(Status::internal(error.to_string()));
        answer.into_inner().user.map(user).transpose().map_err(unreadable)
    }
}

impl State {
    /// The user that the caller is; `email` is the one that the body names.
    pub(crate) async fn user(&self, caller: Caller, email: Option<&Email>) -> Result<User, Problem> {
        let find = async |email: &Email| self.users.verify(Who::Email(email.as_str().to_owned())).await;
        caller.with_body(email)?.identify(find).await
    }

    /// Refuses interests in these airports when the account is gone, unless it has all of them: its token may be good for a
    /// while, and the message that tells us may be on its way.
    pub(crate) async fn verify_for_new(&self, account: Account, airports: &[Icao]) -> Result<(), Error> {
        // Who was only named has just been looked up.
        if self.auth == Auth::Off {
            return Ok(());
        }
        let interests = self.store.interests(account).await?;
        if airports.iter().all(|airport| interests.iter().any(|interest| interest.airport == *airport)) {
            return Ok(());
        }
        match self.users.verify(Who::Account(account.to_string())).await? {
            Some(_) => Ok(()),
            None => Err(Error::Forgotten),
        }
    }
}

/// Forgets the accounts that were deleted, until cancelled.
pub(crate) async fn forget_deleted(
    consumer: Consumer,
    state: State,
    token: CancellationToken,
) -> anyhow::Result<()> {
    consumer.run(token, move |delivery| forget(state.clone(), delivery)).await
}

async fn forget(state: State, delivery: Delivery<UserForgotten>) -> Result<(), Failure> {
    let account = delivery.message.account;
    state.store.forget(account, &state.announcer, &delivery.trace, state.flight_clock.now()).await?;
    state.outbox.notify_one();
    tracing::info!(%account, "forgotten");
    Ok(())
}
