//! What the server does not take for now.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use common::bus::Log;
use common::testing::{eventually, temp_path};
use faults::smtp::{Answer, Sink, Step};

use crate::service::{Service, answers, databases, letter, nothing_waits, post_under};

/// The server answers 450 to this recipient so many times.
fn busy_for(sink: &Sink, recipient: &'static str, times: u32) -> Arc<AtomicU32> {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    answers(sink, move |to| {
        (to == recipient && count.fetch_add(1, Ordering::SeqCst) < times)
            .then(|| "450 4.2.1 mailbox busy".to_owned())
    });
    asked
}

#[tokio::test]
async fn a_mail_that_waits_holds_back_those_to_the_same_address_and_no_others() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", u32::MAX);
        let service = Service::start(&db, &sink.url()).await;
        for (id, to) in
            [("a1", "ada"), ("b1", "bob"), ("a2", "ada"), ("a3", "ada"), ("b2", "bob"), ("a1", "ada")]
        {
            service.post(&letter(id, &format!("{to}@example.com"))).await;
        }
        // The bus goes on: what waits is in the database.
        service.settled().await;
        let to: Vec<String> = sink.taken().into_iter().map(|mail| mail.to).collect();
        assert_eq!(to, ["bob@example.com", "bob@example.com"]);
        assert_eq!(db.texts("SELECT id FROM parked ORDER BY place").await, ["a1", "a2", "a3"]);
        // Another service goes on with them.
        let log = service.stop().await;
        answers(&sink, |_| None);
        let service = Service::on(log, &db, &sink.url(), &[]).await;
        nothing_waits(&db).await;
        let sent = db.texts("SELECT id FROM sent ORDER BY id").await;
        assert_eq!(sent, ["a1", "a2", "a3", "b1", "b2"]);
        let ids: Vec<String> = sink.taken()[2..].iter().map(|mail| mail.message_id()).collect();
        let mut in_order = Vec::new();
        for id in ["a1", "a2", "a3"] {
            // The first of a fresh pair of services tells what the Message-ID of a letter is.
            in_order.push(message_id(id).await);
        }
        assert_eq!(ids, in_order);
        assert!(service.dead().await.is_empty());
    }
}

/// The Message-ID that a letter's mail has.
async fn message_id(id: &str) -> String {
    let (sink, db) = (Sink::start().await, databases().await.remove(0));
    let service = Service::start(&db, &sink.url()).await;
    service.post(&letter(id, "ada@example.com")).await;
    service.settled().await;
    sink.taken()[0].message_id()
}

#[tokio::test]
async fn what_waited_arrives_once_with_its_request_id() {
    for db in databases().await {
        let sink = Sink::start().await;
        let asked = busy_for(&sink, "ada@example.com", 1);
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        assert_eq!((sink.count(), asked.load(Ordering::SeqCst)), (0, 1));
        nothing_waits(&db).await;
        let taken = sink.taken();
        assert_eq!(taken.len(), 1);
        assert_eq!(taken[0].header("X-Request-ID"), "r-1");
        // A letter that comes again later is known.
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        assert_eq!(sink.count(), 1);
    }
}

#[tokio::test]
async fn what_is_refused_for_too_long_goes_to_the_dead_topic() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", u32::MAX);
        let log = Log::open(&temp_path("bus.db")).await.unwrap();
        let service = Service::on(log, &db, &sink.url(), &["--mail-give-up", "0s"]).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        nothing_waits(&db).await;
        let dead = service.dead().await;
        assert_eq!((dead.len(), &dead[0].0), (1, &letter("a", "ada@example.com")));
        assert!(dead[0].1.contains("mailbox busy") && !dead[0].1.contains("ada@"), "{}", dead[0].1);
        let listed = service.admin("/dead").await.1;
        assert!(listed.contains("\"origin\":\"to-notifier/0/"), "{listed}");
    }
}

#[tokio::test]
async fn a_refusal_for_good_while_it_waits_is_one_too() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", 1);
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        answers(&sink, |to| (to == "ada@example.com").then(|| "550 5.1.1 no such mailbox".to_owned()));
        nothing_waits(&db).await;
        assert_eq!(sink.count(), 0);
        assert_eq!(service.dead().await.len(), 1);
    }
}

#[tokio::test]
async fn who_is_deleted_gets_none_of_the_mails_that_wait() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", u32::MAX);
        let service = Service::start(&db, &sink.url()).await;
        for id in ["a", "b"] {
            service.post(&letter(id, "ada@example.com")).await;
        }
        service.settled().await;
        service.forget("6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22".parse().unwrap()).await;
        service.settled().await;
        assert_eq!(db.number("SELECT COUNT(*) FROM parked").await, 0);
        assert!(service.dead().await.is_empty());
    }
}

/// A replica that was killed in the middle leaves its lease behind.
#[tokio::test]
async fn what_another_replica_was_about_to_send_waits_until_its_lease_ends() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        let lease = "INSERT INTO sending (id, holder, held_until) VALUES ('a', 'two', 4102444800)";
        db.execute(lease).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.post(&letter("b", "bob@example.com")).await;
        service.settled().await;
        assert_eq!(sink.taken()[0].to, "bob@example.com");
        assert_eq!((sink.count(), db.number("SELECT COUNT(*) FROM parked").await), (1, 1));
        db.execute("UPDATE sending SET held_until = 0").await;
        nothing_waits(&db).await;
        assert_eq!(sink.count(), 2);
        // What the other one had sent after all is not sent again.
        db.execute("INSERT INTO sending (id, holder, held_until) VALUES ('c', 'two', 4102444800)").await;
        service.post(&letter("c", "ada@example.com")).await;
        service.settled().await;
        db.execute("INSERT INTO sent (id, sent_at) VALUES ('c', 4102444800)").await;
        db.execute("DELETE FROM sending").await;
        nothing_waits(&db).await;
        assert_eq!(sink.count(), 2);
    }
}

/// A letter that comes again while its mail is on its way from the parking takes nobody's lease away.
#[tokio::test]
async fn a_letter_that_comes_again_leaves_the_parked_mail_in_hand_alone() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", u32::MAX);
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        // Not due for long.
        db.execute("UPDATE parked SET due_at = 4102444800").await;
        let lease = "INSERT INTO sending (id, holder, held_until) VALUES ('a', 'one', 4102444800) \
                     ON CONFLICT (id) DO UPDATE SET held_until = 4102444800";
        db.execute(lease).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        assert_eq!(db.number("SELECT COUNT(*) FROM sending WHERE held_until = 4102444800").await, 1);
    }
}

/// Under two keys the letter is handled twice at the same time, by one replica that holds the lease both times.
#[tokio::test]
async fn a_letter_that_comes_again_while_its_mail_is_on_its_way_is_no_second_mail() {
    for db in databases().await {
        let sink = Sink::start().await;
        sink.answer(|step| match step {
            Step::Data { .. } => Answer::After(Duration::from_secs(2)),
            _ => Answer::Yes,
        });
        let service = Service::start(&db, &sink.url()).await;
        // At first one mail at a time leaves.
        service.post(&letter("first", "bob@example.com")).await;
        service.settled().await;
        post_under(&service.log, &["one", "another"], &letter("a", "ada@example.com")).await;
        service.settled().await;
        nothing_waits(&db).await;
        assert_eq!(sink.count(), 2);
    }
}

#[tokio::test]
async fn an_id_that_no_database_takes_goes_to_the_dead_topic_and_holds_nobody_up() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        // Of the same key, one after the other.
        for id in ["a\0b", &"x".repeat(501), "c"] {
            service.post(&letter(id, "ada@example.com")).await;
        }
        service.settled().await;
        assert_eq!(sink.count(), 1);
        let dead = service.dead().await;
        assert_eq!(dead.len(), 2);
        assert!(dead.iter().all(|(_, reason)| reason.starts_with("the id has")), "{dead:?}");
    }
}

#[tokio::test]
async fn the_number_of_mails_that_wait_is_told() {
    for db in databases().await {
        let sink = Sink::start().await;
        busy_for(&sink, "ada@example.com", u32::MAX);
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        eventually("one waits", async || (service.metric("parked_mails").await == 1).then_some(())).await;
    }
}
