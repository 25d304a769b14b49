//! The API on one screen.

use axum::extract::{DefaultBodyLimit, FromRef, State as Shared};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Extension, Router};
use common::auth::{Auth, Caller, TOKEN_LIFETIME, User, Verifier};
use common::clock::rfc3339;
use common::http::{Json, Problem};
use common::trace::Trace;
use common::types::{Account, Email, Invalid};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::config::Confirmation;
use crate::error::Error;
use crate::password::Password;
use crate::registration::{confirm, register};
use crate::store::Person;
use crate::{State, tokens};

/// The largest body, in bytes: many of them may wait for a password to be hashed.
const BODY_LIMIT: usize = 16 * 1024;

/// All routes.
pub(crate) fn routes() -> [(&'static str, MethodRouter<State>); 7] {
    [
        ("/register", post(register)),
        ("/confirm", get(confirm)),
        ("/login", post(login)),
        ("/me", get(me).delete(delete_me)),
        ("/delete", delete(delete_by_email)),
        ("/password", post(change_password)),
        ("/openapi.json", get(openapi)),
    ]
}

pub(crate) fn router(state: State) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |all, (path, route)| all.route(path, route));
    routes.layer(DefaultBodyLimit::max(BODY_LIMIT)).with_state(state)
}

impl FromRef<State> for Verifier {
    fn from_ref(state: &State) -> Verifier {
        state.verifier.clone()
    }
}

impl FromRef<State> for Auth {
    fn from_ref(state: &State) -> Auth {
        state.auth
    }
}

impl State {
    pub(crate) fn asks_for_tokens(&self) -> bool {
        self.auth == Auth::Required
    }

    /// Whether somebody whose address is not confirmed is a user all the same.
    pub(crate) fn counts_unconfirmed(&self) -> bool {
        self.confirmation == Confirmation::Ignored
    }

    /// The user that the caller is.
    async fn user(&self, caller: Caller) -> Result<User, Problem> {
        let find = async |email: &Email| {
            self.store.user_by_email(email, self.counts_unconfirmed()).await.map_err(Error::from)
        };
        caller.identify(find).await
    }
}

#[derive(Serialize)]
pub(crate) struct Profile {
    id: Account,
    email: Email,
    name: String,
    surname: String,
    confirmed: bool,
    created_at: String,
}

impl From<Person> for Profile {
    fn from(person: Person) -> Profile {
        let Person { account, email, name, surname, confirmed_at, created_at, .. } = person;
        let (confirmed, created_at) = (confirmed_at.is_some(), rfc3339(created_at));
        Profile { id: account, email, name, surname, confirmed, created_at }
    }
}

#[derive(Deserialize)]
struct Credentials {
    email: Email,
    /// With AUTH=off it may be missing.
    password: Option<SecretString>,
}

#[derive(Serialize)]
struct Login {
    access_token: String,
    token_type: &'static str,
    expires_in: i64,
}

async fn login(
    Shared(state): Shared<State>,
    Json(credentials): Json<Credentials>,
) -> Result<Json<Login>, Error> {
    if credentials.password.is_none() && state.asks_for_tokens() {
        return Err(Invalid("missing field `password`".to_owned()).into());
    }
    // Taken before the look: a token by a password that is changed meanwhile is one issued before the change.
    let now = state.clock.now();
    let person = state.store.person_by_email(&credentials.email).await?;
    let stored = person.as_ref().and_then(|person| person.password_hash.clone());
    let matches = match (&credentials.password, &stored) {
        // An account without a password is anybody's, but only as long as nobody is asked for one.
        (None, None) => person.is_some(),
        (None, Some(_)) => false,
        (Some(password), _) => state.passwords.matches(password, stored).await?,
    };
    let person = person.filter(|_| matches).ok_or(Error::WrongCredentials)?;
    if person.confirmed_at.is_none() && !state.counts_unconfirmed() {
        return Err(Error::Unconfirmed);
    }
    let issued_at = now.max(person.tokens_not_before);
    let user = User { account: person.account, email: person.email };
    let access_token = state.tokens.issue(&user, issued_at)?;
    Ok(Json(Login { access_token, token_type: "Bearer", expires_in: TOKEN_LIFETIME }))
}

async fn me(Shared(state): Shared<State>, caller: Caller) -> Result<Json<Profile>, Problem> {
    let user = state.user(caller).await?;
    let person = state.store.person(user.account).await.map_err(Error::from)?;
    Ok(Json(person.ok_or(Error::NoAccount)?.into()))
}

async fn delete_me(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
) -> Result<StatusCode, Problem> {
    let user = state.user(caller).await?;
    state.store.forget(user.account, &trace, state.clock.now()).await?;
    state.outbox.notify_one();
    tokens::refresh(&state).await;
    tracing::info!(account = %user.account, "deleted");
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
struct Deletion {
    email: Email,
}

async fn delete_by_email(
    shared: Shared<State>,
    trace: Extension<Trace>,
    caller: Caller,
    Json(deletion): Json<Deletion>,
) -> Result<StatusCode, Problem> {
    delete_me(shared, trace, caller.with_body(Some(&deletion.email))?).await
}

#[derive(Deserialize)]
struct PasswordChange {
    email: Option<Email>,
    /// With AUTH=off it is missing where there is none yet.
    current: Option<SecretString>,
    new: Password,
}

async fn change_password(
    Shared(state): Shared<State>,
    caller: Caller,
    Json(change): Json<PasswordChange>,
) -> Result<StatusCode, Problem> {
    let user = state.user(caller.with_body(change.email.as_ref())?).await?;
    let person = state.store.person(user.account).await.map_err(Error::from)?.ok_or(Error::NoAccount)?;
    let stored = person.password_hash;
    let may = match (&change.current, &stored) {
        (Some(current), _) => state.passwords.matches(current, stored.clone()).await?,
        (None, None) => !state.asks_for_tokens(),
        (None, Some(_)) => return Err(Problem::invalid("missing field `current`")),
    };
    if !may {
        return Err(Error::WrongCredentials.into());
    }
    let hash = state.passwords.hash(&change.new).await?;
    let now = state.clock.now();
    state.store.change_password(user.account, stored.as_deref(), &hash, now).await?;
    tokens::refresh(&state).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn openapi(Shared(state): Shared<State>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.openapi)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    #[test]
    fn the_document_has_these_routes_and_no_others() {
        let document = common::http::openapi(include_str!("../../docs/openapi/user_manager.yaml")).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let documented: BTreeSet<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(documented, super::routes().into_iter().map(|(path, _)| path).collect());
    }
}
