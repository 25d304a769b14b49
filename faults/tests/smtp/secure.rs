//! TLS and logins.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use faults::smtp::{Answer, Sink, Tls};
use lettre::AsyncTransport;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};

use crate::client::{Client, at_login, code, data, login, mail, only, options, plain, tls};

#[tokio::test]
async fn mails_over_starttls_with_a_login() {
    let sink = Sink::with(options(Tls::StartTls)).await;
    for mechanism in [Mechanism::Plain, Mechanism::Login] {
        let mailer = tls(&sink, Tls::StartTls).credentials(login()).authentication(vec![mechanism]).build();
        mailer.send(mail()).await.unwrap();
    }
    assert_eq!((sink.count(), sink.logins(), sink.refused()), (2, 2, 0));
    let port = sink.addr().port();
    assert_eq!(sink.url(), format!("smtp://ada%40example.com:p%3Aw%201@localhost:{port}?tls=required"));
}

#[tokio::test]
async fn without_starttls_no_mail_and_no_login() {
    let sink = Sink::with(options(Tls::StartTls)).await;
    let mut client = Client::greeted(&sink).await;
    assert_eq!(
        client.asks("EHLO example.com", "250").await,
        "250-localhost\r\n250-STARTTLS\r\n250 8BITMIME\r\n"
    );
    client.asks("MAIL FROM:<alerts@example.com>", "530").await;
    client.asks("AUTH PLAIN AGEAYg==", "530").await;
    // Another certificate than the trusted one ends in an error, too.
    let other = Sink::with(options(Tls::StartTls)).await;
    let mistrusting = tls(&other, Tls::StartTls).port(sink.addr().port()).credentials(login()).build();
    assert!(mistrusting.send(mail()).await.is_err());
    assert_eq!(sink.count(), 0);
}

#[tokio::test]
async fn mails_over_implicit_tls() {
    let sink = Sink::with(options(Tls::Implicit)).await;
    tls(&sink, Tls::Implicit).credentials(login()).build().send(mail()).await.unwrap();
    assert!(sink.taken()[0].answered);
    sink.answer(only(data, Answer::TakeAndCut));
    tls(&sink, Tls::Implicit).credentials(login()).build().send(mail()).await.unwrap_err();
    assert!(!sink.taken()[1].answered);
    let port = sink.addr().port();
    assert_eq!(sink.url(), format!("smtps://ada%40example.com:p%3Aw%201@localhost:{port}"));
}

#[tokio::test]
async fn a_plain_sink_is_named_by_its_address() {
    let sink = Sink::start().await;
    assert_eq!(sink.url(), format!("smtp://{}", sink.addr()));
}

#[tokio::test]
async fn a_wrong_login_gets_535_and_none_530() {
    for tls_mode in [Tls::None, Tls::StartTls, Tls::Implicit] {
        let sink = Sink::with(options(tls_mode)).await;
        let wrong = Credentials::new("ada@example.com".into(), "wrong".into());
        let sent = tls(&sink, tls_mode).credentials(wrong).build().send(mail()).await;
        assert_eq!(code(sent.map(drop)), "535");
        let sent = tls(&sink, tls_mode).build().send(mail()).await;
        assert_eq!(code(sent.map(drop)), "530");
        assert_eq!((sink.count(), sink.logins(), sink.refused()), (0, 1, 2));
    }
}

#[tokio::test]
async fn a_login_is_refused_with_the_line_that_was_told() {
    let sink = Sink::with(options(Tls::None)).await;
    sink.answer(only(at_login, Answer::No("454 4.7.0 try again later".into())));
    let mailer = plain(&sink).credentials(login()).build();
    assert_eq!(code(mailer.send(mail()).await.map(drop)), "454");
    assert_eq!((sink.logins(), sink.refused()), (1, 1));
}

#[tokio::test]
async fn logins_come_with_the_command_or_after_a_challenge() {
    let sink = Sink::with(options(Tls::None)).await;
    let (user, password) = (BASE64.encode("ada@example.com"), BASE64.encode("p:w 1"));
    let both = BASE64.encode("\0ada@example.com\0p:w 1");
    let mut client = Client::greeted(&sink).await;
    assert!(client.asks("EHLO example.com", "250").await.contains("250-AUTH PLAIN LOGIN\r\n"));
    client.asks(&format!("AUTH PLAIN {both}"), "235").await;
    client.asks(&format!("AUTH PLAIN {both}"), "503").await;
    client.asks("MAIL FROM:<alerts@example.com>", "250").await;

    let mut client = Client::greeted(&sink).await;
    client.asks("AUTH CRAM-MD5", "504").await;
    client.asks("AUTH PLAIN", "334 ").await;
    client.asks("*", "501").await;
    client.asks("AUTH PLAIN nonsense!", "501").await;
    client.asks("auth plain", "334 ").await;
    client.asks(&both, "235").await;

    let mut client = Client::greeted(&sink).await;
    assert_eq!(client.asks("AUTH LOGIN", "334").await, "334 VXNlcm5hbWU6\r\n");
    assert_eq!(client.asks(&user, "334").await, "334 UGFzc3dvcmQ6\r\n");
    client.asks(&user, "535").await;
    client.asks(&format!("AUTH LOGIN {user}"), "334").await;
    client.asks(&password, "235").await;
    assert_eq!(sink.logins(), 8);
}
