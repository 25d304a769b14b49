//! The key feed, polled from a small server.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::{Arc, Mutex};

use axum::Router;
use axum::routing::get;
use common::auth::{Error, Feed, Revocation, Signer, Verifier, poll_feed};
use common::clock::Clock;
use common::http::{Json, serve};
use common::types::Account;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use common::testing::eventually;

/// A user_manager that has nothing but its feed.
struct Issuer {
    url: String,
    feed: Arc<Mutex<Feed>>,
    token: CancellationToken,
    task: JoinHandle<std::io::Result<()>>,
}

impl Issuer {
    async fn start() -> Issuer {
        let feed = Arc::new(Mutex::new(Feed::default()));
        let shown = feed.clone();
        let routes = Router::new().route("/keys", get(async move || Json(shown.lock().unwrap().clone())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let token = CancellationToken::new();
        let task = tokio::spawn(serve(listener, routes, token.clone()));
        Issuer { url, feed, token, task }
    }

    fn add_key(&self, kid: &str) -> Signer {
        let signer = Signer::from_pkcs8(kid, &Signer::generate().unwrap()).unwrap();
        self.feed.lock().unwrap().keys.push(signer.public().clone());
        signer
    }

    async fn stop(self) {
        self.token.cancel();
        self.task.await.unwrap().unwrap();
    }
}

fn token_of(signer: &Signer, account: Account) -> String {
    signer.token(account, &"ada@example.com".parse().unwrap(), Clock::System.now()).unwrap()
}

#[tokio::test]
async fn keys_and_revocations_are_picked_up_and_kept_when_the_feed_is_gone() {
    let issuer = Issuer::start().await;
    let account = Account::new_random();
    let first = token_of(&issuer.add_key("k1"), account);
    let verifier = Verifier::new(Clock::System);
    let stop = CancellationToken::new();
    let polling = tokio::spawn(poll_feed(issuer.url.clone(), verifier.clone(), stop.clone()));
    eventually("the first key", async || verifier.verify(&first).ok()).await;
    assert!(verifier.loaded());

    let second = token_of(&issuer.add_key("k2"), account);
    eventually("the second key", async || verifier.verify(&second).ok()).await;
    assert_eq!(verifier.verify(&first).unwrap().sub, account);

    // Revoked, and the feed is gone before the next poll may have seen another.
    let revocation = Revocation { sub: Account::new_random(), not_before: i64::MAX };
    let gone = token_of(&issuer.add_key("k3"), revocation.sub);
    issuer.feed.lock().unwrap().revoked.push(revocation);
    let revoked = async || (verifier.verify(&gone).err() == Some(Error::Invalid("revoked"))).then_some(());
    eventually("the revocation", revoked).await;
    issuer.stop().await;

    // An unknown key has the feed asked, in vain; what was known stays.
    let unknown = token_of(&Signer::from_pkcs8("k4", &Signer::generate().unwrap()).unwrap(), account);
    for _ in 0..3 {
        assert_eq!(verifier.verify(&unknown).unwrap_err(), Error::Invalid("signed with an unknown key"));
        tokio::task::yield_now().await;
    }
    assert!(verifier.verify(&first).is_ok() && verifier.verify(&second).is_ok());
    assert_eq!(verifier.verify(&gone).unwrap_err(), Error::Invalid("revoked"));
    stop.cancel();
    polling.await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_feed_nobody_is_let_in_until_there_is_one() {
    // Bound, so that nobody else gets the port, but not listening yet: connections are refused.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let verifier = Verifier::new(Clock::System);
    let stop = CancellationToken::new();
    let polling = tokio::spawn(poll_feed(format!("http://{address}/keys"), verifier.clone(), stop.clone()));
    let signer = Signer::from_pkcs8("k1", &Signer::generate().unwrap()).unwrap();
    let token = token_of(&signer, Account::new_random());
    assert_eq!(verifier.verify(&token).unwrap_err(), Error::Unavailable);
    assert!(!verifier.loaded() && !polling.is_finished());

    // A feed that is not one changes nothing.
    let verdict = Arc::new(Mutex::new(0));
    let routes = Router::new().route(
        "/keys",
        get({
            let (asked, public) = (verdict.clone(), signer.public().clone());
            async move || {
                let mut asked = asked.lock().unwrap();
                *asked += 1;
                match *asked {
                    1 => Err(common::http::Problem::internal()),
                    2 => Ok(Json(serde_json::json!({"keys": "none"}))),
                    _ => Ok(Json(serde_json::json!({"keys": [public], "revoked": []}))),
                }
            }
        }),
    );
    let listener = socket.listen(16).unwrap();
    let serving = tokio::spawn(serve(listener, routes, stop.clone()));
    eventually("a feed", async || verifier.verify(&token).ok()).await;
    assert!(*verdict.lock().unwrap() >= 3);
    stop.cancel();
    polling.await.unwrap().unwrap();
    serving.await.unwrap().unwrap();
}
