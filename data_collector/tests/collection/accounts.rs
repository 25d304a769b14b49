//! Accounts that are deleted elsewhere, and what everybody may ask of the service.

use common::clock::rfc3339;
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::expected::DAY;
use crate::world::{NOON, TODAY, World, databases, json_of, problem};
use common::testing::eventually;

#[tokio::test]
async fn a_deleted_account_loses_its_interests_and_can_make_no_new_ones() {
    for db in databases().await {
        let mut world = World::new(&db, &["--collect-backfill", "1d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        ada.put("KORF", json!({})).await;
        bob.put("KBTV", json!({})).await;
        bob.collected().await;
        world.forget(&ada).await;
        eventually("the interests are gone", async || {
            (ada.json("/interests").await["items"] == json!([])).then_some(())
        })
        .await;
        let refused = ada.send(Method::PUT, "/interests/KBTV", json!({})).await;
        problem(refused, StatusCode::UNAUTHORIZED, "unauthorized").await;
        let seed = ada.send(Method::POST, "/subscribeInterest", json!({"interessi": "KBTV"})).await;
        assert_eq!(json_of(seed, StatusCode::OK).await["results"][0]["status"], 401);
        // Told again, nothing more happens; the other's interest stays.
        world.forget(&ada).await;
        assert_eq!(bob.json("/interests").await["items"].as_array().unwrap().len(), 1);
        // An account that was never seen here is refused as well.
        let never = world.person("never@example.com");
        world.forget(&never).await;
        let lag = async || world.log.lag("collector_group", "user-forgotten").await.unwrap();
        eventually("all is read", async || (lag().await == 0).then_some(())).await;
        assert_eq!(
            never.send(Method::PUT, "/interests/KBTV", json!({})).await.status(),
            StatusCode::UNAUTHORIZED
        );
        drop((ada, bob, never));
        world.stop().await;
    }
}

#[tokio::test]
async fn the_status_tells_how_collection_goes() {
    for db in databases().await {
        let world = World::new(&db, &["--opensky-daily-credits", "4000"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        let status = ada.collected().await;
        assert_eq!(status["breaker"]["state"], "closed");
        assert_eq!(status["breaker"]["counters"]["successes"], 14);
        for counter in ["failures", "refused", "opened", "consecutive_failures"] {
            assert_eq!(status["breaker"]["counters"][counter], 0, "{counter}");
        }
        assert_eq!(
            status["credits"],
            json!({
                "remaining": 4000 - 7 * 8, "daily": 4000, "renewed_at": rfc3339(TODAY + DAY),
                "windows_waiting": 0, "paused_until": null
            })
        );
        assert_eq!((&status["time"], &status["last_cycle"]), (&json!(rfc3339(NOON)), &json!(rfc3339(NOON))));
        assert_eq!(status["next_cycle"], rfc3339(NOON + DAY / 2));
        assert!(status["obstacle"].is_null());
        let airport = &status["airports"][0];
        assert_eq!((&airport["airport"], &airport["lag"]), (&json!("KBTV"), &json!(0)));
        assert_eq!(airport["last_window"]["begin"], rfc3339(TODAY - DAY));
    }
}

#[tokio::test]
async fn a_collection_can_be_asked_for_once_a_minute() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        let calls = world.replay.calls().await;
        let asked = ada.send(Method::POST, "/collect", json!({"icao": "kbtv"})).await;
        assert_eq!(json_of(asked, StatusCode::ACCEPTED).await, json!({"airports": ["KBTV"]}));
        let again = ada.request(Method::POST, "/collect").send().await.unwrap();
        assert_eq!(again.headers()["retry-after"], "60");
        problem(again, StatusCode::TOO_MANY_REQUESTS, "too-soon").await;
        // Each account has its own minute; a stored window is never fetched again, a new one is.
        assert_eq!(
            bob.request(Method::POST, "/collect").send().await.unwrap().status(),
            StatusCode::ACCEPTED
        );
        world.time.set(TODAY + DAY + 60);
        ada.collected().await;
        assert_eq!(world.replay.answered("arrival", 200).await, calls / 2 + 1);
    }
}

#[tokio::test]
async fn the_admin_port_tells_health_readiness_and_metrics() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "2d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        for path in ["/healthz", "/readyz"] {
            assert_eq!(world.admin(path).await.status(), StatusCode::OK, "{path}");
        }
        let metrics = eventually("the gauges are up to date", async || {
            let text = world.admin("/metrics").await.text().await.unwrap();
            text.contains(
                "vedetta_data_collector_outbox_waiting_messages{service=\"data_collector\",node=\"one\"} 0",
            )
            .then_some(text)
        })
        .await;
        for line in [
            "stored_windows_total{service=\"data_collector\",node=\"one\"} 2",
            "breaker_state{service=\"data_collector\",node=\"one\"} 0",
            "opensky_calls_total{service=\"data_collector\",node=\"one\",outcome=\"flights\"} 4",
        ] {
            assert!(metrics.contains(line), "{line} is not in\n{metrics}");
        }
    }
}
