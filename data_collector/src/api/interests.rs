//! Interests, and the link that ends one.

use std::collections::HashMap;

use axum::Extension;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Html;
use common::auth::{Caller, User};
use common::http::{Json, Path, Problem, Query};
use common::trace::Trace;
use common::types::{Account, Email, Icao, Invalid, Metric, Notify, Thresholds};
use serde::Deserialize;

use crate::State;
use crate::dto::{InterestFields, InterestView, Page};
use crate::error::Error;
use crate::store::{Evaluation, Interest, Saved, Standing, Wanted};

impl State {
    /// Makes or changes an interest.
    pub(crate) async fn save(
        &self,
        user: &User,
        airport: Icao,
        fields: &InterestFields,
        must_exist: bool,
        trace: &Trace,
    ) -> Result<Saved, Error> {
        let on = Evaluation {
            lag: self.lag,
            backfill: self.backfill,
            now: self.flight_clock.now(),
            announcer: &self.announcer,
        };
        let change = |before: Option<&Interest>| match before {
            Some(before) => Ok(changed(before, fields)?),
            None if must_exist => Err(Error::NoInterest(airport)),
            None => Ok(made(self.defaults, fields)?),
        };
        let who = (user.account, &user.email, airport);
        let saved = self.store.save_interest(who, self.max_interests, &change, on, trace).await?;
        self.collect.notify_one();
        self.outbox.notify_one();
        Ok(saved)
    }

    /// Ends an interest; `false` if there was none.
    pub(crate) async fn remove(&self, account: Account, airport: Icao, trace: &Trace) -> Result<bool, Error> {
        let now = self.flight_clock.now();
        let removed = self.store.remove_interest(account, airport, &self.announcer, trace, now).await?;
        self.outbox.notify_one();
        Ok(removed)
    }

    pub(crate) async fn view(&self, interest: Interest) -> Result<InterestView, Error> {
        let standings = self.store.standings(interest.account, Some(interest.airport)).await?;
        Ok(self.view_as(interest, &standings))
    }

    fn view_as(&self, interest: Interest, standings: &HashMap<Icao, Standing>) -> InterestView {
        let airport = self.announcer.catalogue.get(interest.airport);
        let name = airport.map(|airport| airport.name.clone()).unwrap_or_default();
        let standing = standings.get(&interest.airport).copied().unwrap_or_default();
        InterestView::new(interest, name, standing)
    }
}

/// What a new interest is: the defaults for what is left out. A default that would break high > low against a given
/// value is not applied.
fn made(defaults: Thresholds, fields: &InterestFields) -> Result<Wanted, Invalid> {
    let (low, high) = (fields.low_value, fields.high_value);
    let default_low = defaults.low().filter(|default| high.flatten().is_none_or(|high| high > *default));
    let default_high = defaults.high().filter(|default| low.flatten().is_none_or(|low| *default > low));
    Ok(Wanted {
        thresholds: Thresholds::new(low.unwrap_or(default_low), high.unwrap_or(default_high))?,
        metric: fields.metric.unwrap_or(Metric::Total),
        notify: fields.notify.unwrap_or(Notify::EveryWindow),
    })
}

/// What a changed interest is: what is left out stays.
fn changed(before: &Interest, fields: &InterestFields) -> Result<Wanted, Invalid> {
    let low = fields.low_value.unwrap_or(before.thresholds.low());
    let high = fields.high_value.unwrap_or(before.thresholds.high());
    Ok(Wanted {
        thresholds: Thresholds::new(low, high)?,
        metric: fields.metric.unwrap_or(before.metric),
        notify: fields.notify.unwrap_or(before.notify),
    })
}

/// The fields of an interest, and the address that must be the token's if it is there.
#[derive(Deserialize, Default)]
pub(super) struct InterestBody {
    email: Option<Email>,
    #[serde(flatten)]
    fields: InterestFields,
}

pub(super) async fn put_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Path(code): Path<String>,
    body: Option<Json<InterestBody>>,
) -> Result<(StatusCode, Json<InterestView>), Problem> {
    let body = body.map(|Json(body)| body).unwrap_or_default();
    let user = state.user(caller, body.email.as_ref()).await?;
    let airport = state.airport(&code)?;
    state.verify_for_new(user.account, &[airport]).await?;
    let saved = state.save(&user, airport, &body.fields, false, &trace).await?;
    let status = if saved.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(state.view(saved.interest).await?)))
}

pub(super) async fn patch_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Path(code): Path<String>,
    Json(body): Json<InterestBody>,
) -> Result<Json<InterestView>, Problem> {
    let user = state.user(caller, body.email.as_ref()).await?;
    let airport = state.airport(&code)?;
    let saved = state.save(&user, airport, &body.fields, true, &trace).await?;
    Ok(Json(state.view(saved.interest).await?))
}

pub(super) async fn list_interests(
    Shared(state): Shared<State>,
    caller: Caller,
) -> Result<Json<Page<InterestView>>, Problem> {
    let account = state.user(caller, None).await?.account;
    let interests = state.store.interests(account).await.map_err(Error::from)?;
    let standings = state.store.standings(account, None).await.map_err(Error::from)?;
    let views = interests.into_iter().map(|interest| state.view_as(interest, &standings));
    Ok(Json(Page::whole(views.collect())))
}

pub(super) async fn get_interest(
    Shared(state): Shared<State>,
    caller: Caller,
    Path(code): Path<String>,
) -> Result<Json<InterestView>, Problem> {
    let account = state.user(caller, None).await?.account;
    let airport = state.code(&code)?;
    let interests = state.store.interests(account).await.map_err(Error::from)?;
    let interest = interests.into_iter().find(|interest| interest.airport == airport);
    Ok(Json(state.view(interest.ok_or_else(|| state.no_interest(airport))?).await?))
}

pub(super) async fn delete_interest(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    caller: Caller,
    Path(code): Path<String>,
) -> Result<StatusCode, Problem> {
    let account = state.user(caller, None).await?.account;
    let airport = state.code(&code)?;
    match state.remove(account, airport, &trace).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(state.no_interest(airport).into()),
    }
}

#[derive(Deserialize)]
pub(super) struct Link {
    token: String,
}

/// Only asks: mail scanners open links.
pub(super) async fn ask_unsubscribe(
    Shared(state): Shared<State>,
    Query(link): Query<Link>,
) -> Result<Html<String>, Error> {
    let (_, airport) = state.announcer.signer.verify(&link.token)?;
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Vedetta</title>\
         <h1>No more alerts for {airport}?</h1>\
         <form method=\"post\"><button>End my interest in {airport}</button></form></html>"
    )))
}

pub(super) async fn unsubscribe(
    Shared(state): Shared<State>,
    Extension(trace): Extension<Trace>,
    Query(link): Query<Link>,
) -> Result<Html<String>, Error> {
    let (account, airport) = state.announcer.signer.verify(&link.token)?;
    state.remove(account, airport, &trace).await?;
    tracing::info!(%account, %airport, "unsubscribed by link");
    Ok(Html(format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>Vedetta</title>\
         <h1>Done: no more alerts for {airport}.</h1></html>"
    )))
}
