//! The assignment's names, as its Postman collections use them.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{World, databases, json_of, problem};

fn statuses(answer: &Value) -> Vec<(&str, i64)> {
    let results = answer["results"].as_array().unwrap();
    results.iter().map(|one| (one["airport"].as_str().unwrap(), one["status"].as_i64().unwrap())).collect()
}

#[tokio::test]
async fn interests_are_subscribed_and_removed_one_or_several_at_a_time() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "0s"]).await;
        let ada = world.person("ada@example.com");
        let call = async |method: Method, path: &str, interessi: Value| {
            let body = json!({"email": "Ada@example.com", "interessi": interessi, "high_value": 300});
            json_of(ada.send(method, path, body).await, StatusCode::OK).await
        };
        let one = call(Method::POST, "/subscribeInterest", json!("kjfk")).await;
        assert_eq!(statuses(&one), [("KJFK", 201)]);
        assert_eq!(
            (&one["results"][0]["high_value"], &one["results"][0]["low_value"]),
            (&json!(300), &json!(0))
        );
        let list =
            call(Method::POST, "/subscribeInterest", json!(["KBOS", "kbos", "XXXX", "KJFK", "no", "KBOS "]))
                .await;
        assert_eq!(statuses(&list), [("KBOS", 201), ("XXXX", 422), ("KJFK", 200), ("NO", 422)]);
        assert_eq!(list["results"][1]["type"], "urn:vedetta:problem:unknown-airport");
        let items = ada.json("/interests").await["items"].clone();
        let codes: Vec<&str> =
            items.as_array().unwrap().iter().map(|item| item["airport"].as_str().unwrap()).collect();
        assert_eq!(codes, ["KBOS", "KJFK"]);
        let removed = call(Method::DELETE, "/removeInterest", json!(["KJFK", "KJFK", "KORD", "bad"])).await;
        assert_eq!(statuses(&removed), [("KJFK", 200), ("KORD", 404), ("BAD", 422)]);
        assert_eq!(statuses(&call(Method::DELETE, "/removeInterest", json!("kbos")).await), [("KBOS", 200)]);
        assert_eq!(ada.json("/interests").await["items"], json!([]));
    }
}

#[tokio::test]
async fn a_request_cannot_name_more_airports_than_can_be_looked_up() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "0s"]).await;
        let ada = world.person("ada@example.com");
        let many: Vec<String> = (0..50_000).map(|n| format!("#{n}")).collect();
        for (method, path) in [(Method::POST, "/subscribeInterest"), (Method::DELETE, "/removeInterest")] {
            let response = ada.send(method, path, json!({"interessi": many})).await;
            problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        }
    }
}

#[tokio::test]
async fn thresholds_are_modified_under_both_spellings() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "0s"]).await;
        let (ada, eve) = (world.person("ada@example.com"), world.person("eve@example.com"));
        ada.put("KJFK", json!({})).await;
        for (path, body, expected) in [
            ("/modifieTreshold", json!({"icao": "kjfk", "high_value": 50}), (0, 50)),
            ("/modifyTreshold", json!({"icao": "KJFK", "low_value": 10}), (10, 50)),
            ("/modifyTreshold", json!({"icao": "KJFK", "low_value": 20, "high_value": 30}), (20, 30)),
        ] {
            let view = json_of(ada.send(Method::POST, path, body).await, StatusCode::OK).await;
            assert_eq!((&view["low_value"], &view["high_value"]), (&json!(expected.0), &json!(expected.1)));
        }
        for (body, status) in [
            (json!({"icao": "KJFK"}), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({"icao": "KJFK", "high_value": 20}), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({"high_value": 20}), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({"icao": "QJFK", "high_value": 99}), StatusCode::UNPROCESSABLE_ENTITY),
            (json!({"icao": "KBOS", "high_value": 99}), StatusCode::NOT_FOUND),
            (json!({"icao": "KJFK", "high_value": 99, "email": "eve@example.com"}), StatusCode::FORBIDDEN),
        ] {
            assert_eq!(
                ada.send(Method::POST, "/modifyTreshold", body.clone()).await.status(),
                status,
                "{body}"
            );
        }
        for (method, path) in [(Method::POST, "/subscribeInterest"), (Method::DELETE, "/removeInterest")] {
            let body = json!({"email": "ada@example.com", "interessi": "KJFK"});
            problem(eve.send(method, path, body).await, StatusCode::FORBIDDEN, "forbidden").await;
        }
        assert_eq!(ada.json("/interests/KJFK").await["high_value"], 30);
    }
}

#[tokio::test]
async fn flights_are_told_as_under_the_names_of_today() {
    for db in databases().await {
        let world = World::new(&db, &["--collect-backfill", "3d"]).await;
        let ada = world.person("ada@example.com");
        ada.put("KBTV", json!({})).await;
        ada.collected().await;
        assert_eq!(
            ada.json("/flights/info?icao=kbtv").await["items"],
            ada.json("/airports/KBTV/flights").await["items"]
        );
        let (seed, today) =
            (ada.json("/flights/last?airport=KBTV").await, ada.json("/airports/KBTV/last").await);
        assert_eq!(seed, today);
        for (seed, today) in [("arrival", "arrivals"), ("departure", "departures")] {
            let path = format!("/airports/KBTV/last?direction={today}");
            assert_eq!(
                ada.json(&format!("/flights/last?airport=KBTV&type={seed}")).await,
                ada.json(&path).await
            );
            let path = format!("/airports/KBTV/average?days=2&direction={today}");
            let seed = format!("/flights/average?airport=KBTV&days=2&type={seed}");
            assert_eq!(ada.json(&seed).await, ada.json(&path).await);
        }
        problem(
            ada.get("/flights/info?icao=KBTX").await,
            StatusCode::UNPROCESSABLE_ENTITY,
            "unknown-airport",
        )
        .await;
        assert_eq!(
            ada.get("/flights/last?airport=KBTV&type=sideways").await.status(),
            StatusCode::BAD_REQUEST
        );
        assert_eq!(ada.get("/flights/info").await.status(), StatusCode::BAD_REQUEST);
    }
}
