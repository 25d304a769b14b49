//! The whole journey, in process with a clock that the test moves, and as real binaries.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::time::Duration;

use common::messages::{Message, UserForgotten, WindowCounted};
use e2e::client::Client;
use e2e::in_process::System;
use e2e::journey::Traveller;
use reqwest::{Method, StatusCode};
use serde_json::json;

const DAY: i64 = 86_400;
/// Wednesday, 25 November 2026, 09:00 UTC: on the tape the day before is Tuesday, 3 April 2001 or a later Tuesday.
const NOW: i64 = 1_795_597_200;

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_told_of_a_day_above_their_threshold_exactly_once() {
    let system = System::start(NOW).await;
    let client = Client::of(system.gateway);
    client.until_served().await;
    let (ada, midnight) = Traveller::sets_out(&client, "ada@example.com", &system.mailbox).await;
    assert_eq!(midnight, NOW / DAY * DAY - DAY);
    ada.figures_are_exact("KJFK", midnight).await;

    system.flight_time.advance(Duration::from_secs(DAY as u64));
    ada.gets_the_next_mail(midnight + DAY).await;
    ada.figures_are_exact("KJFK", midnight + DAY).await;

    let counted = system.log.read_all(WindowCounted::TOPIC).await.unwrap();
    assert_eq!(counted.len(), 2, "one message for each evaluated window, none for the backfill");
    ada.goes_home(&client).await;
    e2e::eventually("the deletion to be told, and heard", async || {
        let told = system.log.read_all(UserForgotten::TOPIC).await.unwrap().len();
        let unheard = system.log.lag("collector_group", UserForgotten::TOPIC).await.unwrap();
        (told == 1 && unheard == 0).then_some(())
    })
    .await;
    // Who watches the airport now is told of the next day; who has gone is not in its message.
    let bob = client.registered("bob@example.com").await;
    let watches = json!({"high_value": 5000});
    bob.call(Method::PUT, "/data_collector/interests/KJFK", Some(watches)).await;
    system.flight_time.advance(Duration::from_secs(DAY as u64));
    let last = e2e::eventually("the next day's message", async || {
        let counted = system.log.read_all(WindowCounted::TOPIC).await.unwrap();
        let last: WindowCounted = serde_json::from_slice(&counted.last()?.payload).unwrap();
        (last.window_begin == midnight + 2 * DAY).then_some(last)
    })
    .await;
    let told: Vec<&str> = last.users.iter().map(|user| user.email.as_str()).collect();
    assert_eq!(told, ["bob@example.com"]);
    assert_eq!(system.stop().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_share_a_window_and_each_has_their_own_range() {
    let system = System::start(NOW).await;
    let client = Client::of(system.gateway);
    client.until_served().await;
    let (_ada, midnight) = Traveller::sets_out(&client, "ada@example.com", &system.mailbox).await;
    // The window is stored already; a low threshold far above the count fires at once, one far below never.
    let low = client.registered("bob@example.com").await;
    let quiet = client.registered("eve@example.com").await;
    let watch = |who: Client, body| async move {
        who.call(Method::PUT, "/data_collector/interests/kjfk", Some(body)).await
    };
    assert_eq!(watch(quiet, json!({"low_value": 1, "high_value": 5000})).await.status, StatusCode::CREATED);
    assert_eq!(watch(low, json!({"low_value": 1000, "high_value": 5000})).await.status, StatusCode::CREATED);
    let mail = system.mailbox.wait_for("bob@example.com", 1).await.remove(0);
    assert!(mail.subject.ends_with("below your low threshold of 1000"), "{}", mail.subject);

    system.flight_time.set(midnight + 2 * DAY + DAY / 2);
    system.mailbox.wait_for("bob@example.com", 2).await;
    let mails = system.stop().await;
    let to = |address| mails.iter().filter(|mail| mail.to == address).count();
    assert_eq!((to("ada@example.com"), to("bob@example.com"), to("eve@example.com")), (2, 2, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mails_link_ends_the_interest_through_the_gateway_without_a_login() {
    let system = System::start(NOW).await;
    let client = Client::of(system.gateway);
    client.until_served().await;
    let (ada, _) = Traveller::sets_out(&client, "ada@example.com", &system.mailbox).await;
    let mail = system.mailbox.to("ada@example.com").remove(0);
    let link =
        mail.body.lines().find_map(|line| line.split_once("No more of these mails: ")).unwrap().1.trim();
    let path = &link[link.find("/data_collector/").unwrap()..];
    assert_eq!(client.get(path).await.status, StatusCode::OK, "asks");
    assert_eq!(
        ada.client.get("/data_collector/interests/KJFK").await.status,
        StatusCode::OK,
        "asking ends nothing"
    );
    assert_eq!(client.call(Method::POST, path, None).await.status, StatusCode::OK);
    assert_eq!(ada.client.get("/data_collector/interests/KJFK").await.status, StatusCode::NOT_FOUND);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_opens_the_breaker_and_costs_nothing_but_time() {
    let breaker = [("breaker-failure-threshold", "1"), ("breaker-timeout", "1s")];
    let system = System::start_with(NOW, &breaker).await;
    let client = Client::of(system.gateway);
    client.until_served().await;
    let (ada, midnight) = Traveller::sets_out(&client, "ada@example.com", &system.mailbox).await;
    let faults = format!("http://{}/admin/faults", system.replay);
    let switch = |outage: bool| reqwest::Client::new().patch(&faults).json(&json!({"outage": outage})).send();
    switch(true).await.unwrap().error_for_status().unwrap();
    system.flight_time.advance(Duration::from_secs(DAY as u64));
    e2e::eventually("the breaker to open, and a trial to fail", async || {
        let status = ada.client.get("/data_collector/status").await.body;
        (status["breaker"]["counters"]["opened"].as_i64()? > 1 && status["waiting"] == 1).then_some(())
    })
    .await;
    assert_eq!(system.mailbox.mails().len(), 1, "a failure is not a count");
    switch(false).await.unwrap().error_for_status().unwrap();
    ada.gets_the_next_mail(midnight + DAY).await;
    system.stop().await;
}

#[cfg(feature = "kafka")]
mod binaries {
    use std::net::SocketAddr;

    use common::testing;
    use e2e::client::Client;
    use e2e::five::{Five, SERVICES};
    use e2e::journey::Traveller;
    use e2e::mailbox::Mail;
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::DefaultProducerContext;
    use reqwest::{Method, StatusCode};
    use serde_json::{Value, json};

    #[tokio::test(flavor = "multi_thread")]
    async fn the_journey_as_five_binaries_over_postgresql_and_a_mock_kafka_cluster() {
        let cluster = cluster();
        journey("five binaries over PostgreSQL and a mock Kafka cluster", &cluster.bootstrap_servers()).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_journey_as_five_binaries_over_postgresql_and_apache_kafka() {
        let suite = "five binaries over PostgreSQL and Apache Kafka";
        let Some(broker) = testing::kafka(suite) else { return };
        e2e::broker::forget_earlier_runs(&broker).await;
        journey(suite, &broker).await;
    }

    fn cluster() -> MockCluster<'static, DefaultProducerContext> {
        let cluster = MockCluster::new(1).unwrap();
        for topic in ["to-alert-system", "to-notifier", "user-forgotten"] {
            cluster.create_topic(topic, 1, 1).unwrap();
            cluster.create_topic(&format!("{topic}.dead"), 1, 1).unwrap();
        }
        cluster
    }

    async fn journey(suite: &str, broker: &str) {
        e2e::away_from_midnight().await;
        let Some(five) = Five::start(suite, broker).await else { return };
        let client = Client::of(five.gateway());
        client.until_served().await;
        let (ada, _) = Traveller::sets_out(&client, "ada@example.com", &five.mailbox).await;
        let mail = five.mailbox.mails().remove(0);
        ada.goes_home(&client).await;
        for service in SERVICES {
            answers_on_its_admin_port(five.admin(service)).await;
        }
        kafkas_clients_behave_as_the_assignment_sets_them(&five);
        // One request id, from the gateway's log to the notifier's.
        for service in ["gateway", "data_collector", "alert_system", "notifier_system"] {
            let lines = five.process(service).log();
            let tells = |line: &&Value| line.to_string().contains(&mail.request_id);
            assert!(lines.iter().any(|line| tells(&line)), "{} is not in {lines:?}", mail.request_id);
        }
        assert_eq!(five.stop().await.len(), 1, "exactly one mail, also in the end");
    }

    /// Everything but user_manager, its database and the gateway is away when an account is deleted, Kafka too.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_deletion_is_complete_though_every_other_part_was_away() {
        e2e::away_from_midnight().await;
        let cluster = cluster();
        let suite = "a deletion over PostgreSQL and a mock Kafka cluster";
        let Some(mut five) = Five::start(suite, &cluster.bootstrap_servers()).await else { return };
        let client = Client::of(five.gateway());
        client.until_served().await;
        let mailbox = five.mailbox.clone();
        let (ada, _) = Traveller::sets_out(&client, "ada@example.com", &mailbox).await;
        let (eve, _) = Traveller::sets_out(&client, "eve@example.com", &mailbox).await;

        // A letter for each waits on the bus, because nobody sends it.
        five.kill("notifier_system").await;
        let judged = five.metric("alert_system", "consumed_messages_total").await;
        for person in [&ada, &eve] {
            let change = json!({"metric": "arrivals", "high_value": 1});
            let changed =
                person.client.call(Method::PATCH, "/data_collector/interests/KJFK", Some(change)).await;
            assert_eq!(changed.status, StatusCode::OK);
        }
        e2e::eventually("the letters to be written", async || {
            (five.metric("alert_system", "consumed_messages_total").await >= judged + 2.0).then_some(())
        })
        .await;
        five.kill("alert_system").await;
        five.kill("data_collector").await;
        cluster.broker_down(-1).unwrap();
        let deleted = ada.client.call(Method::DELETE, "/user_manager/me", None).await;
        assert_eq!(deleted.status, StatusCode::NO_CONTENT);
        e2e::eventually("the message to wait", async || {
            (five.metric("user_manager", "outbox_waiting_messages").await >= 1.0).then_some(())
        })
        .await;
        // Who registers the address again is somebody else.
        let next = client.registered("ada@example.com").await;

        for name in ["data_collector", "alert_system", "notifier_system"] {
            five.start_one(name).await;
        }
        cluster.broker_up(-1).unwrap();
        assert_eq!(mailbox.wait_for("eve@example.com", 2).await.len(), 2, "Eve's letter was not lost");
        let interests = e2e::eventually("the keys", async || {
            let answer = next.get("/data_collector/interests").await;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        assert_eq!(interests.body["items"], json!([]), "nothing is kept");
        let watches = json!({"metric": "departures", "high_value": 1});
        let made = next.call(Method::PUT, "/data_collector/interests/KJFK", Some(watches)).await;
        assert_eq!(made.status, StatusCode::CREATED, "nothing is lost");
        mailbox.wait_for("ada@example.com", 2).await;
        e2e::eventually("the old interest to be gone", async || {
            let forgotten = five.process("data_collector").log();
            forgotten.iter().any(|line| line["message"] == "forgotten").then_some(())
        })
        .await;
        let mails = five.stop().await;
        let to = |email: &str| mails.iter().filter(|mail| mail.to == email).count();
        assert_eq!((to("ada@example.com"), to("eve@example.com")), (2, 2), "{mails:?}");
        let next = |mail: &Mail| mail.to == "ada@example.com" && mail.subject.contains("departures");
        assert!(mails.iter().any(next), "the letter that waited was sent instead: {mails:?}");
    }

    /// As librdkafka has taken the settings: `acks=-1` is its word for all, `smallest` for earliest.
    fn kafkas_clients_behave_as_the_assignment_sets_them(five: &Five) {
        let batching = "linger.ms=500 batch.size=16384 max.in.flight.requests.per.connection=1";
        let at_once = "linger.ms=0";
        for (service, sends) in [
            ("data_collector", batching),
            ("user_manager", at_once),
            ("alert_system", at_once),
            ("notifier_system", at_once),
        ] {
            let lines = five.process(service).log();
            let told = lines.iter().find(|line| line["message"] == "the bus is Kafka").unwrap();
            let (producer, consumer) =
                (told["producer"].as_str().unwrap(), told["consumer"].as_str().unwrap());
            let first = format!("acks=-1 retries=3 enable.idempotence=true {sends}");
            assert!(producer.starts_with(&first), "{service}: {producer}");
            assert!(
                consumer.starts_with("auto.offset.reset=smallest enable.auto.commit=false"),
                "{consumer}"
            );
        }
    }

    async fn answers_on_its_admin_port(admin: SocketAddr) {
        for (path, told) in [("healthz", "ok"), ("readyz", "ready"), ("metrics", "node=")] {
            let answer = reqwest::get(format!("http://{admin}/{path}")).await.unwrap();
            assert!(answer.status().is_success(), "{admin} {path}: {}", answer.status());
            assert!(answer.text().await.unwrap().contains(told), "{admin} {path}");
        }
    }
}
