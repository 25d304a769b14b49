//! The field's words as types that cannot hold a bad value.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use uuid::Uuid;

/// Why a value was refused; the text is for the person who sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// An account: who a person is, whatever address they have now. The `sub` of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Account(pub Uuid);

impl Account {
    /// A new account, never seen before.
    pub fn new_random() -> Account {
        Account(Uuid::new_v4())
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Account {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Account, Invalid> {
        Uuid::parse_str(text).map(Account).map_err(|_| Invalid("account must be a UUID".into()))
    }
}

/// A mail address, in the form in which addresses are compared: lower-case, the domain in ASCII.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Email(String);

impl Email {
    /// The normalised address.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// For logs: the first letter and the domain, `a***@example.com`.
    pub fn masked(&self) -> String {
        let (local, domain) = self.0.split_once('@').unwrap_or((&self.0, ""));
        format!("{}***@{domain}", local.chars().take(1).collect::<String>())
    }
}

impl FromStr for Email {
    type Err = Invalid;

    /// Takes `local@domain` as RFC 5321 limits it (64 and 255 octets, 254 in all), a dot-atom as local part
    /// (letters beyond ASCII allowed, RFC 6531), and a domain of at least two labels.
    fn from_str(text: &str) -> Result<Email, Invalid> {
        let refuse = |why: &str| Err(Invalid(format!("email {why}")));
        // Longer than any address can be, however it is written.
        if text.len() > 1024 {
            return refuse("is longer than 254 characters");
        }
        // Lower-cased first: that can lengthen a text and bring in characters that are not allowed.
        let text = text.trim().to_lowercase();
        let Some((local, domain)) = text.rsplit_once('@') else {
            return refuse("must look like name@domain");
        };
        if local.is_empty() || local.len() > 64 {
            return refuse("must have 1 to 64 characters before the @");
        }
        let atom = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
        if !local.chars().all(atom) || local.starts_with('.') || local.ends_with('.') || local.contains("..")
        {
            return refuse("has a character that is not allowed before the @");
        }
        let Ok(domain) = idna::domain_to_ascii_strict(domain) else { return refuse("has an invalid domain") };
        let labels: Vec<&str> = domain.split('.').collect();
        if labels.len() < 2 || domain.len() > 253 || labels.iter().any(|l| l.is_empty() || l.len() > 63) {
            return refuse("has an invalid domain");
        }
        let address = format!("{local}@{domain}");
        if address.len() > 254 {
            return refuse("is longer than 254 characters");
        }
        Ok(Email(address))
    }
}

/// Masked, so that a `{:?}` in a log reveals nobody.
impl fmt::Debug for Email {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl<'de> Deserialize<'de> for Email {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Email, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An ICAO airport code: four letters or digits, upper-case.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Icao([u8; 4]);

impl Icao {
    /// The code, `KJFK`.
    pub fn as_str(&self) -> &str {
        // Only ASCII letters and digits get in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Icao {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Icao, Invalid> {
        let text = text.trim();
        match <[u8; 4]>::try_from(text.as_bytes()) {
            Ok(code) if code.iter().all(u8::is_ascii_alphanumeric) => {
                Ok(Icao(code.map(|b| b.to_ascii_uppercase())))
            }
            _ => {
                let shown: String = text.chars().take(12).collect();
                Err(Invalid(format!("'{shown}' is not an ICAO code: four letters or digits, like KJFK")))
            }
        }
    }
}

impl fmt::Display for Icao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Icao {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Icao {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Icao {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Icao, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Declares an enum whose variants have one name each, in JSON, in the database and in URLs.
macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// The name in JSON, in the database and in URLs.
            pub fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<$name, Invalid> {
                match text {
                    $($text => Ok($name::$variant),)+
                    _ => Err(Invalid(concat!(stringify!($name), " must be one of: ", $($text, " "),+).trim_end().into())),
                }
            }
        }
    };
}

named! {
    /// The side of an airport that a flight is on.
    Direction {
        /// Flights that land there.
        Arrivals = "arrivals",
        /// Flights that take off there.
        Departures = "departures",
    }
}

named! {
    /// What an interest counts.
    Metric {
        /// Arrivals and departures together.
        Total = "total",
        /// Arrivals alone.
        Arrivals = "arrivals",
        /// Departures alone.
        Departures = "departures",
    }
}

impl Metric {
    /// The count of a window under this metric.
    pub fn of(self, counts: Counts) -> i64 {
        match self {
            Metric::Total => counts.total(),
            Metric::Arrivals => counts.arrivals,
            Metric::Departures => counts.departures,
        }
    }
}

named! {
    /// When a person is mailed.
    Notify {
        /// For every window out of range.
        EveryWindow = "every_window",
        /// Only when the side differs from the preceding window's.
        OnChange = "on_change",
    }
}

named! {
    /// The side of the range that a count is out on.
    Condition {
        /// Above the high threshold.
        High = "high",
        /// Below the low threshold.
        Low = "low",
    }
}

/// Flights of one airport in one window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Flights that landed.
    pub arrivals: i64,
    /// Flights that took off.
    pub departures: i64,
}

impl Counts {
    /// Arrivals and departures together.
    pub fn total(self) -> i64 {
        self.arrivals.saturating_add(self.departures)
    }
}

/// A range of counts; either end may be open. `high` is above `low`, both are at least 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thresholds {
    low: Option<i64>,
    high: Option<i64>,
}

impl Thresholds {
    /// Checks that both are at least 0 and high is above low.
    pub fn new(low: Option<i64>, high: Option<i64>) -> Result<Thresholds, Invalid> {
        for (name, value) in [("low_value", low), ("high_value", high)] {
            if value.is_some_and(|value| !(0..=1_000_000_000).contains(&value)) {
                return Err(Invalid(format!("{name} must be an integer from 0 to 1000000000")));
            }
        }
        match (low, high) {
            (Some(low), Some(high)) if high <= low => {
                Err(Invalid(format!("high_value ({high}) must be above low_value ({low})")))
            }
            _ => Ok(Thresholds { low, high }),
        }
    }

    /// Below this a count is low.
    pub fn low(self) -> Option<i64> {
        self.low
    }

    /// Above this a count is high.
    pub fn high(self) -> Option<i64> {
        self.high
    }

    /// The rule: the side that `count` is out on and the threshold it crossed, or nothing when it is in range.
    pub fn crossed(self, count: i64) -> Option<(Condition, i64)> {
        match (self.low, self.high) {
            (_, Some(high)) if count > high => Some((Condition::High, high)),
            (Some(low), _) if count < low => Some((Condition::Low, low)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_compared_lower_cased_with_the_domain_in_ascii() {
        assert_eq!("Ada@Example.COM".parse::<Email>().unwrap().as_str(), "ada@example.com");
        assert_eq!("ada@bücher.example".parse::<Email>().unwrap().as_str(), "ada@xn--bcher-kva.example");
        assert_eq!(format!("{:?}", "ada@example.com".parse::<Email>().unwrap()), "a***@example.com");
    }

    #[test]
    fn addresses_that_could_break_a_mail_are_refused() {
        let long = format!("{}@example.com", "a".repeat(65));
        for bad in [
            "",
            "ada",
            "@example.com",
            "ada@",
            "ada@example",
            "a b@example.com",
            "ada@exa mple.com",
            "ada\r\nBcc: x@example.com",
            ".ada@example.com",
            "a..b@example.com",
            "İ@example.com",
            &"Ⱥ".repeat(32),
            &format!("{}@example.com", "Ⱥ".repeat(32)),
            "ada@-.com",
            "ada@a..com",
            "ada@[192.0.2.1]",
            "\"ada\"@example.com",
            "ada@exa_mple.com",
            "ada@example.com.",
            "ada@example.com\0",
            &format!("ada@{}.com", "a".repeat(64)),
            &format!("ada@{}com", "a.".repeat(124)),
            &long,
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn codes_are_upper_cased_and_four_long() {
        assert_eq!("kjfk".parse::<Icao>().unwrap().as_str(), "KJFK");
        for bad in ["", "JFK", "KJFKX", "KJ K", "KJF!", "ÀJFK", "日本"] {
            assert!(bad.parse::<Icao>().is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn high_must_be_above_low() {
        assert!(Thresholds::new(Some(5), Some(5)).is_err());
        assert!(Thresholds::new(Some(-1), None).is_err());
        assert!(Thresholds::new(Some(5), Some(6)).is_ok());
        assert!(Thresholds::new(None, Some(0)).is_ok());
    }

    #[test]
    fn a_count_is_out_of_range_beyond_a_threshold_and_not_on_it() {
        let range = Thresholds::new(Some(10), Some(20)).unwrap();
        assert_eq!(range.crossed(9), Some((Condition::Low, 10)));
        assert_eq!([range.crossed(10), range.crossed(15), range.crossed(20)], [None; 3]);
        assert_eq!(range.crossed(21), Some((Condition::High, 20)));
        assert_eq!(Thresholds::default().crossed(0), None);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_is_stable(text in ".{0,80}") {
            if let Ok(email) = text.parse::<Email>() {
                prop_assert_eq!(email.as_str().parse::<Email>().unwrap(), email);
            }
            if let Ok(icao) = text.parse::<Icao>() {
                prop_assert_eq!(icao.as_str().parse::<Icao>().unwrap(), icao);
            }
        }
    }
}
