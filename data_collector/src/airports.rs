//! The catalogue of airports, from the package airportsdata (see `data/README.md`).

use std::cmp::Reverse;
use std::io::Read;

use anyhow::Context;
use common::types::Icao;
use serde::{Deserialize, Serialize};
use unicode_normalization::UnicodeNormalization;
use unicode_normalization::char::is_combining_mark;

static CATALOGUE: &[u8] = include_bytes!("../data/airports.csv.gz");

/// An airport.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Airport {
    pub(crate) icao: Icao,
    /// Three letters; empty for the many that have none.
    pub(crate) iata: String,
    pub(crate) name: String,
    pub(crate) city: String,
    /// ISO 3166-1, two letters.
    pub(crate) country: String,
}

/// All airports, by code.
#[derive(Debug)]
pub(crate) struct Catalogue(Vec<Airport>);

impl Catalogue {
    /// Reads the catalogue that is built in.
    pub(crate) fn load() -> anyhow::Result<Catalogue> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(CATALOGUE).read_to_end(&mut text)?;
        let rows = csv::Reader::from_reader(text.as_slice()).into_deserialize();
        let airports = rows.collect::<Result<Vec<Airport>, _>>().context("the catalogue of airports")?;
        Ok(Catalogue(airports))
    }

    pub(crate) fn get(&self, icao: Icao) -> Option<&Airport> {
        self.0.binary_search_by_key(&icao, |airport| airport.icao).ok().map(|place| &self.0[place])
    }

    /// The airport with this IATA code.
    pub(crate) fn with_iata(&self, code: &str) -> Option<&Airport> {
        let is_it = |airport: &&Airport| airport.iata.eq_ignore_ascii_case(code);
        self.0.iter().find(is_it).filter(|_| !code.is_empty())
    }

    /// The `count` codes that are most like `icao`.
    pub(crate) fn nearest(&self, icao: Icao, count: usize) -> Vec<Icao> {
        let mut codes: Vec<(Reverse<u32>, Icao)> = self
            .0
            .iter()
            .map(|airport| {
                let likeness = strsim::jaro_winkler(icao.as_str(), airport.icao.as_str());
                // Whole ten-thousandths, because floats have no total order.
                (Reverse((likeness * 10_000.0) as u32), airport.icao)
            })
            .collect();
        // Only the nearest few are put in order: there are some 28,000.
        if count < codes.len() {
            codes.select_nth_unstable(count);
            codes.truncate(count);
        }
        codes.sort_unstable();
        codes.into_iter().map(|(_, icao)| icao).collect()
    }

    /// Airports whose code is `query`, then those whose name or city begins with it, then those in whose name or city all
    /// its words are. Case and accents do not matter.
    pub(crate) fn search(&self, query: &str, count: usize) -> Vec<&Airport> {
        let query = folded(query.trim());
        let words: Vec<&str> = query.split_whitespace().collect();
        let rank = |airport: &Airport| {
            let (name, city) = (folded(&airport.name), folded(&airport.city));
            let code = |code: &str| code.eq_ignore_ascii_case(&query);
            match () {
                () if code(airport.icao.as_str()) || code(&airport.iata) => Some(0),
                () if city.starts_with(&query) || name.starts_with(&query) => Some(1),
                () if words.iter().all(|word| city.contains(word) || name.contains(word)) => Some(2),
                () => None,
            }
        };
        let mut found: Vec<(u8, bool, &Airport)> = self
            .0
            .iter()
            .filter_map(|airport| rank(airport).map(|rank| (rank, airport.iata.is_empty(), airport)))
            .collect();
        // Airports with an IATA code first: those are the ones with scheduled flights. The sort is stable.
        found.sort_by_key(|(rank, without_iata, _)| (*rank, *without_iata));
        found.into_iter().take(count).map(|(_, _, airport)| airport).collect()
    }
}

/// In lower case, without accents.
fn folded(text: &str) -> String {
    if text.is_ascii() {
        return text.to_ascii_lowercase();
    }
    text.nfd().filter(|letter| !is_combining_mark(*letter)).collect::<String>().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn airports_are_found_by_code_name_and_city() {
        let catalogue = Catalogue::load().unwrap();
        assert_eq!(catalogue.get("KJFK".parse().unwrap()).unwrap().iata, "JFK");
        for query in ["kjfk", "JFK"] {
            assert_eq!(catalogue.search(query, 5)[0].icao.as_str(), "KJFK", "{query}");
        }
        let finds =
            |query, icao| catalogue.search(query, 5).iter().any(|airport| airport.icao.as_str() == icao);
        assert!(finds("John F Kennedy", "KJFK"));
        assert!(finds("catania", "LICC"));
        for zurich in ["zurich", "ZÜRICH", "Zürich"] {
            assert!(finds(zurich, "LSZH"), "{zurich}");
        }
        assert!(finds("kennedy new york", "KJFK"));
        assert!(catalogue.search("no such place", 5).is_empty());
    }

    #[test]
    fn the_nearest_codes_of_a_mistyped_one_hold_the_one_that_was_meant() {
        let catalogue = Catalogue::load().unwrap();
        let meant: Icao = "LICC".parse().unwrap();
        assert!(
            catalogue.nearest("LICX".parse().unwrap(), 5).iter().any(|icao| icao.as_str().starts_with("LIC"))
        );
        assert_eq!(catalogue.nearest(meant, 1), [meant]);
    }
}
