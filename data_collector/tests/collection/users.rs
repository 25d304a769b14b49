//! Who has an account, as user_manager says.

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};

use crate::world::{World, databases, json_of, problem};

/// `Retry-After` of a refusal because user_manager does not answer.
async fn away(request: RequestBuilder) {
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["retry-after"], "5");
    problem(response, StatusCode::SERVICE_UNAVAILABLE, "unavailable").await;
}

#[tokio::test]
async fn an_interest_is_made_only_for_who_has_an_account() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({})).await;
        // The account is gone, and neither the feed nor the bus has told yet.
        world.directory.remove(ada.account);
        let new = ada.send(Method::PUT, "/interests/KBOS", json!({})).await;
        problem(new, StatusCode::UNAUTHORIZED, "unauthorized").await;
        let several = json!({"interessi": ["KJFK", "KBOS"]});
        let new = ada.send(Method::POST, "/subscribeInterest", several).await;
        problem(new, StatusCode::UNAUTHORIZED, "unauthorized").await;
        assert_eq!(ada.json("/interests").await["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn while_user_manager_is_away_new_interests_are_to_be_asked_for_later_and_all_else_goes_on() {
    for db in databases().await {
        let world = World::new(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({})).await;
        world.directory.stop().await;
        away(ada.request(Method::PUT, "/interests/KBOS")).await;
        for codes in [json!("KBOS"), json!(["KJFK", "KBOS", "XX"])] {
            away(ada.request(Method::POST, "/subscribeInterest").json(&json!({"interessi": codes}))).await;
        }
        assert_eq!(ada.json("/interests").await["items"].as_array().unwrap().len(), 1);
        // What is there already needs nobody to be asked.
        let changed = ada.send(Method::PUT, "/interests/KJFK", json!({"high_value": 10})).await;
        assert_eq!(json_of(changed, StatusCode::OK).await["high_value"], 10);
        let changed = ada.send(Method::POST, "/modifieTreshold", json!({"icao": "KJFK", "high_value": 11}));
        assert_eq!(json_of(changed.await, StatusCode::OK).await["high_value"], 11);
        let again =
            ada.send(Method::POST, "/subscribeInterest", json!({"interessi": ["KJFK", "XX", "ZZZZ"]})).await;
        assert_eq!(json_of(again, StatusCode::OK).await["results"][0]["status"], 200);

        world.directory.resume().await;
        ada.put("KBOS", json!({})).await;
        assert_eq!(ada.delete("/interests/KJFK").await.status(), StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn a_user_manager_that_does_not_answer_is_away_too() {
    for db in databases().await {
        // It takes connections, and says nothing.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let world = World::new(&db, &["--user-manager-grpc-url", &url]).await;
        away(world.person("ada@example.com").request(Method::PUT, "/interests/KJFK")).await;
    }
}

/// The assignment's requests, which name an email and carry no token.
#[tokio::test]
async fn in_the_classroom_mode_the_email_says_who_asks() {
    for db in databases().await {
        let world = World::new(&db, &["--auth", "off"]).await;
        let (ada, eve) = (world.person("ada@example.com"), world.person("eve@example.com"));
        let send = async |method: Method, path: &str, body: Value| {
            world.request(method, path).json(&body).send().await.unwrap()
        };
        let results = async |method: Method, path: &str, body: Value| {
            json_of(send(method, path, body).await, StatusCode::OK).await["results"].clone()
        };
        let one =
            json!({"email": "ada@example.com", "interessi": "LIMC", "high_value": 300, "low_value": 10});
        let made = results(Method::POST, "/subscribeInterest", one).await;
        assert_eq!(made, json!([{"airport": "LIMC", "status": 201, "low_value": 10, "high_value": 300}]));
        let several = json!({"email": "ADA@example.com", "interessi": ["KJFK", "LIRF"]});
        let made = results(Method::POST, "/subscribeInterest", several).await;
        assert_eq!((&made[0]["status"], &made[1]["status"]), (&json!(201), &json!(201)));
        for path in ["/modifieTreshold", "/modifyTreshold"] {
            let change = json!({"email": "ada@example.com", "icao": "LIMC", "high_value": 250});
            assert_eq!(
                json_of(send(Method::POST, path, change).await, StatusCode::OK).await["high_value"],
                250
            );
        }
        for path in [
            "/flights/info?icao=KJFK",
            "/flights/last?airport=KJFK&type=arrival",
            "/flights/average?airport=KJFK&days=3&type=departure",
        ] {
            assert_eq!(
                world.request(Method::GET, path).send().await.unwrap().status(),
                StatusCode::OK,
                "{path}"
            );
        }
        let interests = async |email: &str| {
            let request = world.request(Method::GET, "/interests").header("email", email);
            let listed = json_of(request.send().await.unwrap(), StatusCode::OK).await;
            listed["items"].as_array().unwrap().len()
        };
        assert_eq!((interests("ada@example.com").await, interests("eve@example.com").await), (3, 0));
        let put = json!({"email": "eve@example.com", "high_value": 1});
        let made = send(Method::PUT, "/interests/KJFK", put).await;
        assert_eq!(made.status(), StatusCode::CREATED);
        let removal = json!({"email": "ada@example.com", "interessi": ["LIMC", "LIRF", "LIRF"]});
        let removed = results(Method::DELETE, "/removeInterest", removal).await;
        assert_eq!(removed.as_array().unwrap().len(), 2);
        assert_eq!((interests("ada@example.com").await, interests("eve@example.com").await), (1, 1));

        // Nobody, an unknown person, and two at once.
        let nobody = send(Method::POST, "/subscribeInterest", json!({"interessi": "KJFK"})).await;
        problem(nobody, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        let unknown = json!({"email": "mia@example.com", "interessi": "KJFK"});
        let unknown = send(Method::POST, "/subscribeInterest", unknown).await;
        problem(unknown, StatusCode::NOT_FOUND, "unknown-user").await;
        let two = world.request(Method::PATCH, "/interests/KJFK").header("email", "eve@example.com");
        let two = two.json(&json!({"email": "ada@example.com", "high_value": 9})).send().await.unwrap();
        problem(two, StatusCode::FORBIDDEN, "forbidden").await;
        // While user_manager is away nobody can be told from somebody unknown.
        world.directory.stop().await;
        let body = json!({"email": "ada@example.com", "interessi": "KJFK"});
        away(world.request(Method::POST, "/subscribeInterest").json(&body)).await;
        drop((ada, eve));
    }
}
