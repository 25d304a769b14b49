//! The journey of README: register, log in, watch an airport, get the mail, ask for averages, days and last flights.

use common::clock::{date, rfc3339};
use jiff::Timestamp;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::client::Client;
use crate::expected::{Side, count, last};
use crate::mailbox::Mailbox;

const DAY: i64 = 86_400;

/// A traveller, and what they have seen.
pub struct Traveller {
    pub client: Client,
    pub email: String,
    pub mailbox: Mailbox,
}

impl Traveller {
    /// Registers and subscribes KJFK with a high threshold of 200, then waits for the one mail about the last closed
    /// day, which begins at `midnight`, and checks everything against the data.
    pub async fn sets_out(client: &Client, email: &str, mailbox: &Mailbox) -> (Traveller, i64) {
        let client = client.registered(email).await;
        let traveller = Traveller { client, email: email.to_owned(), mailbox: mailbox.clone() };
        let subscribed = json!({"high_value": 200});
        let answer =
            traveller.client.call(Method::PUT, "/data_collector/interests/KJFK", Some(subscribed)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let mails = mailbox.wait_for(email, 1).await;
        let midnight = traveller.last_closed_day().await;
        let [mail] = mails.as_slice() else { panic!("exactly one mail, not {mails:?}") };
        assert_eq!(mail.request_id, answer.request_id, "one request id from the gateway to the mail");
        traveller.mail_is_about("KJFK", midnight, &mail.subject, &mail.body);
        traveller.figures_are_exact("KJFK", midnight).await;
        (traveller, midnight)
    }

    async fn last_closed_day(&self) -> i64 {
        let interest = self.client.get("/data_collector/interests/KJFK").await.body;
        assert_eq!(interest["state"], "high", "{interest}");
        interest["last_window"]["begin"].as_str().unwrap().parse::<Timestamp>().unwrap().as_second()
    }

    /// The mail tells the exact number of flights of that day.
    pub fn mail_is_about(&self, airport: &str, midnight: i64, subject: &str, body: &str) {
        let arrivals = count(airport, Side::Arrival, midnight);
        let departures = count(airport, Side::Departure, midnight);
        let total = arrivals + departures;
        assert_eq!(subject, format!("{airport}: {total} flights, above your high threshold of 200"));
        for line in [
            format!("Window:      {} 00:00 to {} 00:00 UTC", date(midnight), date(midnight + DAY)),
            format!("Arrivals:    {arrivals}"),
            format!("Departures:  {departures}"),
            format!("Total:       {total}"),
        ] {
            assert!(body.lines().any(|found| found.trim_end() == line), "no line '{line}' in {body}");
        }
    }

    /// Days, average and last flights are what the data says; `midnight` begins the last closed day.
    pub async fn figures_are_exact(&self, airport: &str, midnight: i64) {
        let days: Vec<i64> = (0..7).map(|n| midnight - (6 - n) * DAY).collect();
        let daily = self.client.get(&format!("/data_collector/airports/{airport}/daily?days=7")).await.body;
        let expected: Vec<Value> = days
            .iter()
            .map(|day| {
                let (arrivals, departures) =
                    (count(airport, Side::Arrival, *day), count(airport, Side::Departure, *day));
                let total = arrivals + departures;
                json!({"day": date(*day), "arrivals": arrivals, "departures": departures, "total": total})
            })
            .collect();
        assert_eq!(daily, json!({"airport": airport, "days": expected}));

        let average =
            self.client.get(&format!("/data_collector/airports/{airport}/average?days=7")).await.body;
        let mean = |side| days.iter().map(|day| count(airport, side, *day)).sum::<i64>() as f64 / 7.0;
        assert_eq!(average["days_with_data"], 7);
        assert_eq!(average["arrivals"], mean(Side::Arrival));
        assert_eq!(average["departures"], mean(Side::Departure));
        let total: i64 = days
            .iter()
            .map(|day| count(airport, Side::Arrival, *day) + count(airport, Side::Departure, *day))
            .sum();
        assert_eq!(average["total"], total as f64 / 7.0);

        let latest = self.client.get(&format!("/data_collector/airports/{airport}/last")).await.body;
        for (side, name, time) in
            [(Side::Arrival, "arrival", "last_seen"), (Side::Departure, "departure", "first_seen")]
        {
            let (at, aircraft) = last(airport, side, midnight);
            assert_eq!(latest[name][time], rfc3339(at), "{latest}");
            let seen = latest[name]["icao24"].as_str().unwrap().to_owned();
            assert!(aircraft.contains(&seen), "{seen} is not among {aircraft:?}");
        }
    }

    /// A day later: exactly one more mail.
    pub async fn gets_the_next_mail(&self, midnight: i64) {
        let mails = self.mailbox.wait_for(&self.email, 2).await;
        assert_eq!(mails.len(), 2, "{mails:?}");
        let day = date(midnight);
        let mail = mails.iter().find(|mail| mail.body.contains(&format!("{day} 00:00 to "))).unwrap();
        self.mail_is_about("KJFK", midnight, &mail.subject, &mail.body);
    }

    /// Deletes the account. Its token is worth nothing any more, and who registers the address again finds nothing of it.
    pub async fn goes_home(self, anyone: &Client) {
        let gone = self.client.call(Method::DELETE, "/user_manager/me", None).await;
        assert_eq!(gone.status, StatusCode::NO_CONTENT, "{gone:?}");
        crate::eventually("the token to be void", async || {
            let answer = self.client.get("/data_collector/interests").await;
            (answer.status == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        let again = anyone.registered(&self.email).await;
        let interests = again.get("/data_collector/interests").await;
        assert_eq!((interests.status, &interests.body["items"]), (StatusCode::OK, &json!([])));
    }
}
