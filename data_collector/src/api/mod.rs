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
use crate::airports::Airport;
use crate::error::Error;

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
    /// The airport with this code, in the catalogue. Three letters are most likely an IATA code: its airport is named.
    pub(crate) fn airport(&self, code: &str) -> Result<&Airport, Error> {
        let catalogue = &self.announcer.catalogue;
        let unknown = |nearest| Error::UnknownAirport { airport: code.to_uppercase(), nearest };
        let icao: Icao = match code.parse() {
            Ok(icao) => icao,
            Err(invalid) => match catalogue.with_iata(code) {
                Some(airport) => return Err(unknown(vec![airport.icao])),
                None => return Err(Error::Invalid(invalid)),
            },
        };
        catalogue.get(icao).ok_or_else(|| unknown(catalogue.nearest(icao, 5)))
    }
}
