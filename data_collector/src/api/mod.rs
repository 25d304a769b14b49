//! The API on one screen; its handlers are beside it.

mod airports;
mod interests;
mod status;

use axum::Router;
use axum::extract::{FromRef, State as Shared};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post, put};
use common::auth::{Auth, Verifier};
use common::types::Icao;

pub(crate) use airports::{Average, FlightList, Last};

use self::airports::{average, daily, flights, last, search};
use self::interests::{
    ask_unsubscribe, delete_interest, get_interest, list_interests, patch_interest, put_interest, unsubscribe,
};
use self::status::{collect, status};
use crate::error::Error;
use crate::{State, seed_routes};

/// So much of a wrong code is shown and compared, in characters.
const LONGEST_CODE: usize = 12;

/// All routes but the assignment's.
pub(crate) fn routes() -> [(&'static str, MethodRouter<State>); 11] {
    let interest = put(put_interest).patch(patch_interest).get(get_interest).delete(delete_interest);
    [
        ("/interests", get(list_interests)),
        ("/interests/{icao}", interest),
        ("/unsubscribe", get(ask_unsubscribe).post(unsubscribe)),
        ("/airports", get(search)),
        ("/airports/{icao}/flights", get(flights)),
        ("/airports/{icao}/last", get(last)),
        ("/airports/{icao}/average", get(average)),
        ("/airports/{icao}/daily", get(daily)),
        ("/status", get(status)),
        ("/collect", post(collect)),
        ("/openapi.json", get(openapi)),
    ]
}

pub(crate) fn router(state: State) -> Router {
    let routes = routes().into_iter().chain(seed_routes::routes());
    routes.fold(Router::new(), |all, (path, route)| all.route(path, route)).with_state(state)
}

async fn openapi(Shared(state): Shared<State>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], state.openapi)
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    #[test]
    fn the_document_has_these_routes_and_no_others() {
        let document =
            common::http::openapi(include_str!("../../../docs/openapi/data_collector.yaml")).unwrap();
        let document: Value = serde_json::from_slice(&document).unwrap();
        let documented: BTreeSet<&str> =
            document["paths"].as_object().unwrap().keys().map(String::as_str).collect();
        let routes = super::routes().into_iter().chain(crate::seed_routes::routes());
        assert_eq!(documented, routes.map(|(path, _)| path).collect());
    }
}
