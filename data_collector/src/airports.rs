//! The catalogue of airports, from the package airportsdata (see `data/README.md`).

use std::cmp::Reverse;
use std::io::Read;

use anyhow::Context;
use common::types::Icao;
use deunicode::deunicode;
use serde::{Deserialize, Serialize};

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

/// An airport and how it is searched.
#[derive(Debug)]
struct Entry {
    airport: Airport,
    folded_name: String,
    folded_city: String,
}

/// All airports, by code.
#[derive(Debug)]
pub(crate) struct Catalogue(Vec<Entry>);

impl Catalogue {
    /// Reads the catalogue that is built in.
    pub(crate) fn load() -> anyhow::Result<Catalogue> {
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(CATALOGUE).read_to_end(&mut text)?;
        let rows = csv::Reader::from_reader(text.as_slice()).into_deserialize();
        let airports = rows.collect::<Result<Vec<Airport>, _>>().context("the catalogue of airports")?;
        Ok(Catalogue(airports.into_iter().map(Entry::new).collect()))
    }

    pub(crate) fn get(&self, icao: Icao) -> Option<&Airport> {
        let place = self.0.binary_search_by_key(&icao, |entry| entry.airport.icao).ok()?;
        Some(&self.0[place].airport)
    }

    /// The codes that may have been meant by `code`, in upper case: the airport's whose IATA code it is, else the `count`
    /// that are most like it, of those that are like it at all.
    pub(crate) fn nearest(&self, code: &str, count: usize) -> Vec<Icao> {
        if let Some(entry) = self.0.iter().find(|entry| entry.airport.iata == code && !code.is_empty()) {
            return vec![entry.airport.icao];
        }
        let mut codes: Vec<(Reverse<u32>, Icao)> = self
            .0
            .iter()
            .map(|entry| {
                let likeness = strsim::jaro_winkler(code, entry.airport.icao.as_str());
                // Whole ten-thousandths, because floats have no total order.
                (Reverse((likeness * 10_000.0) as u32), entry.airport.icao)
            })
            .filter(|(Reverse(likeness), _)| *likeness > 0)
            .collect();
        // Only the nearest few are put in order: there are some 28,000.
        if count < codes.len() {
            codes.select_nth_unstable(count);
            codes.truncate(count);
        }
        codes.sort_unstable();
        codes.into_iter().map(|(_, icao)| icao).collect()
    }

    /// The airports that match, the best first: those whose code is `query`, then those whose name, city or code begins
    /// with it, then those that have all its words in their name, city and codes. Case and accents do not matter.
    pub(crate) fn search(&self, query: &str) -> Vec<&Airport> {
        let query = folded(query);
        let words: Vec<&str> = query.split_whitespace().collect();
        let mut found: Vec<((Match, bool), &Airport)> = self
            .0
            .iter()
            .filter_map(|entry| {
                // Airports with an IATA code first: those are the ones with scheduled flights.
                Some(((entry.matches(&query, &words)?, entry.airport.iata.is_empty()), &entry.airport))
            })
            .collect();
        // The sort is stable: equals stay in the order of their codes.
        found.sort_by_key(|(place, _)| *place);
        found.into_iter().map(|(_, airport)| airport).collect()
    }
}

/// How well an airport matches a query, the best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Match {
    Code,
    NameBegins,
    CodeBegins,
    Words,
}

impl Entry {
    fn new(airport: Airport) -> Entry {
        let (folded_name, folded_city) = (folded(&airport.name), folded(&airport.city));
        Entry { airport, folded_name, folded_city }
    }

    /// How it matches a folded query that has these words.
    fn matches(&self, query: &str, words: &[&str]) -> Option<Match> {
        let codes = [self.airport.icao.as_str(), &self.airport.iata];
        let is_code = |text: &str| codes.iter().any(|code| code.eq_ignore_ascii_case(text));
        let begins =
            |code: &str| code.get(..query.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(query));
        let has =
            |word: &&str| self.folded_name.contains(word) || self.folded_city.contains(word) || is_code(word);
        match () {
            () if words.is_empty() => None,
            () if is_code(query) => Some(Match::Code),
            () if self.folded_name.starts_with(query) || self.folded_city.starts_with(query) => {
                Some(Match::NameBegins)
            }
            () if codes.into_iter().any(begins) => Some(Match::CodeBegins),
            () if words.iter().all(has) => Some(Match::Words),
            () => None,
        }
    }
}

/// In lower case and in ASCII: `Zürich` is `zurich`, `Tromsø` is `tromso`.
fn folded(text: &str) -> String {
    deunicode(text).trim().to_lowercase()
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn found(query: &str) -> Vec<&'static str> {
        static CATALOGUE: LazyLock<Catalogue> = LazyLock::new(|| Catalogue::load().unwrap());
        CATALOGUE.search(query).into_iter().take(5).map(|airport| airport.icao.as_str()).collect()
    }

    #[test]
    fn airports_are_found_by_code_name_and_city() {
        for (query, icao) in [
            ("kjfk", "KJFK"),
            ("JFK", "KJFK"),
            (" kjf ", "KJFK"),
            ("John F Kennedy", "KJFK"),
            ("kennedy new york", "KJFK"),
            ("new york jfk", "KJFK"),
            ("catania", "LICC"),
            ("Fontanarossa", "LICC"),
        ] {
            assert!(found(query).contains(&icao), "{query}: {:?}", found(query));
        }
        assert_eq!((found("kjfk")[0], found("JFK")[0]), ("KJFK", "KJFK"));
        for nothing in ["no such place", "", "  ", "\u{ad}", "catania kennedy"] {
            assert_eq!(found(nothing), [""; 0], "{nothing:?}");
        }
    }

    #[test]
    fn case_and_accents_do_not_matter() {
        for (queries, icao) in [
            (["zurich", "ZÜRICH", "Zürich", "Zu\u{308}rich"], "LSZH"),
            (["tromso", "TROMSØ", "Tromsø", "tromsø airport"], "ENTC"),
            (["lodz", "ŁÓDŹ", "Łódź", "lódz reymont"], "EPLL"),
            (["egilsstadir", "EGILSSTAÐIR", "egilsstaðir", "Egilsstaðir"], "BIEG"),
        ] {
            for query in queries {
                assert!(found(query).contains(&icao), "{query}: {:?}", found(query));
            }
        }
    }

    #[test]
    fn the_nearest_codes_of_a_mistyped_one_hold_the_one_that_was_meant() {
        let catalogue = Catalogue::load().unwrap();
        let nearest = |code: &str| catalogue.nearest(code, 5).into_iter().map(|icao| icao.to_string());
        for (mistyped, meant) in [("LICX", "LICC"), ("KJFKK", "KJFK"), ("QJFK", "KJFK")] {
            assert!(nearest(mistyped).any(|code| code == meant), "{mistyped}");
        }
        assert_eq!(nearest("JFK").collect::<Vec<_>>(), ["KJFK"]);
        assert_eq!(nearest("LICC").next().unwrap(), "LICC");
        for unlike in ["", "🛫", "!?"] {
            assert_eq!(nearest(unlike).count(), 0, "{unlike:?}");
        }
    }
}
