//! The API of interests: what is taken, what is refused, and who sees what.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::world::{Setup, World, databases, json_of, problem};

const UNPROCESSABLE: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;

/// Nothing is collected here.
async fn quiet(db: &common::testing::TestDb, flags: &[&str]) -> World {
    World::with(db, Setup { flags, credentials: None, ..Setup::default() }).await
}

fn thresholds(view: &Value) -> (Option<i64>, Option<i64>) {
    (view["low_value"].as_i64(), view["high_value"].as_i64())
}

#[tokio::test]
async fn what_is_left_out_gets_the_defaults_unless_they_contradict_what_is_given() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        for (body, expected) in [
            (json!({}), (Some(0), Some(200))),
            (json!({"high_value": 300}), (Some(0), Some(300))),
            (json!({"low_value": 10}), (Some(10), Some(200))),
            (json!({"low_value": 200}), (Some(200), None)),
            (json!({"low_value": 500}), (Some(500), None)),
            (json!({"high_value": 0}), (None, Some(0))),
            (json!({"low_value": null}), (None, Some(200))),
            (json!({"low_value": null, "high_value": null}), (None, None)),
            (json!({"low_value": 500, "high_value": null}), (Some(500), None)),
        ] {
            let ada = world.person("ada@example.com");
            let view = ada.put("KJFK", body.clone()).await;
            assert_eq!(thresholds(&view), expected, "{body}");
            assert_eq!((&view["metric"], &view["notify"]), (&json!("total"), &json!("every_window")));
            assert_eq!((&view["state"], &view["last_window"]), (&json!("waiting"), &Value::Null));
            assert!(view["airport_name"].as_str().unwrap().contains("Kennedy"));
        }
        // Without a body, too; and the code in any case.
        let ada = world.person("ada@example.com");
        let response = ada.request(Method::PUT, "/interests/kjfk").send().await.unwrap();
        assert_eq!(json_of(response, StatusCode::CREATED).await["airport"], "KJFK");
    }
}

#[tokio::test]
async fn the_defaults_are_the_operators() {
    for db in databases().await {
        let world = quiet(&db, &["--default-low-value", "3", "--default-high-value", "9"]).await;
        assert_eq!(
            thresholds(&world.person("ada@example.com").put("KJFK", json!({})).await),
            (Some(3), Some(9))
        );
    }
}

#[tokio::test]
async fn a_change_keeps_what_it_leaves_out_and_null_clears() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put(
            "KJFK",
            json!({"low_value": 5, "high_value": 9, "metric": "arrivals", "notify": "on_change"}),
        )
        .await;
        for (method, body, expected) in [
            (Method::PATCH, json!({"high_value": 20}), (Some(5), Some(20))),
            (Method::PUT, json!({"low_value": 7}), (Some(7), Some(20))),
            (Method::PATCH, json!({}), (Some(7), Some(20))),
            (Method::PATCH, json!({"high_value": null}), (Some(7), None)),
            (Method::PUT, json!({"low_value": null, "high_value": 3}), (None, Some(3))),
        ] {
            let view = json_of(ada.send(method, "/interests/KJFK", body.clone()).await, StatusCode::OK).await;
            assert_eq!(thresholds(&view), expected, "{body}");
            assert_eq!((&view["metric"], &view["notify"]), (&json!("arrivals"), &json!("on_change")));
        }
        let missing = ada.send(Method::PATCH, "/interests/KBOS", json!({"high_value": 3})).await;
        problem(missing, StatusCode::NOT_FOUND, "not-found").await;
    }
}

#[tokio::test]
async fn bad_values_are_refused_and_change_nothing() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({"low_value": 5, "high_value": 9})).await;
        for bad in [
            json!({"low_value": 9}),
            json!({"high_value": 5}),
            json!({"low_value": 10, "high_value": 10}),
            json!({"low_value": 11, "high_value": 10}),
            json!({"low_value": -1}),
            json!({"high_value": 1.5}),
            json!({"high_value": "many"}),
            json!({"high_value": u64::MAX}),
            json!({"high_value": i64::MAX}),
            json!({"metric": "helicopters"}),
            json!({"notify": 3}),
            json!({"email": "nobody"}),
            json!([]),
        ] {
            for method in [Method::PUT, Method::PATCH] {
                let response = ada.send(method.clone(), "/interests/KJFK", bad.clone()).await;
                assert_eq!(response.status(), UNPROCESSABLE, "{method} {bad}");
                problem(response, UNPROCESSABLE, "invalid").await;
            }
        }
        assert_eq!(thresholds(&ada.json("/interests/KJFK").await), (Some(5), Some(9)));
        let broken = ada
            .request(Method::PATCH, "/interests/KJFK")
            .header("content-type", "application/json")
            .body("{");
        problem(broken.send().await.unwrap(), StatusCode::BAD_REQUEST, "bad-request").await;
    }
}

#[tokio::test]
async fn an_unknown_airport_is_answered_with_those_that_are_nearest() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        for (code, nearest) in [
            ("QJFK", Some("KJFK")),
            ("kjfkk", Some("KJFK")),
            // An IATA code stands for its airport.
            ("jfk", Some("KJFK")),
            ("QQ", None),
            ("K%20FK", None),
            ("%F0%9F%9B%AB", None),
            (&"K".repeat(5000), None),
        ] {
            let refused = ada.send(Method::PUT, &format!("/interests/{code}"), json!({})).await;
            let body = problem(refused, UNPROCESSABLE, "unknown-airport").await;
            assert!(body["detail"].as_str().unwrap().len() < 100, "{body}");
            let named = body["nearest"].as_array().unwrap();
            assert!(nearest.is_none_or(|code| named.contains(&json!(code))), "{code}: {body}");
        }
        assert_eq!(ada.json("/interests").await, json!({"items": [], "next_cursor": null}));
    }
}

#[tokio::test]
async fn an_iata_code_is_answered_with_the_icao_code_that_was_meant_wherever_it_stands() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({})).await;
        for (method, path, body) in [
            (Method::PUT, "/interests/JFK", json!({})),
            (Method::PATCH, "/interests/JFK", json!({})),
            (Method::GET, "/interests/JFK", Value::Null),
            (Method::DELETE, "/interests/JFK", Value::Null),
            (Method::GET, "/airports/JFK/flights", Value::Null),
            (Method::GET, "/airports/JFK/last", Value::Null),
            (Method::GET, "/airports/JFK/average?days=1", Value::Null),
            (Method::GET, "/airports/JFK/daily?days=1", Value::Null),
            (Method::POST, "/collect", json!({"icao": "JFK"})),
            (Method::POST, "/modifyTreshold", json!({"icao": "JFK", "high_value": 1})),
            (Method::GET, "/flights/info?icao=JFK", Value::Null),
            (Method::GET, "/flights/last?airport=JFK", Value::Null),
            (Method::GET, "/flights/average?airport=JFK", Value::Null),
        ] {
            let answer = problem(ada.send(method, path, body).await, UNPROCESSABLE, "unknown-airport").await;
            assert_eq!(answer["nearest"], json!(["KJFK"]), "{path}");
        }
        for (method, path) in [(Method::POST, "/subscribeInterest"), (Method::DELETE, "/removeInterest")] {
            let answer = ada.send(method, path, json!({"interessi": "JFK"})).await;
            assert_eq!(json_of(answer, StatusCode::OK).await["results"][0]["nearest"], json!(["KJFK"]));
        }
        assert_eq!(ada.json("/interests").await["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn airports_are_found_by_name_city_and_code() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        let first = async |query: &str| {
            let found = ada.request(Method::GET, "/airports").query(&[("query", query), ("limit", "5")]);
            json_of(found.send().await.unwrap(), StatusCode::OK).await["items"][0].clone()
        };
        let jfk = json!({"icao": "KJFK", "iata": "JFK", "name": "John F Kennedy International Airport",
            "city": "New York", "country": "US"});
        for query in ["john f kennedy international", "kjfk", "jfk", "new york kennedy"] {
            assert_eq!(first(query).await, jfk, "{query}");
        }
        assert_eq!(first("Tromso").await["icao"], "ENTC");
        assert_eq!(first("no such place").await, Value::Null);
        let all = ada.json("/airports?query=london&limit=1000").await;
        let all = all["items"].as_array().unwrap();
        let (mut paged, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = ada.json(&format!("/airports?query=london&limit=7{cursor}")).await;
            paged.extend(page["items"].as_array().unwrap().clone());
            let Some(next) = page["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert!(all.len() > 7 && paged == *all, "{paged:?}");
        problem(ada.get("/airports?query=london&cursor=x").await, UNPROCESSABLE, "invalid").await;
        let long = "a ".repeat(51);
        for bad in ["query=", "query=%20", &format!("query={long}"), "query=x&limit=0", "query=x&limit=1001"]
        {
            problem(ada.get(&format!("/airports?{bad}")).await, UNPROCESSABLE, "invalid").await;
        }
        problem(ada.get("/airports").await, StatusCode::BAD_REQUEST, "bad-request").await;
    }
}

#[tokio::test]
async fn an_email_that_is_not_the_tokens_is_refused_wherever_it_stands() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({})).await;
        let refused = async |request: reqwest::RequestBuilder| {
            problem(request.send().await.unwrap(), StatusCode::FORBIDDEN, "forbidden").await;
        };
        for (method, path) in [
            (Method::GET, "/interests"),
            (Method::GET, "/interests/KJFK"),
            (Method::DELETE, "/interests/KJFK"),
            (Method::GET, "/airports/KJFK/last"),
            (Method::GET, "/status"),
            (Method::POST, "/collect"),
            (Method::GET, "/flights/info?icao=KJFK"),
        ] {
            for email in ["eve@example.com", "nobody", ""] {
                let request = || ada.request(method.clone(), path);
                refused(request().query(&[("email", email)])).await;
                refused(request().query(&[("email", "ada@example.com"), ("email", email)])).await;
                refused(request().header("email", email)).await;
            }
        }
        for (method, path, mut body) in [
            (Method::PUT, "/interests/KBOS", json!({})),
            (Method::PATCH, "/interests/KJFK", json!({"high_value": 1})),
            (Method::POST, "/collect", json!({})),
            (Method::POST, "/subscribeInterest", json!({"interessi": "KBOS"})),
            (Method::DELETE, "/removeInterest", json!({"interessi": "KJFK"})),
            (Method::POST, "/modifyTreshold", json!({"icao": "KJFK", "high_value": 1})),
        ] {
            body["email"] = json!("eve@example.com");
            refused(ada.request(method, path).json(&body)).await;
        }
        let items = ada.json("/interests").await["items"].clone();
        assert_eq!((items[0]["high_value"].as_i64(), items[1].as_object()), (Some(200), None));
        // One's own may be there, in whatever case.
        let own = ada.request(Method::GET, "/interests").query(&[("email", "Ada@Example.com")]);
        assert_eq!(own.header("email", "ADA@example.com").send().await.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn the_database_too_holds_the_high_threshold_above_the_low_one() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        ada.put("KJFK", json!({"low_value": 5, "high_value": 9})).await;
        let store = common::db::connect_for_tests(&db.url);
        for change in
            ["low_value = 9", "high_value = 5", "low_value = -1", "low_value = NULL, high_value = -1"]
        {
            let sql = format!("UPDATE user_interest SET {change}");
            let changed = common::on!(store.writer(), |pool| {
                sqlx::query(sqlx::AssertSqlSafe(sql)).execute(pool).await.map(|_| ())
            });
            let error = changed.unwrap_err();
            assert!(error.as_database_error().unwrap().is_check_violation(), "{change}: {error}");
        }
        assert_eq!(thresholds(&ada.json("/interests/KJFK").await), (Some(5), Some(9)));
    }
}

#[tokio::test]
async fn an_account_has_at_most_so_many_interests() {
    for db in databases().await {
        let world = quiet(&db, &["--max-interests", "2"]).await;
        let (ada, bob) = (world.person("ada@example.com"), world.person("bob@example.com"));
        ada.put("KJFK", json!({})).await;
        ada.put("KBOS", json!({})).await;
        let third = async || ada.send(Method::PUT, "/interests/KORD", json!({})).await;
        problem(third().await, StatusCode::CONFLICT, "too-many-interests").await;
        // Changing one is none more; nor are somebody else's.
        assert_eq!(ada.send(Method::PUT, "/interests/KBOS", json!({})).await.status(), StatusCode::OK);
        bob.put("KORD", json!({})).await;
        assert_eq!(ada.delete("/interests/KJFK").await.status(), StatusCode::NO_CONTENT);
        assert_eq!(third().await.status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn at_the_limit_many_at_once_do_not_get_past_it() {
    for db in databases().await {
        let world = quiet(&db, &["--max-interests", "3"]).await;
        let ada = world.person("ada@example.com");
        let airports = ["KJFK", "KBOS", "KORD", "KBTV", "KORF", "KSFO", "KLAX", "KSEA"];
        let puts = airports.map(|airport| format!("/interests/{airport}"));
        let answers =
            futures::future::join_all(puts.iter().map(|path| ada.send(Method::PUT, path, json!({})))).await;
        let made = answers.iter().filter(|answer| answer.status() == StatusCode::CREATED).count();
        let refused = answers.iter().filter(|answer| answer.status() == StatusCode::CONFLICT).count();
        assert_eq!((made, refused), (3, 5));
        assert_eq!(ada.json("/interests").await["items"].as_array().unwrap().len(), 3);
    }
}

#[tokio::test]
async fn what_an_account_has_nobody_else_sees_or_changes() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let (ada, eve) = (world.person("ada@example.com"), world.person("eve@example.com"));
        ada.put("KJFK", json!({})).await;
        assert_eq!(eve.json("/interests").await["items"], json!([]));
        assert_eq!(eve.status().await["airports"], json!([]));
        for response in [
            eve.get("/interests/KJFK").await,
            eve.delete("/interests/KJFK").await,
            eve.send(Method::PATCH, "/interests/KJFK", json!({"high_value": 1})).await,
            eve.send(Method::POST, "/collect", json!({"icao": "KJFK"})).await,
        ] {
            problem(response, StatusCode::NOT_FOUND, "not-found").await;
        }
        for (method, path) in [(Method::PUT, "/interests/KBOS"), (Method::PATCH, "/interests/KJFK")] {
            let response = eve.send(method, path, json!({"email": "ada@example.com"})).await;
            problem(response, StatusCode::FORBIDDEN, "forbidden").await;
        }
        assert_eq!(eve.json("/interests").await["items"], json!([]));
        // One's own address may be there, in whatever case.
        let own = ada
            .send(Method::PATCH, "/interests/KJFK", json!({"email": "ADA@example.com", "high_value": 1}))
            .await;
        assert_eq!(json_of(own, StatusCode::OK).await["high_value"], 1);
    }
}

#[tokio::test]
async fn without_a_token_nothing_but_the_link_in_a_mail_answers() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        for (method, path) in [
            (Method::GET, "/interests"),
            (Method::PUT, "/interests/KJFK"),
            (Method::PATCH, "/interests/KJFK"),
            (Method::GET, "/interests/KJFK"),
            (Method::DELETE, "/interests/KJFK"),
            (Method::GET, "/airports?query=x"),
            (Method::GET, "/airports/KJFK/flights"),
            (Method::GET, "/airports/KJFK/last"),
            (Method::GET, "/airports/KJFK/average?days=1"),
            (Method::GET, "/airports/KJFK/daily?days=1"),
            (Method::GET, "/status"),
            (Method::POST, "/collect"),
            (Method::POST, "/subscribeInterest"),
            (Method::DELETE, "/removeInterest"),
            (Method::POST, "/modifieTreshold"),
            (Method::POST, "/modifyTreshold"),
            (Method::GET, "/flights/info?icao=KJFK"),
            (Method::GET, "/flights/last?airport=KJFK"),
            (Method::GET, "/flights/average?airport=KJFK"),
        ] {
            let response = world.request(method, path).json(&json!({})).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{path}");
            problem(response, StatusCode::UNAUTHORIZED, "unauthorized").await;
        }
        let nowhere = world.request(Method::GET, "/nowhere").send().await.unwrap();
        problem(nowhere, StatusCode::NOT_FOUND, "not-found").await;
    }
}

#[tokio::test]
async fn bad_queries_are_refused() {
    for db in databases().await {
        let world = quiet(&db, &[]).await;
        let ada = world.person("ada@example.com");
        for query in [
            "flights?limit=0",
            "flights?limit=1001",
            "flights?limit=many",
            "flights?direction=up",
            "flights?from=yesterday",
            "flights?from=99999999999999",
            "flights?from=2&to=1",
            "flights?cursor=x",
            "flights?cursor=1.up.f00001.1",
            "average",
            "average?days=0",
            "average?days=3661",
            "average?days=-1",
            "average?days=1.5",
            "daily?days=0",
            "last?direction=sideways",
        ] {
            let response = ada.get(&format!("/airports/KJFK/{query}")).await;
            let status = response.status();
            assert!([StatusCode::BAD_REQUEST, UNPROCESSABLE].contains(&status), "{query}: {status}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
        }
        problem(ada.get("/airports/QJFK/last").await, UNPROCESSABLE, "unknown-airport").await;
        // An airport that nobody watches has no data, and says so.
        let average = ada.json("/airports/KJFK/average?days=7").await;
        assert_eq!((&average["days_with_data"], &average["total"]), (&json!(0), &Value::Null));
        assert_eq!(ada.json("/airports/KJFK/last").await["arrival"], Value::Null);
        assert_eq!(ada.json("/airports/KJFK/flights").await, json!({"items": [], "next_cursor": null}));
    }
}
