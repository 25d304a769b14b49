//! Connections are protected, or nothing is sent.

use std::path::Path;
use std::process::Stdio;

use common::bus::Log;
use common::testing::{TestDb, eventually, temp_path};
use faults::smtp::{Answer, Options, Sink, Step, Tls};
use secrecy::ExposeSecret;
use tokio::process::{Child, Command};

use crate::service::{Service, databases, letter, post};

fn with_login(tls: Tls) -> Options {
    Options { tls, login: Some(("ada@example.com".into(), "p@ss word".into())), ..Options::default() }
}

/// A log with one letter in it.
async fn one_letter() -> std::path::PathBuf {
    let file = temp_path("bus.db");
    let log = Log::open(&file).await.unwrap();
    post(&log, &letter("a", "grace@example.com")).await;
    file
}

/// The program; it trusts `certificate` alone.
fn program(db: &TestDb, bus: &Path, sink: &Sink) -> Child {
    Command::new(env!("CARGO_BIN_EXE_notifier_system"))
        .env_clear()
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATABASE_URL", db.url.expose_secret())
        .env("BUS_URL", format!("log:{}", bus.display()))
        .env("MAIL_URL", sink.url())
        .env("SSL_CERT_FILE", sink.certificate())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn starttls_and_tls_with_a_login() {
    for db in databases().await {
        for tls in [Tls::StartTls, Tls::Implicit] {
            let sink = Sink::with(with_login(tls)).await;
            let _program = program(&db, &one_letter().await, &sink);
            eventually("the mail", async || (sink.count() == 1).then_some(())).await;
            assert_eq!((sink.taken()[0].from.as_str(), sink.logins()), ("ada@example.com", 1), "{tls:?}");
            db.execute("DELETE FROM sent").await;
        }
    }
}

/// The password was changed, say.
#[tokio::test]
async fn a_refused_login_stops_everything_and_loses_nothing() {
    for db in databases().await {
        let sink = Sink::with(with_login(Tls::None)).await;
        let wrong = format!("smtp://ada%40example.com:other@{}", sink.addr());
        let service = Service::start(&db, &wrong).await;
        for n in 0..20 {
            service.post(&letter(&format!("{n}"), &format!("p{n}@example.com"))).await;
        }
        eventually("the login is refused", async || {
            (service
                .metric("failed_attempts_total{service=\"notifier_system\",node=\"one\",cause=\"login\"}")
                .await
                > 0)
            .then_some(())
        })
        .await;
        assert_eq!(service.metric("stopped").await, 1);
        assert_eq!(sink.logins(), 1, "servers shut out those who insist");
        assert_eq!(service.admin("/readyz").await.0, 200);
        let log = service.stop().await;
        assert_eq!(log.lag("notifier_group", "to-notifier").await.unwrap(), 20);
        assert_eq!((sink.count(), db.number("SELECT COUNT(*) FROM sending").await), (0, 0));
        let service = Service::on(log, &db, &sink.url(), &[]).await;
        service.settled().await;
        assert_eq!(sink.count(), 20);
        assert!(service.dead().await.is_empty());
    }
}

#[tokio::test]
async fn nothing_is_sent_without_the_protection_that_was_asked_for() {
    for db in databases().await {
        // One that offers no STARTTLS, and two whose certificate nobody has vouched for.
        for (tls, scheme, end) in [
            (Tls::None, "smtp", "?tls=required"),
            (Tls::StartTls, "smtp", "?tls=required"),
            (Tls::Implicit, "smtps", ""),
        ] {
            let sink = Sink::with(Options { tls, ..Options::default() }).await;
            let url = format!("{scheme}://localhost:{}{end}", sink.addr().port());
            let service = Service::start(&db, &url).await;
            service.post(&letter("a", "ada@example.com")).await;
            eventually("it fails by TLS", async || {
                let name = "failed_attempts_total{service=\"notifier_system\",node=\"one\",cause=\"tls\"}";
                (service.metric(name).await > 0).then_some(())
            })
            .await;
            assert_eq!(sink.count(), 0, "{tls:?}");
            assert!(service.dead().await.is_empty(), "{tls:?}");
        }
    }
}

#[tokio::test]
async fn a_lost_250_leads_to_the_same_mail_again() {
    for db in databases().await {
        let sink = Sink::start().await;
        let lost = std::sync::atomic::AtomicBool::new(false);
        sink.answer(move |step| match step {
            Step::Data { .. } if !lost.swap(true, std::sync::atomic::Ordering::SeqCst) => Answer::TakeAndCut,
            _ => Answer::Yes,
        });
        let service = Service::start(&db, &sink.url()).await;
        service.post(&letter("a", "ada@example.com")).await;
        service.settled().await;
        let taken = sink.taken();
        assert_eq!((taken.len(), taken[0].answered, taken[1].answered), (2, false, true));
        assert_eq!(taken[0].message_id(), taken[1].message_id());
        assert_eq!(taken[0].html(), taken[1].html());
        assert!(taken[0].html().unwrap().contains("<table"));
    }
}
