//! Registration at most once: a client that heard nothing asks again, and gets what it would have got.

use std::process::Stdio;
use std::time::Duration;

use common::clock::Clock;
use common::testing::{TestDb, postgres, temp_path};
use futures::future::join_all;
use reqwest::{Response, StatusCode};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::service::{PASSWORD, Service, databases, json_of, problem, registration};

/// What the assignment's requests send, where their tool does not fill it in.
const LITERAL: &str = "{{$uuid}}";

fn with_id(email: &str, id: &str) -> Value {
    let mut body = registration(email);
    body["id"] = id.into();
    body
}

fn replayed(response: &Response) -> bool {
    response.headers().get("idempotency-replayed").is_some_and(|value| value == "true")
}

#[tokio::test]
async fn a_repetition_gets_the_answer_of_the_first_by_header_or_by_id() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let by_header = async |key: &str, body: &Value| {
            let request = service.request(reqwest::Method::POST, "/register").header("idempotency-key", key);
            request.json(body).send().await.unwrap()
        };
        let first = by_header("k1", &registration("ada@example.com")).await;
        assert!(!replayed(&first));
        let first = json_of(first, StatusCode::CREATED).await;
        // The same key, whichever way it comes; in the body the address may be written otherwise, and what is not
        // understood does not matter.
        let mut again = with_id(" ADA@Example.com", "k1");
        again["nickname"] = json!("ada");
        for response in [
            by_header("k1", &registration("ada@example.com")).await,
            by_header("k1", &with_id("ada@example.com", "another")).await,
            service.post("/register", &again).await,
        ] {
            assert!(replayed(&response));
            assert_eq!(json_of(response, StatusCode::CREATED).await, first);
        }
        // Under another key, or none, it is another registration.
        let other = service.post("/register", &with_id("ada@example.com", "k2")).await;
        problem(other, StatusCode::CONFLICT, "email-taken").await;
        let other = service.post("/register", &registration("ada@example.com")).await;
        problem(other, StatusCode::CONFLICT, "email-taken").await;
    }
}

#[tokio::test]
async fn a_key_with_another_body_is_refused_and_changes_nothing() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let body = with_id("ada@example.com", "k1");
        service.post("/register", &body).await;
        for (field, value) in [("name", "Eve"), ("surname", "Other"), ("password", "another password")] {
            let mut other = body.clone();
            other[field] = value.into();
            let response = service.post("/register", &other).await;
            problem(response, StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused").await;
        }
        service.login("ada@example.com", PASSWORD).await;
        // Also after the password was changed the body is the one of the registration.
        let token = service.login("ada@example.com", PASSWORD).await;
        let change = json!({"current": PASSWORD, "new": "another password"});
        let request = service.request(reqwest::Method::POST, "/password").bearer_auth(&token);
        assert_eq!(request.json(&change).send().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert!(replayed(&service.post("/register", &body).await));
    }
}

#[tokio::test]
async fn any_text_is_a_key_and_belongs_to_the_address() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let long = "ü".repeat(255);
        for (place, key) in
            [LITERAL, "0", " ", "a\u{0}b", "'; DROP TABLE users; --", &long].iter().enumerate()
        {
            for person in ["ada", "eve"] {
                let body = with_id(&format!("{person}{place}@example.com"), key);
                let first = json_of(service.post("/register", &body).await, StatusCode::CREATED).await;
                let again = service.post("/register", &body).await;
                assert!(replayed(&again), "{key:?}");
                assert_eq!(json_of(again, StatusCode::CREATED).await, first);
            }
        }
        for bad in [json!(""), json!("x".repeat(256)), json!(7)] {
            let mut body = registration("mia@example.com");
            body["id"] = bad;
            let response = service.post("/register", &body).await;
            assert!(problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await.contains("id"));
        }
        for (name, values) in [("empty", &[""][..]), ("long", &[&"x".repeat(256)]), ("twice", &["a", "b"])] {
            let mut request = service.request(reqwest::Method::POST, "/register");
            for value in values {
                request = request.header("idempotency-key", *value);
            }
            let response = request.json(&registration("mia@example.com")).send().await.unwrap();
            let detail = problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
            assert!(detail.contains("Idempotency-Key"), "{name}: {detail}");
        }
        let latin = reqwest::header::HeaderValue::from_bytes(b"caf\xe9").unwrap();
        let request = service.request(reqwest::Method::POST, "/register").header("idempotency-key", latin);
        let response = request.json(&registration("mia@example.com")).send().await.unwrap();
        problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
    }
}

#[tokio::test]
async fn a_key_is_forgotten_after_a_day_and_with_the_account() {
    for db in databases().await {
        let (service, time) = Service::with(&db, &[]).await;
        let body = with_id("ada@example.com", LITERAL);
        let first = json_of(service.post("/register", &body).await, StatusCode::CREATED).await;
        time.advance(Duration::from_secs(86_399));
        assert!(replayed(&service.post("/register", &body).await));
        time.advance(Duration::from_secs(1));
        problem(service.post("/register", &body).await, StatusCode::CONFLICT, "email-taken").await;

        let token = service.login("ada@example.com", PASSWORD).await;
        service.request(reqwest::Method::DELETE, "/me").bearer_auth(&token).send().await.unwrap();
        let again = service.post("/register", &body).await;
        assert!(!replayed(&again));
        assert_ne!(json_of(again, StatusCode::CREATED).await["id"], first["id"]);
        assert!(replayed(&service.post("/register", &body).await));
    }
}

#[tokio::test]
async fn only_a_success_is_remembered() {
    for db in databases().await {
        let service = Service::start(&db).await;
        let mut body = with_id("ada@example.com", "k1");
        body["password"] = "short".into();
        let response = service.post("/register", &body).await;
        problem(response, StatusCode::UNPROCESSABLE_ENTITY, "invalid").await;
        let good = service.post("/register", &with_id("ada@example.com", "k1")).await;
        assert!(!replayed(&good));
        assert_eq!(good.status(), StatusCode::CREATED);
    }
}

/// Sends the same registration a hundred times at once to these replicas: one makes the account, and everybody gets its
/// answer.
async fn a_hundred_at_once(replicas: &[Service]) {
    let body = with_id("ada@example.com", LITERAL);
    let sent = (0..100).map(|n| replicas[n % replicas.len()].post("/register", &body));
    let answers = join_all(sent).await;
    let made = answers.iter().filter(|answer| !replayed(answer)).count();
    let answers = join_all(answers.into_iter().map(|answer| json_of(answer, StatusCode::CREATED))).await;
    assert_eq!(made, 1);
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let token = replicas[0].login("ada@example.com", PASSWORD).await;
    let profile = json_of(replicas[0].me(&token).await, StatusCode::OK).await;
    assert_eq!(profile, answers[0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_make_one_account_and_one_answer() {
    for db in databases().await {
        a_hundred_at_once(&[Service::start(&db).await]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_over_three_replicas_make_one_account_and_one_answer() {
    let Some(database) = postgres("user_manager: three replicas").await else { return };
    let names = ["one", "two", "three"];
    let replicas = join_all(names.map(|name| Service::replica(&database, name, Clock::System))).await;
    a_hundred_at_once(&replicas).await;
}

/// A user_manager that can be killed.
struct Process {
    child: Child,
    api: String,
}

impl Process {
    async fn start(db: &TestDb) -> Process {
        let bus = temp_path("bus.db");
        let mut child = Command::new(env!("CARGO_BIN_EXE_user_manager"))
            .env_clear()
            .envs([
                ("LISTEN", "127.0.0.1:0"),
                ("GRPC_LISTEN", "127.0.0.1:0"),
                ("ADMIN_LISTEN", "127.0.0.1:0"),
            ])
            .envs([("LOG_FORMAT", "json"), ("CONFIRM_EMAIL", "on")])
            .env("DATABASE_URL", db.url.expose_secret())
            .env("BUS_URL", format!("log:{}", bus.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let addr = loop {
            let line = lines.next_line().await.unwrap().expect("it says where it listens");
            let line: Value = serde_json::from_str(&line).unwrap_or_default();
            if let Some(addr) = line["addr"].as_str() {
                break addr.to_owned();
            }
        };
        // Nobody reads on, so that it must not be held up by what it writes.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Process { child, api: format!("http://{addr}") }
    }
}

/// A statement for each database that makes inserts into a table fail.
fn fault(db: &TestDb, table: &str) -> String {
    match db.name {
        "sqlite" => {
            format!("CREATE TRIGGER fault BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'a fault'); END")
        }
        // Only when all else is done: at the commit.
        _ if table == "registration" => format!(
            "CREATE FUNCTION fault() RETURNS trigger AS 'BEGIN RAISE EXCEPTION ''a fault''; END' LANGUAGE plpgsql; \
             CREATE CONSTRAINT TRIGGER fault AFTER INSERT ON {table} DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION fault()"
        ),
        _ => format!(
            "CREATE FUNCTION fault() RETURNS trigger AS 'BEGIN RAISE EXCEPTION ''a fault''; END' LANGUAGE plpgsql; \
             CREATE TRIGGER fault BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION fault()"
        ),
    }
}

fn mended(db: &TestDb, table: &str) -> String {
    match db.name {
        "sqlite" => "DROP TRIGGER fault".to_owned(),
        _ => format!("DROP TRIGGER fault ON {table}; DROP FUNCTION fault()"),
    }
}

/// At whichever step a registration fails, nothing of it is there, and the same request makes the account.
#[tokio::test]
async fn a_failure_at_any_step_leaves_nothing_behind_and_no_key_that_blocks() {
    for db in databases().await {
        let (service, _) = Service::with(&db, &["--confirm-email=on"]).await;
        for (n, table) in ["address", "users", "outbox", "registration"].into_iter().enumerate() {
            let body = with_id(&format!("p{n}@example.com"), LITERAL);
            db.execute_all(fault(&db, table)).await;
            let failed = service.post("/register", &body).await;
            problem(failed, StatusCode::INTERNAL_SERVER_ERROR, "internal").await;
            db.execute_all(mended(&db, table)).await;
            assert_eq!(db.number("SELECT COUNT(*) FROM users").await, n as i64, "{table}");
            assert_eq!(db.number("SELECT COUNT(*) FROM address").await, n as i64, "{table}");
            assert_eq!(db.number("SELECT COUNT(*) FROM registration").await, n as i64, "{table}");
            let made = service.post("/register", &body).await;
            assert!(!replayed(&made), "{table}");
            assert_eq!(made.status(), StatusCode::CREATED, "{table}");
        }
        // One mail each, and none for what failed.
        assert_eq!(service.mails_when(4).await.len(), 4);
        assert_eq!(db.number("SELECT COUNT(*) FROM outbox").await, 4);
    }
}

/// Wherever a process was when it was killed, the same request makes the account or gets its answer, and each address was
/// mailed once.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_is_killed_leaves_no_key_that_blocks() {
    const PEOPLE: usize = 12;
    for db in databases().await {
        eprintln!("on {}", db.name);
        let http = common::http::client(Duration::from_secs(60)).unwrap();
        let mut answers: Vec<Option<Value>> = vec![None; PEOPLE];
        let mut rounds = 0;
        while answers.iter().any(Option::is_none) {
            let mut process = Process::start(&db).await;
            let register = async |n: usize| {
                let body = with_id(&format!("p{n}@example.com"), LITERAL);
                let sent = http.post(format!("{}/register", process.api)).json(&body).send().await.ok()?;
                assert_eq!(sent.status(), StatusCode::CREATED);
                sent.json().await.ok()
            };
            // Each round waits for one answer more, and is killed while the others are under way.
            let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
            let asked = join_all((0..PEOPLE).map(|n| {
                let (register, told) = (&register, told.clone());
                async move {
                    let answer: Option<Value> = register(n).await;
                    let _ = told.send(());
                    answer
                }
            }));
            let killed = async {
                for _ in 0..=rounds {
                    heard.recv().await;
                }
            };
            let mut asked = Box::pin(asked);
            let heard = tokio::select! {
                heard = &mut asked => Some(heard),
                () = killed => None,
            };
            process.child.kill().await.unwrap();
            let heard = match heard {
                Some(heard) => heard,
                None => asked.await,
            };
            for (before, now) in answers.iter_mut().zip(heard) {
                if let (Some(before), Some(now)) = (&before, &now) {
                    assert_eq!(before, now, "a second account was made");
                }
                *before = before.take().or(now);
            }
            rounds += 1;
        }
        let mut answered: Vec<&str> =
            answers.iter().map(|answer| answer.as_ref().unwrap()["id"].as_str().unwrap()).collect();
        answered.sort_unstable();
        let accounts = db.texts("SELECT account FROM users ORDER BY account").await;
        assert_eq!(accounts, answered, "{rounds} rounds");
        let mailed = db.texts("SELECT part FROM outbox WHERE topic = 'to-notifier' ORDER BY part").await;
        let confirmations: Vec<String> = answered.iter().map(|id| format!("confirm-{id}")).collect();
        assert_eq!(mailed, confirmations);
    }
}
