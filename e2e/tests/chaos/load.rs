//! People who ask for their alerts, again and again until they are heard.

use std::sync::Arc;
use std::time::Duration;

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::people::Person;
use crate::plan::Bound;

/// How many ask at once.
const CLIENTS: usize = 8;
/// How long one waits for an answer.
const ANSWER: Duration = Duration::from_secs(30);

/// Where requests go: the bases of URLs.
pub(crate) struct Entrance {
    pub(crate) user_manager: String,
    pub(crate) data_collector: String,
}

/// Registers everybody and subscribes what they want to know.
pub(crate) async fn put_in(people: &[Person], entrance: &Arc<Entrance>, bound: Bound) {
    let mut clients = JoinSet::new();
    for place in 0..CLIENTS {
        let own: Vec<Person> = people.iter().skip(place).step_by(CLIENTS).cloned().collect();
        let client = Client { http: http(place), entrance: entrance.clone(), bound };
        clients.spawn(async move {
            for person in own {
                client.registered(&person).await;
                client.subscribed(&person).await;
            }
        });
    }
    while let Some(done) = clients.join_next().await {
        done.unwrap();
    }
}

/// The gateway counts requests by the client's address, so each has its own where a machine has many.
fn http(place: usize) -> reqwest::Client {
    let own = cfg!(target_os = "linux").then(|| std::net::IpAddr::from([127, 0, 0, 2 + place as u8]));
    reqwest::Client::builder()
        .local_address(own)
        .tls_danger_accept_invalid_certs(true)
        .timeout(ANSWER)
        .build()
        .unwrap()
}

struct Client {
    http: reqwest::Client,
    entrance: Arc<Entrance>,
    bound: Bound,
}

impl Client {
    async fn registered(&self, person: &Person) {
        let email = &person.email;
        let body = json!({"id": email, "email": email, "name": "Somebody", "surname": "Example"});
        let url = format!("{}/register", self.entrance.user_manager);
        self.insists(&url, &body, |status, _| status == StatusCode::CREATED).await;
    }

    async fn subscribed(&self, person: &Person) {
        let body = json!({"email": person.email, "interessi": person.airports, "high_value": 1});
        let url = format!("{}/subscribeInterest", self.entrance.data_collector);
        let each_is_kept = |status: StatusCode, answer: &Value| {
            let results = answer["results"].as_array();
            let kept = |result: &Value| result["status"] == 200 || result["status"] == 201;
            status == StatusCode::OK && results.is_some_and(|results| results.iter().all(kept))
        };
        self.insists(&url, &body, each_is_kept).await;
    }

    /// Asks until the answer is the right one.
    async fn insists(&self, url: &str, body: &Value, is_right: impl Fn(StatusCode, &Value) -> bool) {
        loop {
            let heard = match self.asks(url, body).await {
                Ok((status, answer)) if is_right(status, &answer) => return,
                Ok((status, answer)) => format!("{status} {answer}"),
                Err(error) => format!("{error:?}"),
            };
            self.bound.check(&format!("the right answer to {url} {body}, not {heard}"));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn asks(&self, url: &str, body: &Value) -> reqwest::Result<(StatusCode, Value)> {
        let answer = self.http.post(url).json(body).send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    }
}
