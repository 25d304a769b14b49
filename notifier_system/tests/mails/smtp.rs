use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use common::db::{Db, connect_for_tests};
use common::on;
use common::types::Account;
use futures::FutureExt;
use serde_json::json;
use tokio::net::TcpSocket;

use crate::service::{Service, answers, databases, forget, letter, nothing_waits, post};
use common::testing::eventually;
use faults::smtp::{Answer, Options, Sink, Step};

#[tokio::test]
async fn a_letter_becomes_one_mail_with_the_right_headers() {
    for db in databases().await {
        let sink = Sink::start().await;
        let flags = [
            "--mail-from",
            "Vedetta <vedetta@example.com>",
            "--public-url",
            "https://flights.example.com/base/",
        ];
        let log = common::bus::Log::open(&common::testing::temp_path("bus.db")).await.unwrap();
        let service = Service::on(log, &db, &sink.url(), &flags).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        let taken = sink.taken();
        assert_eq!(taken.len(), 1);
        let mail = &taken[0];
        assert_eq!((mail.from.as_str(), mail.to.as_str()), ("vedetta@example.com", "ada@example.com"));
        assert_eq!(mail.subject(), "KJFK: 351 flights, above your high threshold of 200");
        assert_eq!(mail.body(), "Monday – 351 flights.");
        assert_eq!(mail.header("From"), "Vedetta <vedetta@example.com>");
        assert_eq!(mail.header("To"), "ada@example.com");
        assert_eq!(mail.header("Auto-Submitted"), "auto-generated");
        assert_eq!(mail.header("X-Request-ID"), "r-1");
        let link = "<https://flights.example.com/base/data_collector/unsubscribe?token=a.KJFK.s>";
        assert_eq!(mail.header("List-Unsubscribe"), link);
        assert_eq!(mail.header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
        assert!(mail.header("Message-ID").ends_with("@example.com>"));
        assert!(!mail.header("Date").is_empty());
        assert!(service.dead().await.is_empty());
    }
}

#[tokio::test]
async fn the_same_letter_is_one_mail_however_often_it_comes() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        for _ in 0..3 {
            service.post(&letter("a", "ada@example.com")).await;
        }
        service.post(&letter("b", "ada@example.com")).await;
        service.settled().await;
        assert_eq!(sink.taken().len(), 2);
        // A log that begins anew delivers everything again, to a service that was started again.
        service.stop().await;
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.post(&letter("c", "ada@example.com")).await;
        service.settled().await;
        let ids: BTreeSet<String> = sink.taken().iter().map(|mail| mail.header("Message-ID")).collect();
        assert_eq!((sink.taken().len(), ids.len()), (3, 3));
    }
}

#[tokio::test]
async fn many_letters_to_many_people_are_each_one_mail() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        for n in 0..60 {
            service.post(&letter(&format!("{n}"), &format!("person{}@example.com", n % 20))).await;
        }
        service.settled().await;
        let ids: BTreeSet<String> = sink.taken().iter().map(|mail| mail.header("Message-ID")).collect();
        assert_eq!((sink.taken().len(), ids.len()), (60, 60));
        assert!(sink.most_at_once() <= 4, "a server may send away who comes with more connections");
    }
}

#[tokio::test]
async fn the_assignments_letters_are_mailed_each_once() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        let minimal =
            json!({"email": "Ada@Example.com", "subject": "Airport KJFK", "body": "threshold exceeded"});
        service.post(&minimal).await;
        service.post(&minimal).await;
        service.settled().await;
        let taken = sink.taken();
        // Two letters without an id are two: each has the id of its place.
        assert_eq!(taken.len(), 2);
        assert_eq!((taken[0].to.as_str(), taken[0].subject().as_str()), ("ada@example.com", "Airport KJFK"));
        assert_eq!(taken[0].body(), "threshold exceeded");
        assert_eq!(taken[0].header("List-Unsubscribe"), "");
        assert_ne!(taken[0].header("Message-ID"), taken[1].header("Message-ID"));
    }
}

#[tokio::test]
async fn what_the_server_refuses_for_good_goes_to_the_dead_topic_and_the_rest_goes_on() {
    for db in databases().await {
        let sink = Sink::start().await;
        answers(&sink, |to| (to == "gone@example.com").then(|| "550 5.1.1 no such mailbox".to_owned()));
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "gone@example.com")).await;
        service.post(&letter("b", "ada@example.com")).await;
        service.post(&json!({"email": "nonsense", "subject": "s", "body": "b"})).await;
        service.settled().await;
        let to: Vec<String> = sink.taken().into_iter().map(|mail| mail.to).collect();
        assert_eq!(to, ["ada@example.com"]);
        let dead = service.dead().await;
        let reason = |email: &str| &dead.iter().find(|(letter, _)| letter["email"] == email).unwrap().1;
        assert_eq!(dead.len(), 2);
        assert!(reason("gone@example.com").contains("no such mailbox"), "{dead:?}");
        assert!(reason("nonsense").contains("email"), "{dead:?}");
        assert_eq!(
            dead.iter().find(|(letter, _)| letter["id"] == "a").unwrap().0,
            letter("a", "gone@example.com")
        );
    }
}

#[tokio::test]
async fn an_address_that_the_server_cannot_take_does_not_stop_the_others() {
    for db in databases().await {
        // The sink has no SMTPUTF8.
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "zoë@example.com")).await;
        service.post(&letter("b", "ada@example.com")).await;
        service.settled().await;
        assert_eq!(sink.taken().len(), 1);
        let dead = service.dead().await;
        assert_eq!(dead.len(), 1);
        assert!(dead[0].1.contains("SMTPUTF8"), "{dead:?}");
    }
}

#[tokio::test]
async fn while_the_server_takes_nobodys_mail_everything_waits_and_then_arrives() {
    for db in databases().await {
        for (what, answer) in [
            ("ada@example.com", "550 5.4.5 daily sending quota exceeded"),
            ("ada@example.com", "530 5.7.0 authentication required"),
            ("sender", "550 5.7.1 sender rejected"),
            ("sender", "451 4.3.0 come again"),
            ("greeting", "421 4.7.0 too many connections"),
            ("greeting", "554 no service here now"),
            ("greeting", "421 4.3.2 going down"),
        ] {
            let sink = Sink::start().await;
            answers(&sink, move |to| (to == what).then(|| answer.to_owned()));
            let log = common::bus::Log::open(&common::testing::temp_path("bus.db")).await.unwrap();
            let service = Service::on(log, &db, &sink.url(), &["--mail-patience", "100ms"]).await;
            service.post(&letter(answer, "ada@example.com")).await;
            eventually("two attempts", async || (sink.refused() >= 2).then_some(())).await;
            assert!(sink.taken().is_empty());
            answers(&sink, |_| None);
            service.settled().await;
            assert_eq!(sink.taken().len(), 1, "{answer}");
            assert!(service.dead().await.is_empty(), "{answer}");
        }
    }
}

/// Answers about the login, or about a connection, are about one mail where others get through.
#[tokio::test]
async fn one_recipient_does_not_stop_the_others_whatever_the_server_says_of_them() {
    for db in databases().await {
        for answer in ["454 4.7.1 relay access denied", "421 4.3.2 not for you", "550 5.7.1 [185.4.5.9]"] {
            let sink = Sink::start().await;
            answers(&sink, move |to| (to == "gone@example.com").then(|| answer.to_owned()));
            let service = Service::start(&db, &sink.url()).await;
            for n in 0..4 {
                service.post(&letter(&format!("{answer}{n}"), "gone@example.com")).await;
                service.post(&letter(&format!("{answer}{n}-"), &format!("p{n}@example.com"))).await;
            }
            service.settled().await;
            assert_eq!(sink.count(), 4, "{answer}");
            let waits = db.number("SELECT COUNT(*) FROM parked").await;
            assert_eq!(waits as usize + service.dead().await.len(), 4, "{answer}");
            db.execute("DELETE FROM parked").await;
        }
    }
}

/// A mail at which the server breaks off each time is not tried at everybody's cost.
#[tokio::test]
async fn a_mail_at_which_the_server_always_breaks_off_is_parked() {
    for db in databases().await {
        let sink = Sink::start().await;
        sink.answer(|step| match step {
            Step::Recipient("gone@example.com") => Answer::TakeAndCut,
            _ => Answer::Yes,
        });
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "gone@example.com")).await;
        service.post(&letter("b", "ada@example.com")).await;
        service.settled().await;
        assert_eq!(db.texts("SELECT id FROM parked").await, ["a"]);
        assert_eq!(sink.count(), 1);
        assert!(service.dead().await.is_empty());
    }
}

#[tokio::test]
async fn while_there_is_no_server_everything_waits() {
    for db in databases().await {
        // Bound, so that nobody else gets the port, but not listening yet: connections are refused.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let addr = socket.local_addr().unwrap();
        let service = Service::start(&db, &format!("smtp://{addr}")).await;
        for id in ["a", "b"] {
            service.post(&letter(id, &format!("{id}@example.com"))).await;
        }
        eventually("an attempt has failed", async || {
            (service.metric("failed_attempts_total").await > 0).then_some(())
        })
        .await;
        // The mail server's absence does not make the service unready.
        assert_eq!(service.admin("/readyz").await.0, 200);
        let sink = Sink::on(socket.listen(16).unwrap(), Options::default()).await;
        service.settled().await;
        assert_eq!(sink.taken().len(), 2);
        assert!(service.dead().await.is_empty());
    }
}

#[tokio::test]
async fn a_letter_that_waits_when_the_service_ends_is_mailed_by_the_next_one() {
    for db in databases().await {
        let sink = Sink::start().await;
        answers(&sink, |to| (to == "ada@example.com").then(|| "451 come again".to_owned()));
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("b", "bob@example.com")).await;
        service.post(&letter("a", "ada@example.com")).await;
        eventually("an attempt", async || (sink.refused() > 0 && sink.taken().len() == 1).then_some(()))
            .await;
        let log = service.stop().await;
        answers(&sink, |_| None);
        let service = Service::on(log, &db, &sink.url(), &[]).await;
        service.settled().await;
        nothing_waits(&db).await;
        let to: Vec<String> = sink.taken().into_iter().map(|mail| mail.to).collect();
        assert_eq!(to, ["bob@example.com", "ada@example.com"]);
    }
}

#[tokio::test]
async fn a_deleted_account_gets_no_mail() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        let ada: Account = "6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22".parse().unwrap();
        service.forget(ada).await;
        service.forget(ada).await;
        service.settled().await;
        service.post(&letter("a", "ada@example.com")).await;
        // The same address under a new account is somebody else.
        let mut next = letter("b", "ada@example.com");
        next["account"] = json!(Account::new_random());
        service.post(&next).await;
        service.settled().await;
        assert_eq!(sink.taken().len(), 1);
        assert!(service.dead().await.is_empty());
    }
}

/// The letter waits on the bus, and so does, behind many others, the message that its account is gone.
#[tokio::test]
async fn who_was_deleted_while_the_service_was_away_gets_no_mail_that_waited() {
    for db in databases().await {
        let sink = Sink::start().await;
        let log = Service::start(&db, &sink.url()).await.stop().await;
        post(&log, &letter("a", "ada@example.com")).await;
        let mut next = letter("b", "ada@example.com");
        next["account"] = json!(Account::new_random());
        post(&log, &next).await;
        for _ in 0..600 {
            forget(&log, Account::new_random()).await;
        }
        forget(&log, "6b1d3f0e-6a41-4a41-9f3a-0d5b7a3f1c22".parse().unwrap()).await;
        let service = Service::on(log, &db, &sink.url(), &[]).await;
        service.settled().await;
        // Who registered the address again gets theirs.
        assert_eq!(sink.taken().len(), 1);
        let log = service.stop().await;
        let sent = db.texts("SELECT id FROM sent").await;
        assert_eq!(sent, ["b"]);
        drop(log);
    }
}

#[tokio::test]
async fn a_mail_whose_sending_could_not_be_recorded_at_once_is_not_sent_again() {
    for db in databases().await {
        let sink = Sink::start().await;
        let service = Service::start(&db, &sink.url()).await;
        // While the server takes the mail, the table goes where nothing can be recorded.
        let tables = connect_for_tests(&db.url);
        let take_away = Arc::new(Mutex::new(Some(tables.clone())));
        sink.before_taking(move || {
            let tables = take_away.lock().unwrap().take();
            async move {
                if let Some(tables) = tables {
                    run(&tables, "ALTER TABLE sent RENAME TO away").await;
                }
            }
            .boxed()
        });
        service.post(&letter("a", "ada@example.com")).await;
        eventually("it could not be recorded", async || {
            (service.metric("failed_recordings_total").await > 0).then_some(())
        })
        .await;
        assert_eq!(sink.taken().len(), 1);
        run(&tables, "ALTER TABLE away RENAME TO sent").await;
        service.settled().await;
        assert_eq!(sink.taken().len(), 1);
    }
}

async fn run(db: &Db, statement: &'static str) {
    on!(db.writer(), |pool| { sqlx::query(statement).execute(pool).await.map(|_| ()) }).unwrap();
}
