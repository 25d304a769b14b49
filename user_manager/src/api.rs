//! The API on one screen.

use axum::Extension;
use axum::Router;
use axum::extract::{FromRef, State as Shared};
use axum::http::StatusCode;
use axum::routing::{delete, get, post};
use common::auth::{Caller, TOKEN_LIFETIME, Verifier};
use common::clock::rfc3339;
use common::http::{Json, Problem};
use common::trace::Trace;
use common::types::{Account, Email, Invalid};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::error::Error;
use crate::password::Password;
use crate::store::User;
use crate::{State, tokens};

/// All routes.
pub(crate) fn router(state: State) -> Router {
    Router::new()
        .route("/register", post(register))
        .route("/login", post(login))
        .route("/me", get(me).delete(delete_me))
        .route("/delete", delete(delete_by_email))
        .route("/password", post(change_password))
        .with_state(state)
}

impl FromRef<State> for Verifier {
    fn from_ref(state: &State) -> Verifier {
        state.verifier.clone()
    }
}

/// A person's name or surname: 1 to 100 characters, none of them a control character.
#[derive(Deserialize)]
#[serde(try_from = "String")]
struct Name(String);

impl TryFrom<String> for Name {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Name, Invalid> {
        let text = text.trim();
        match text.chars().count() {
            1..=100 if !text.chars().any(char::is_control) => Ok(Name(text.to_owned())),
            _ => Err(Invalid("name and surname must have 1 to 100 printable characters".into())),
        }
    }
}

#[derive(Deserialize)]
struct Registration {
    email: Email,
    name: Name,
    surname: Name,
    password: Password,
}

#[derive(Serialize)]
struct Profile {
    id: Account,
    email: Email,
    name: String,
    surname: String,
    created_at: String,
}

impl From<User> for Profile {
    fn from(user: User) -> Profile {
        let User { account, email, name, surname, created_at, .. } = user;
        Profile { id: account, email, name, surname, created_at: rfc3339(created_at) }
    }
}

async fn register(
    Shared(state): Shared<State>,
    Json(registration): Json<Registration>,
) -> Result<(StatusCode, Json<Profile>), Error> {
    let user = User {
        account: Account::new_random(),
        email: registration.email,
        name: registration.name.0,
        surname: registration.surname.0,
        password_hash: state.passwords.hash(&registration.password).await?,
        tokens_not_before: 0,
        created_at: state.clock.now(),
    };
    state.store.register(&user).await?;
    tracing::info!(account = %user.account, email = ?user.email, "registered");
    Ok((StatusCode::CREATED, Json(user.into())))
}

#[derive(Deserialize)]
struct Credentials {
    email: Email,
    password: SecretString,
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
    // Taken before the look: a token by a password that is changed meanwhile is one issued before the change.
    let now = state.clock.now();
    let user = state.store.user_by_email(&credentials.email).await?;
    let stored = user.as_ref().map(|user| user.password_hash.clone());
    let matches = state.passwords.matches(&credentials.password, stored).await?;
    let user = user.filter(|_| matches).ok_or(Error::WrongCredentials)?;
    let issued_at = now.max(user.tokens_not_before);
    let access_token = state.tokens.issue(user.account, &user.email, issued_at)?;
    Ok(Json(Login { access_token, token_type: "Bearer", expires_in: TOKEN_LIFETIME }))
}

async fn me(Shared(state): Shared<State>, Caller(claims): Caller) -> Result<Json<Profile>, Error> {
    let user = state.store.user(claims.sub).await?.ok_or(Error::NoAccount)?;
    Ok(Json(user.into()))
}

async fn delete_me(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    Caller(claims): Caller,
) -> Result<StatusCode, Error> {
    let now = state.clock.now();
    state.store.forget(claims.sub, &trace, now).await?;
    state.outbox.notify_one();
    tokens::refresh(&state).await;
    tracing::info!(account = %claims.sub, "deleted");
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
) -> Result<Result<StatusCode, Error>, Problem> {
    caller.must_be(Some(&deletion.email))?;
    Ok(delete_me(shared, trace, caller).await)
}

#[derive(Deserialize)]
struct PasswordChange {
    email: Option<Email>,
    current: SecretString,
    new: Password,
}

async fn change_password(
    Shared(state): Shared<State>,
    caller: Caller,
    Json(change): Json<PasswordChange>,
) -> Result<Result<StatusCode, Error>, Problem> {
    caller.must_be(change.email.as_ref())?;
    Ok(set_password(&state, caller.0.sub, &change).await)
}

async fn set_password(state: &State, account: Account, change: &PasswordChange) -> Result<StatusCode, Error> {
    let user = state.store.user(account).await?.ok_or(Error::NoAccount)?;
    if !state.passwords.matches(&change.current, Some(user.password_hash)).await? {
        return Err(Error::WrongCredentials);
    }
    let hash = state.passwords.hash(&change.new).await?;
    let now = state.clock.now();
    state.store.change_password(account, &hash, now).await?;
    tokens::refresh(state).await;
    Ok(StatusCode::NO_CONTENT)
}
