//! Registering, at most once for a key, and confirming the address.

use aws_lc_rs::digest::{SHA256, digest};
use axum::Extension;
use axum::extract::State as Shared;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use common::clock::rfc3339;
use common::http::{Json, Query};
use common::messages::Letter;
use common::service::StartError;
use common::signed;
use common::trace::Trace;
use common::types::{Account, Email, Invalid};
use serde::Deserialize;
use url::Url;

use crate::State;
use crate::api::Profile;
use crate::config::Confirmation;
use crate::error::Error;
use crate::password::Password;
use crate::store::{CONFIRM_WITHIN, Earlier, Person, Registration, Store};
use crate::vault::Vault;

/// What a client calls its registration, so that it can ask again: the SHA-256 of any text, in hexadecimal.
pub(crate) struct Key(pub(crate) String);

impl Key {
    fn new(name: &str, text: &str) -> Result<Key, Invalid> {
        match text.chars().count() {
            1..=255 => Ok(Key(hex::encode(digest(&SHA256, text.as_bytes())))),
            _ => Err(Invalid(format!("{name} must have 1 to 255 characters"))),
        }
    }

    /// The header's, else the body's `id`.
    fn of(headers: &HeaderMap, id: Option<&str>) -> Result<Option<Key>, Invalid> {
        let mut values = headers.get_all("idempotency-key").iter();
        match (values.next(), values.next(), id) {
            (Some(_), Some(_), _) => Err(Invalid("Idempotency-Key must be there once".to_owned())),
            (Some(value), None, _) => match std::str::from_utf8(value.as_bytes()) {
                Ok(text) => Key::new("Idempotency-Key", text).map(Some),
                Err(_) => Err(Invalid("Idempotency-Key must be UTF-8".to_owned())),
            },
            (None, _, Some(id)) => Key::new("id", id).map(Some),
            (None, _, None) => Ok(None),
        }
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

/// An address at a domain, not at what looks like an IPv4 address: no top-level domain is a number (RFC 3696, section 2).
#[derive(Deserialize)]
#[serde(try_from = "Email")]
struct DomainEmail(Email);

impl TryFrom<Email> for DomainEmail {
    type Error = Invalid;
    fn try_from(email: Email) -> Result<DomainEmail, Invalid> {
        let top = email.as_str().rsplit('.').next().unwrap_or_default();
        match top.bytes().all(|byte| byte.is_ascii_digit()) {
            true => Err(Invalid("email has an invalid domain".into())),
            false => Ok(DomainEmail(email)),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Body {
    id: Option<String>,
    email: DomainEmail,
    name: Name,
    surname: Name,
    password: Option<Password>,
}

pub(crate) async fn register(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    headers: HeaderMap,
    Json(body): Json<Body>,
) -> Result<Response, Error> {
    let key = Key::of(&headers, body.id.as_deref())?;
    let password_hash = match &body.password {
        None if state.asks_for_tokens() => return Err(Invalid("missing field `password`".to_owned()).into()),
        None => None,
        Some(password) => {
            // A repetition needs no hash but a comparison.
            if let Some(key) = &key
                && let Some(earlier) = state.store.earlier(&body.email.0, key, state.clock.now()).await?
            {
                return replay(&state, &body, earlier).await;
            }
            Some(state.passwords.hash(password).await?)
        }
    };
    let now = state.clock.now();
    let person = Person {
        account: Account::new_random(),
        email: body.email.0.clone(),
        name: body.name.0.clone(),
        surname: body.surname.0.clone(),
        password_hash,
        tokens_not_before: 0,
        confirmed_at: (state.confirmation == Confirmation::Assumed).then_some(now),
        classroom: !state.asks_for_tokens(),
        created_at: now,
    };
    let mail = (state.confirmation == Confirmation::Asked).then(|| state.links.mail(&person));
    let answer = serde_json::to_string(&Profile::from(person.clone())).map_err(anyhow::Error::from)?;
    let registration =
        Registration { person: &person, key: key.as_ref(), answer: &answer, mail: mail.as_ref() };
    if let Some(earlier) = state.store.register(&registration, &trace).await? {
        return replay(&state, &body, earlier).await;
    }
    state.outbox.notify_one();
    tracing::info!(account = %person.account, email = ?person.email, "registered");
    Ok(created(answer))
}

fn created(answer: String) -> Response {
    (StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], answer).into_response()
}

/// The stored answer, if the body is the one that it was given to: the same names, and the same password, compared as at a
/// login, so that nothing is kept by which a password could be found out faster than by its hash.
async fn replay(state: &State, body: &Body, earlier: Earlier) -> Result<Response, Error> {
    #[derive(Deserialize)]
    struct Names {
        name: String,
        surname: String,
    }
    let names: Names = serde_json::from_str(&earlier.answer).map_err(anyhow::Error::from)?;
    let same_names = names.name == body.name.0 && names.surname == body.surname.0;
    let same_password = match (&body.password, earlier.password_hash) {
        (Some(password), Some(hash)) => state.passwords.is_of(password, hash).await?,
        (password, hash) => password.is_none() && hash.is_none(),
    };
    if !(same_names && same_password) {
        return Err(Error::KeyReused);
    }
    let mut response = created(earlier.answer);
    response.headers_mut().insert("idempotency-replayed", axum::http::HeaderValue::from_static("true"));
    Ok(response)
}

/// The links by which addresses are confirmed.
#[derive(Clone)]
pub(crate) struct Links {
    signer: signed::Signer,
    /// Where they lead, without a slash at its end.
    base: String,
}

impl Links {
    /// With the database's secret, which is made if there is none.
    pub(crate) async fn open(store: &Store, vault: &Vault, base: &Url) -> anyhow::Result<Links> {
        if !matches!(base.scheme(), "http" | "https") {
            return Err(StartError::new("PUBLIC_URL must be http://… or https://…").into());
        }
        const NAME: &str = "confirm";
        let stored = store.secret(NAME, &vault.seal(NAME, signed::fresh_secret()?.as_bytes())?).await?;
        let opened = vault.open(NAME, &stored)?;
        if !opened.is_current {
            store.reseal_secret(NAME, &stored, &vault.seal(NAME, &opened.value)?).await?;
        }
        let signer = signed::Signer::new(&String::from_utf8(opened.value)?)?;
        Ok(Links { signer, base: without_slash(base) })
    }

    pub(crate) fn set_base(&mut self, base: &Url) {
        self.base = without_slash(base);
    }

    /// The mail to a new account. It holds nothing that its sender could choose: it may go to somebody else's address.
    fn mail(&self, person: &Person) -> Letter {
        let token = self.signer.sign(&person.account.to_string());
        let until = rfc3339(person.created_at + CONFIRM_WITHIN);
        let body = format!(
            "Somebody has registered this address with Vedetta, which mails people when the number of\n\
             flights at an airport is above or below what they asked for.\n\n\
             If it was you, open this link to confirm the address:\n\n\
             {}/user_manager/confirm?token={token}\n\n\
             It works until {until}. If it was not you, do not open it: without it nobody can log in,\n\
             no alert is sent here, and the registration goes by itself.\n",
            self.base
        );
        Letter {
            id: format!("confirm-{}", person.account),
            account: Some(person.account),
            email: person.email.clone(),
            subject: "Confirm your address for Vedetta".to_owned(),
            body,
            alert: None,
            unsubscribe: None,
        }
    }
}

fn without_slash(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[derive(Deserialize)]
pub(crate) struct Link {
    token: String,
}

/// Opening the link confirms; asking for its head (which `GET` answers, too) changes nothing.
pub(crate) async fn confirm(
    Shared(state): Shared<State>,
    method: Method,
    Query(link): Query<Link>,
) -> Result<Html<&'static str>, Error> {
    let account: Account = state.links.signer.verify(&link.token)?.parse()?;
    let (store, now) = (&state.store, state.clock.now());
    if method == Method::HEAD {
        let good = store.is_confirmable(account, now).await?;
        return if good { Ok(Html("")) } else { Err(Error::LinkExpired) };
    }
    if !store.confirm(account, now).await? {
        return Err(Error::LinkExpired);
    }
    tracing::info!(%account, "confirmed");
    Ok(Html(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Vedetta</title>\
         <h1>Your address is confirmed.</h1><p>You can log in now.</p></html>",
    ))
}
