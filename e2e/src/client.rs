//! A person with an HTTP client in front of the gateway, who looks whether each answer is one that the OpenAPI documents
//! know.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

use crate::eventually;
use crate::openapi::{self, Operation};

pub const PASSWORD: &str = "correct horse battery staple";

#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    token: Option<String>,
    seen: Seen,
}

/// The operations that were asked, with the statuses that they answered. Clones share it.
pub type Seen = Arc<Mutex<BTreeSet<(Operation, u16)>>>;

/// An answer that has been read.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub request_id: String,
    /// The content type, if there is content.
    pub kind: Option<String>,
    pub body: Value,
}

impl Client {
    /// Of the gateway at this address, whatever its certificate.
    pub fn of(gateway: SocketAddr) -> Client {
        common::tls::install();
        let http = reqwest::Client::builder()
            .tls_danger_accept_invalid_certs(true)
            .timeout(Duration::from_secs(20))
            .build()
            .unwrap();
        Client { http, base: format!("https://{gateway}"), token: None, seen: Seen::default() }
    }

    /// What this client and those made from it have seen.
    pub fn seen(&self) -> BTreeSet<(Operation, u16)> {
        self.seen.lock().unwrap().clone()
    }

    /// The token it carries.
    pub fn token(&self) -> &str {
        self.token.as_deref().expect("it is logged in")
    }

    /// Waits until requests get through to both services.
    pub async fn until_served(&self) {
        eventually("the gateway to serve", async || {
            let answer = self.send(Method::GET, "/user_manager/me", None).await.ok()?;
            let collector = self.send(Method::GET, "/data_collector/status", None).await.ok()?;
            // Tokens are checked by the gateway as soon as it has the keys.
            let asks = |answer: &Answer| answer.status == StatusCode::UNAUTHORIZED;
            (asks(&answer) && asks(&collector)).then_some(())
        })
        .await;
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, None).await
    }

    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Answer {
        self.send(method, path, body).await.unwrap()
    }

    async fn send(&self, method: Method, path: &str, body: Option<Value>) -> reqwest::Result<Answer> {
        let operation = openapi::operation(&method, path);
        let request = self.http.request(method, format!("{}{path}", self.base));
        let request = match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        };
        let answer = read(request, body).await?;
        if let Some(operation) = operation {
            let checked = openapi::check(&operation, answer.status, answer.kind.as_deref(), &answer.body);
            checked.unwrap_or_else(|wrong| panic!("{wrong}"));
            self.seen.lock().unwrap().insert((operation, answer.status.as_u16()));
        }
        Ok(answer)
    }

    /// Registers an address and logs in; the client that is returned carries the token.
    pub async fn registered(&self, email: &str) -> Client {
        let person = json!({"email": email, "name": "Ada", "surname": "Example", "password": PASSWORD});
        let answer = self.call(Method::POST, "/user_manager/register", Some(person)).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        self.logged_in(email).await
    }

    pub async fn logged_in(&self, email: &str) -> Client {
        self.logged_in_with(email, PASSWORD).await
    }

    pub async fn logged_in_with(&self, email: &str, password: &str) -> Client {
        let login = json!({"email": email, "password": password});
        let answer = self.call(Method::POST, "/user_manager/login", Some(login)).await;
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        let token = answer.body["access_token"].as_str().unwrap().to_owned();
        Client { token: Some(token), ..self.clone() }
    }
}

async fn read(request: RequestBuilder, body: Option<Value>) -> reqwest::Result<Answer> {
    let request = match body {
        Some(body) => request.json(&body),
        None => request,
    };
    let response: Response = request.send().await?;
    let status = response.status();
    let header = |name| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (request_id, kind) = (header("x-request-id"), header("content-type"));
    let text = response.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(Answer { status, request_id: request_id.unwrap_or_default(), kind, body })
}
