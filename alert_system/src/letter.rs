//! The words of an alert.

use common::clock::rfc3339;
use common::messages::{Alert, Letter, WatchingUser, WindowCounted};
use common::types::{Condition, Metric};
use url::Url;

use crate::rule::Crossing;

/// Writes alerts.
#[derive(Clone, Debug)]
pub(crate) struct Writer {
    /// The base of links, without a slash at its end.
    base: String,
    note: Option<String>,
}

impl Writer {
    /// `note` stands at the foot of every mail.
    pub(crate) fn new(public_url: &Url, note: Option<String>) -> Writer {
        let note = note.filter(|note| !note.trim().is_empty());
        Writer { base: public_url.as_str().trim_end_matches('/').to_owned(), note }
    }

    /// The mail to the `place`th user of a message. Written again from the same message it is the same, id and all.
    pub(crate) fn write(
        &self,
        window: &WindowCounted,
        place: usize,
        user: &WatchingUser,
        crossing: Crossing,
    ) -> Letter {
        let Crossing { condition, value, threshold } = crossing;
        let (airport, metric) = (window.airport, user.metric);
        let id = match user.account {
            Some(account) => {
                let length = window.window_end - window.window_begin;
                format!("{account}/{airport}/{metric}/{}/{length}/{condition}", rfc3339(window.window_begin))
            }
            // The assignment's messages know no account; what tells their mails apart is their place.
            None => format!("{}/{place}/{metric}/{condition}", window.id),
        };
        let crossed = match condition {
            Condition::High => format!("above your high threshold of {threshold}"),
            Condition::Low => format!("below your low threshold of {threshold}"),
        };
        let counted = counted(metric, value);
        Letter {
            id,
            account: user.account,
            email: user.email.clone(),
            subject: format!("{airport}: {counted}, {crossed}"),
            body: self.body(window, user, &counted, &crossed),
            alert: Some(Alert {
                airport,
                condition,
                metric,
                value,
                threshold,
                window_begin: window.window_begin,
                window_end: window.window_end,
                history: window.history.clone(),
            }),
            unsubscribe: user.unsubscribe.clone(),
        }
    }

    fn body(&self, window: &WindowCounted, user: &WatchingUser, counted: &str, crossed: &str) -> String {
        let airport = window.airport;
        let name = window
            .airport_name
            .as_ref()
            .map_or_else(|| airport.to_string(), |name| format!("{name} ({airport})"));
        let mut text = format!("{name} had {counted}, {crossed}.\n\n");
        if window.window_end > window.window_begin {
            let (begin, end) = (minute(window.window_begin), minute(window.window_end));
            text += &format!("Window:      {begin} to {end} UTC\n");
        }
        let counts = window.counts();
        text += &format!(
            "Arrivals:    {}\nDepartures:  {}\nTotal:       {}\n",
            counts.arrivals,
            counts.departures,
            counts.total()
        );
        text +=
            &format!("\nChange your thresholds: PATCH {}/data_collector/interests/{airport}\n", self.base);
        // The assignment's messages bring no signed link.
        text += &match &user.unsubscribe {
            Some(token) => {
                format!("No more of these mails: {}/data_collector/unsubscribe?token={token}\n", self.base)
            }
            None => {
                format!("No more of these mails: DELETE {}/data_collector/interests/{airport}\n", self.base)
            }
        };
        if let Some(note) = &self.note {
            text += &format!("\n{note}\n");
        }
        text
    }
}

fn counted(metric: Metric, value: i64) -> String {
    let (one, several) = match metric {
        Metric::Total => ("flight", "flights"),
        Metric::Arrivals => ("arrival", "arrivals"),
        Metric::Departures => ("departure", "departures"),
    };
    format!("{value} {}", if value == 1 { one } else { several })
}

/// `2001-04-03 00:00`
fn minute(time: i64) -> String {
    rfc3339(time).chars().take(16).collect::<String>().replace('T', " ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rule::judge;

    fn message() -> WindowCounted {
        serde_json::from_value(json!({
            "id": "KJFK/2001-04-03T00:00:00Z/24h/0", "airport": "KJFK",
            "airport_name": "John F Kennedy International Airport",
            "window_begin": 986_256_000, "window_end": 986_342_400, "arrival_count": 172, "departure_count": 179,
            "history": [329, 351],
            "users": [{"account": "6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22", "email": "ada@example.com",
                "high_value": 200, "low_value": 0, "unsubscribe": "signed"}]
        }))
        .unwrap()
    }

    fn letter(message: &WindowCounted) -> Letter {
        let writer =
            Writer::new(&"https://localhost:8443".parse().unwrap(), Some("Recorded flights.".into()));
        let user = &message.users[0];
        writer.write(message, 0, user, judge(message, user).unwrap())
    }

    #[test]
    fn an_alert_says_what_happened_and_how_to_change_and_stop_it() {
        let letter = letter(&message());
        assert_eq!(letter.subject, "KJFK: 351 flights, above your high threshold of 200");
        assert_eq!(
            letter.body,
            "John F Kennedy International Airport (KJFK) had 351 flights, above your high threshold of 200.\n\n\
             Window:      2001-04-03 00:00 to 2001-04-04 00:00 UTC\n\
             Arrivals:    172\nDepartures:  179\nTotal:       351\n\n\
             Change your thresholds: PATCH https://localhost:8443/data_collector/interests/KJFK\n\
             No more of these mails: https://localhost:8443/data_collector/unsubscribe?token=signed\n\n\
             Recorded flights.\n"
        );
    }

    #[test]
    fn without_a_signed_link_it_says_how_to_stop_it_all_the_same() {
        let mut message = message();
        message.users[0].unsubscribe = None;
        let body = letter(&message).body;
        assert!(
            body.contains(
                "No more of these mails: DELETE https://localhost:8443/data_collector/interests/KJFK"
            ),
            "{body}"
        );
    }

    #[test]
    fn the_same_alert_has_the_same_id_whatever_the_threshold() {
        let mut other = message();
        other.id = "KJFK/2001-04-03T00:00:00Z/24h/s-6b1d3f0e-2".into();
        other.users[0].high_value = Some(300);
        assert_eq!(letter(&message()).id, letter(&other).id);
        other.users[0].metric = Metric::Arrivals;
        other.users[0].high_value = Some(100);
        assert_ne!(letter(&message()).id, letter(&other).id);
    }
}
