use std::time::Duration;

use base64::Engine;
use common::clock::Clock;
use common::testing::{eventually, postgres};
use reqwest::{Method, StatusCode};

use crate::service::{NOW, PASSWORD, Service, databases, link};

#[tokio::test]
async fn the_signing_key_and_the_accounts_outlive_a_restart() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        let keys = service.feed().await.keys;
        service.stop().await;
        let service = Service::start(&db).await;
        assert_eq!(service.feed().await.keys, keys);
        assert_eq!(service.me(&token).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_deletion_outlives_a_restart_and_is_told_even_if_the_process_ended_before() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        service.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        let log = service.log.clone();
        service.stop().await;
        let service = Service::start(&db).await;
        assert_eq!(service.me(&token).await.status(), StatusCode::UNAUTHORIZED);
        eventually("user-forgotten on one of the two logs", async || {
            let (before, after) =
                (log.read_all("user-forgotten").await, service.log.read_all("user-forgotten").await);
            (before.unwrap().len() + after.unwrap().len() == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn two_replicas_that_start_together_sign_with_one_key() {
    let Some(database) = postgres("user_manager: two replicas").await else { return };
    let (one, two) = tokio::join!(
        Service::replica(&database, "one", Clock::System),
        Service::replica(&database, "two", Clock::System)
    );
    let keys = one.feed().await.keys;
    assert_eq!((keys.len(), &keys), (1, &two.feed().await.keys));
    one.register("ada@example.com").await;
    let token = two.login("ada@example.com", PASSWORD).await;
    assert_eq!(one.me(&token).await.status(), StatusCode::OK);
    // What one revokes, the other learns from the database.
    one.request(Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
    eventually("the other replica refuses the token", async || {
        (two.me(&token).await.status() == StatusCode::UNAUTHORIZED).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_admin_port_tells_health_readiness_and_metrics() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        for path in ["/healthz", "/readyz"] {
            assert_eq!(service.admin(path).await.status(), StatusCode::OK, "{path}");
        }
        let metrics = service.admin("/metrics").await.text().await.unwrap();
        for line in [
            "vedetta_user_manager_up{service=\"user_manager\",node=\"one\"} 1",
            "vedetta_user_manager_http_request_seconds_count{service=\"user_manager\",node=\"one\",route=\"/register\",method=\"POST\",status=\"2xx\"} 1",
            "vedetta_user_manager_outbox_waiting_messages{service=\"user_manager\",node=\"one\"} 0",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
        // The key feed is the admin port's alone.
        let public = service.request(Method::GET, "/keys").send().await.unwrap();
        assert_eq!(public.status(), StatusCode::NOT_FOUND);
    }
}

/// A stand-in for another service, with the feed as it is now.
async fn accepts(service: &Service, token: &str) -> bool {
    service.verifier().await.verify(token).is_ok()
}

/// Waits until the feed has so many keys; gives their ids.
async fn key_ids_when(service: &Service, count: usize) -> Vec<String> {
    eventually("keys", async || {
        let keys = service.feed().await.keys;
        (keys.len() == count).then(|| keys.into_iter().map(|key| key.kid).collect())
    })
    .await
}

fn signed_by(token: &str) -> String {
    jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
}

#[tokio::test]
async fn a_key_is_published_five_minutes_before_its_use_and_outlives_its_last_token() {
    for db in databases().await {
        let (service, time) = Service::with(&db, &["--key-rotation=1d"]).await;
        service.register("ada@example.com").await;
        let login = async || service.login("ada@example.com", PASSWORD).await;
        let token = login().await;
        let first = key_ids_when(&service, 1).await.remove(0);
        assert_eq!(signed_by(&token), first, "the very first key is used at once");

        time.advance(Duration::from_secs(86_400));
        let keys = key_ids_when(&service, 2).await;
        assert_eq!(keys[0], first);
        time.advance(Duration::from_secs(299));
        let last = login().await;
        assert_eq!(signed_by(&last), first, "everybody has to know the next key first");
        time.advance(Duration::from_secs(1));
        let next = login().await;
        assert_eq!(signed_by(&next), keys[1]);
        // With the overlap both are good, and the old key goes when its last token has ended.
        assert!(accepts(&service, &last).await && accepts(&service, &next).await);
        time.advance(Duration::from_secs(3599 - 1));
        assert!(accepts(&service, &last).await);
        time.advance(Duration::from_secs(1000));
        assert_eq!(key_ids_when(&service, 1).await, [keys[1].clone()]);
        assert_eq!(signed_by(&login().await), keys[1]);
    }
}

/// Keys that were stolen are removed from the database by hand.
#[tokio::test]
async fn a_key_that_is_taken_out_of_the_database_ends_its_tokens_and_another_is_made() {
    for db in databases().await {
        let service = Service::start(&db).await;
        service.register("ada@example.com").await;
        let token = service.login("ada@example.com", PASSWORD).await;
        let first = key_ids_when(&service, 1).await;
        db.execute("DELETE FROM signing_key").await;
        eventually("another key", async || (key_ids_when(&service, 1).await != first).then_some(())).await;
        assert!(!accepts(&service, &token).await);
        eventually("the token is void here too", async || {
            (service.me(&token).await.status() == StatusCode::UNAUTHORIZED).then_some(())
        })
        .await;
        let token = service.login("ada@example.com", PASSWORD).await;
        assert!(accepts(&service, &token).await);
    }
}

#[tokio::test]
async fn two_replicas_agree_on_the_next_key() {
    let Some(database) = postgres("user_manager: rotation").await else { return };
    let (clock, time) = Clock::manual(NOW);
    let replica = |node| Service::built(&database, node, clock.clone(), &["--key-rotation=1d"]);
    let (one, two) = (replica("one").await.unwrap(), replica("two").await.unwrap());
    time.advance(Duration::from_secs(86_400));
    let (keys, others) = (key_ids_when(&one, 2).await, key_ids_when(&two, 2).await);
    assert_eq!(keys, others);
}

#[tokio::test]
async fn with_a_key_of_the_operators_nothing_lies_open_in_the_database() {
    for db in databases().await {
        let stored = async || {
            let (keys, secrets) = ("SELECT pkcs8 FROM signing_key", "SELECT value FROM secret");
            [db.texts(keys).await, db.texts(secrets).await].concat()
        };
        let sealed = |values: &[String]| values.iter().all(|value| value.starts_with("aes-256-gcm:"));
        let key = |byte: u8| base64::engine::general_purpose::STANDARD.encode([byte; 32]);
        let start = async |keys: Option<String>| {
            let option = keys.map(|keys| format!("--key-encryption-key={keys}"));
            let more: Vec<&str> = option.iter().map(String::as_str).chain(["--confirm-email=on"]).collect();
            Service::built(&db.url, "one", Clock::manual(NOW).0, &more).await
        };
        let service = start(None).await.unwrap();
        service.register("ada@example.com").await;
        let link = link(&service.mails_when(1).await[0]);
        assert_eq!(service.open(&link).await.status(), StatusCode::OK);
        let token = service.login("ada@example.com", PASSWORD).await;
        let plain = stored().await;
        assert!(plain.len() == 2 && !sealed(&plain));
        service.stop().await;

        // What lay there openly is encrypted at the next start, and under a new key at a later one; it stays the same key.
        for keys in [key(1), format!("{},{}", key(2), key(1)), key(2)] {
            let service = start(Some(keys)).await.unwrap();
            assert!(sealed(&stored().await));
            assert_eq!(service.me(&token).await.status(), StatusCode::OK);
            assert_eq!(service.open(&link).await.status(), StatusCode::OK);
            service.stop().await;
        }
        for keys in [None, Some(key(1)), Some(key(9))] {
            let refused = start(keys).await.err().unwrap();
            assert!(format!("{refused:#}").contains("KEY_ENCRYPTION_KEY"), "{refused:#}");
        }
    }
}
