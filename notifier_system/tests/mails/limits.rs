//! So many mails, and no more.

use common::bus::Log;
use common::testing::{TestDb, eventually, temp_path};
use faults::smtp::Sink;

use crate::service::{Service, databases, letter};

async fn limited(db: &TestDb, sink: &Sink, flags: &[&str]) -> Service {
    Service::on(Log::open(&temp_path("bus.db")).await.unwrap(), db, &sink.url(), flags).await
}

async fn has_stopped(service: &Service) {
    eventually("mails wait", async || (service.metric("stopped").await == 1).then_some(())).await;
}

#[tokio::test]
async fn no_more_leave_than_may_and_the_rest_later() {
    for db in databases().await {
        for limit in ["--mail-rate", "--mail-daily-max"] {
            let sink = Sink::start().await;
            let service = limited(&db, &sink, &[limit, "3"]).await;
            for n in 0..5 {
                service.post(&letter(&format!("{limit}{n}"), &format!("p{n}@example.com"))).await;
            }
            eventually("as many as may", async || (sink.count() == 3).then_some(())).await;
            has_stopped(&service).await;
            // Had one more been under way, it would be in `sending`.
            let under_way = async || db.number("SELECT COUNT(*) FROM sending").await;
            eventually("nothing is under way", async || (under_way().await == 0).then_some(())).await;
            assert_eq!(sink.count(), 3, "{limit}");
            let log = service.stop().await;
            // Two days later there is room again.
            db.execute("UPDATE sent SET sent_at = sent_at - 172800").await;
            let service = Service::on(log, &db, &sink.url(), &[limit, "3"]).await;
            service.settled().await;
            assert_eq!(sink.count(), 5, "{limit}");
            db.execute("UPDATE sent SET sent_at = sent_at - 172800").await;
        }
    }
}

#[tokio::test]
async fn replicas_share_a_limit() {
    for db in databases().await {
        let sink = Sink::start().await;
        let one = limited(&db, &sink, &["--mail-rate", "4"]).await;
        let two = limited(&db, &sink, &["--mail-rate", "4", "--node", "two"]).await;
        for n in 0..6 {
            for (name, service) in [("one", &one), ("two", &two)] {
                service.post(&letter(&format!("{name}{n}"), &format!("{name}{n}@example.com"))).await;
            }
        }
        has_stopped(&one).await;
        has_stopped(&two).await;
        eventually("as many as may", async || {
            (db.number("SELECT COUNT(*) FROM sent").await == 4).then_some(())
        })
        .await;
        assert_eq!(sink.count(), 4);
    }
}
