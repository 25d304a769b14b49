//! The API on one screen; its handlers are beside it.

mod airports;
mod interests;
mod status;

use axum::Router;
use axum::extract::FromRef;
use axum::routing::{get, post, put};
use common::auth::Verifier;
use common::types::Icao;

pub(crate) use airports::{Average, FlightList, Last};

use self::airports::{average, daily, flights, last, search};
use self::interests::{
    ask_unsubscribe, delete_interest, get_interest, list_interests, patch_interest, put_interest, unsubscribe,
};
use self::status::{collect, status};
use crate::State;
use crate::error::Error;

/// So much of a wrong code is shown and compared, in characters.
const LONGEST_CODE: usize = 12;

/// All routes but the assignment's.
pub(crate) fn router() -> Router<State> {
    Router::new()
        .route("/interests", get(list_interests))
        .route(
            "/interests/{icao}",
            put(put_interest).patch(patch_interest).get(get_interest).delete(delete_interest),
        )
        .route("/unsubscribe", get(ask_unsubscribe).post(unsubscribe))
        .route("/airports", get(search))
        .route("/airports/{icao}/flights", get(flights))
        .route("/airports/{icao}/last", get(last))
        .route("/airports/{icao}/average", get(average))
        .route("/airports/{icao}/daily", get(daily))
        .route("/status", get(status))
        .route("/collect", post(collect))
}

impl FromRef<State> for Verifier {
    fn from_ref(state: &State) -> Verifier {
        state.verifier.clone()
    }
}

impl State {
    /// An airport's code. What cannot be one is refused like a code that is not in the catalogue, with those that may
    /// have been meant.
    pub(crate) fn code(&self, text: &str) -> Result<Icao, Error> {
        text.parse().map_err(|_| self.unknown(text))
    }

    /// The code of an airport in the catalogue.
    pub(crate) fn airport(&self, code: &str) -> Result<Icao, Error> {
        let icao = self.code(code)?;
        match self.announcer.catalogue.get(icao) {
            Some(_) => Ok(icao),
            None => Err(self.unknown(code)),
        }
    }

    /// Why there is no interest in an airport. One that the catalogue does not know any more may have some still.
    pub(crate) fn no_interest(&self, airport: Icao) -> Error {
        match self.announcer.catalogue.get(airport) {
            Some(_) => Error::NoInterest(airport),
            None => self.unknown(airport.as_str()),
        }
    }

    fn unknown(&self, code: &str) -> Error {
        let airport: String = code.trim().to_uppercase().chars().take(LONGEST_CODE).collect();
        let nearest = self.announcer.catalogue.nearest(&airport, 5);
        Error::UnknownAirport { airport, nearest }
    }
}
