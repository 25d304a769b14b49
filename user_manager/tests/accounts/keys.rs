use common::clock::Clock;
use common::testing::postgres;
use reqwest::{Method, StatusCode};

use crate::service::{PASSWORD, Service, databases};
use common::testing::eventually;

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
