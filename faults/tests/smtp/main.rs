//! What the sink takes and how it answers, seen from outside: through a mail library and line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod client;
mod secure;

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use faults::smtp::{Answer, Options, Sink, Step, Taken, Tls};
use lettre::AsyncTransport;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};

use client::{
    Client, PATIENCE, Stream, at_login, code, data, eventually, greeting, login, mail, only, options, plain,
    recipient, send,
};

#[tokio::test]
async fn a_mail_is_taken_as_it_was_sent() {
    let begin = Instant::now();
    let sink = Sink::start().await;
    let sent = mail();
    plain(&sink).build().send(sent.clone()).await.unwrap();
    let taken = sink.taken().remove(0);
    assert_eq!((taken.from.as_str(), taken.to.as_str()), ("alerts@example.com", "ada@example.com"));
    // The mail library ends its data with an empty line of its own.
    let text = [sent.formatted(), b"\r\n".to_vec()].concat();
    assert_eq!(String::from_utf8(taken.text.clone()), String::from_utf8(text));
    assert_eq!(taken.subject(), "Über the threshold");
    assert_eq!(taken.header("from"), "Alerts <alerts@example.com>");
    assert_eq!(taken.header("X-Missing"), "");
    assert_eq!(taken.body(), "Zürich\n.\n.dot\n..dots\nend");
    assert_eq!(taken.html().unwrap(), "<p>Zürich</p>\n<p>.</p>");
    assert_eq!(taken.message_id(), "<1@example.com>");
    assert!(taken.answered && taken.at >= begin && taken.at <= Instant::now());
    assert_eq!((sink.count(), sink.refused(), sink.logins(), sink.connections()), (1, 0, 0, 1));
}

#[test]
fn a_mail_of_one_part_and_folded_headers() {
    let text =
        b"Subject: a\r\n  long\r\n one\r\nList-Id:  <a>\r\n\t<b>\r\n\r\nfirst\r\nsecond\r\n\r\n".to_vec();
    let taken = Taken { from: String::new(), to: String::new(), text, at: Instant::now(), answered: true };
    assert_eq!((taken.header("Subject"), taken.header("list-id")), ("a long one".into(), "<a> <b>".into()));
    assert_eq!((taken.body(), taken.html(), taken.message_id()), ("first\nsecond".into(), None, "".into()));
}

#[tokio::test]
async fn a_connection_carries_mail_after_mail() {
    let sink = Sink::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), Options::default()).await;
    let mut client = Client::greeted(&sink).await;
    for _ in 0..20 {
        client.begins_a_mail().await;
        client.asks("Subject: x\r\n\r\n.", "250").await;
    }
    assert_eq!((sink.count(), sink.connections(), sink.most_at_once()), (20, 1, 1));
}

#[tokio::test]
async fn connections_are_counted() {
    let sink = Sink::start().await;
    let (mut one, mut two) = (Client::greeted(&sink).await, Client::greeted(&sink).await);
    for client in [&mut one, &mut two] {
        client.asks("QUIT", "221").await;
        client.is_closed().await;
    }
    Client::greeted(&sink).await;
    assert_eq!((sink.connections(), sink.most_at_once()), (3, 2));
}

#[tokio::test]
async fn commands_have_their_order() {
    let sink = Sink::start().await;
    let mut client = Client::greeted(&sink).await;
    assert_eq!(client.asks("EHLO example.com", "250").await, "250-localhost\r\n250 8BITMIME\r\n");
    client.asks("helo example.com", "250").await;
    client.asks("RCPT TO:<ada@example.com>", "503").await;
    client.asks("DATA", "503").await;
    client.asks("MAIL FROM:alerts@example.com", "501").await;
    client.asks("MAIL FROM:<alerts@example.com> BODY=8BITMIME", "250").await;
    client.asks("MAIL FROM:<alerts@example.com>", "503").await;
    client.asks("DATA", "503").await;
    client.asks("rcpt to:<ada@example.com>", "250").await;
    client.asks("RCPT TO:<grace@example.com>", "452").await;
    client.asks("RSET", "250").await;
    client.asks("DATA", "503").await;
    client.asks("NOOP", "250").await;
    client.asks("STARTTLS", "502").await;
    client.asks("AUTH PLAIN", "502").await;
    client.asks("MAIL FROM:<>", "250").await;
    client.asks("RCPT TO:<ada@example.com>", "250").await;
    client.asks("DATA", "354").await;
    client.asks("Subject: x\r\n\r\n..\r\n...a\r\n.", "250").await;
    client.asks("QUIT", "221").await;
    client.is_closed().await;
    assert_eq!(sink.taken()[0].text, b"Subject: x\r\n\r\n.\r\n..a\r\n");
    assert_eq!((sink.refused(), sink.logins()), (9, 1));
}

#[tokio::test]
async fn smtputf8_only_when_it_is_offered() {
    let plain = Sink::start().await;
    let mut client = Client::greeted(&plain).await;
    client.asks("MAIL FROM:<alerts@example.com> SMTPUTF8", "555").await;
    client.asks("MAIL FROM:<alerts@example.com>", "250").await;
    client.asks("RCPT TO:<jürgen@example.com>", "553").await;
    let sink = Sink::with(Options { smtputf8: true, ..Options::default() }).await;
    let mut client = Client::greeted(&sink).await;
    assert!(client.asks("EHLO example.com", "250").await.contains("250-SMTPUTF8\r\n"));
    client.asks("MAIL FROM:<alerts@example.com> BODY=8BITMIME SMTPUTF8", "250").await;
    client.asks("RCPT TO:<jürgen@example.com>", "250").await;
    client.asks("DATA", "354").await;
    client.asks("Subject: x\r\n\r\n.", "250").await;
    assert_eq!(sink.taken()[0].to, "jürgen@example.com");
}

#[tokio::test]
async fn a_line_and_a_mail_have_a_greatest_length() {
    let sink = Sink::start().await;
    let mut client = Client::at_data(&sink).await;
    let line = format!("{}\r\n", "x".repeat(998));
    for _ in 0..17 * 1024 {
        client.0.write_all(line.as_bytes()).await.unwrap();
    }
    client.asks(".", "552").await;
    // It goes on with the next one.
    client.asks("MAIL FROM:<alerts@example.com>", "250").await;
    client.0.write_all("x".repeat(65 * 1024).as_bytes()).await.unwrap();
    client.is_cut().await;
    assert_eq!((sink.count(), sink.refused()), (0, 1));
}

#[tokio::test]
async fn a_greeting_of_its_own_closes_the_connection() {
    let sink = Sink::start().await;
    sink.answer(only(greeting, Answer::No("421 4.3.2 closing for today".into())));
    let mut client = Client::connect(&sink).await;
    assert_eq!(client.hears("421").await, "421 4.3.2 closing for today\r\n");
    client.is_closed().await;
    assert_eq!(code(send(&sink).await), "421");
    assert_eq!((sink.count(), sink.refused()), (0, 2));
}

#[tokio::test]
async fn a_recipient_is_refused_with_the_line_that_was_told() {
    let sink = Sink::start().await;
    sink.answer(only(recipient, Answer::No("450 4.2.1 mailbox busy".into())));
    assert_eq!(code(send(&sink).await), "450");
    assert_eq!((sink.count(), sink.refused()), (0, 1));
    sink.answer(|_| Answer::Yes);
    send(&sink).await.unwrap();
    assert_eq!((sink.count(), sink.refused()), (1, 1));
}

#[tokio::test]
async fn data_is_refused_and_not_kept() {
    let sink = Sink::start().await;
    sink.answer(only(data, Answer::No("554 5.7.1 spam".into())));
    assert_eq!(code(send(&sink).await), "554");
    assert_eq!((sink.count(), sink.refused()), (0, 1));
}

#[tokio::test]
async fn slow_answers_are_healthy_ones() {
    const SLOW: Duration = Duration::from_millis(100);
    let sink = Sink::with(options(Tls::None)).await;
    for at in [greeting, at_login, recipient, data] {
        sink.answer(only(at, Answer::After(SLOW)));
        let begin = Instant::now();
        plain(&sink).credentials(login()).build().send(mail()).await.unwrap();
        assert!(begin.elapsed() >= SLOW, "{:?}", begin.elapsed());
    }
    assert_eq!((sink.count(), sink.refused()), (4, 0));
    assert!(sink.taken().iter().all(|mail| mail.answered));
}

#[tokio::test]
async fn a_mail_is_taken_and_its_connection_cut() {
    let sink = Sink::start().await;
    sink.answer(only(data, Answer::TakeAndCut));
    let error = send(&sink).await.unwrap_err();
    assert!(error.status().is_none(), "{error}");
    let taken = sink.taken().remove(0);
    assert_eq!((taken.body().as_str(), taken.answered), ("Zürich\n.\n.dot\n..dots\nend", false));
    sink.answer(|step| match step {
        Step::Data { .. } => Answer::TakeAndCut,
        _ => Answer::Yes,
    });
    let mut client = Client::at_data(&sink).await;
    client.says("Subject: x\r\n\r\n.").await;
    client.is_cut().await;
    assert_eq!((sink.count(), sink.refused()), (2, 0));
}

#[tokio::test]
async fn before_the_data_a_cut_cuts_at_once() {
    let sink = Sink::with(options(Tls::None)).await;
    sink.answer(only(greeting, Answer::TakeAndCut));
    Client::connect(&sink).await.is_cut().await;
    for at in [at_login, recipient] {
        sink.answer(only(at, Answer::TakeAndCut));
        let error = plain(&sink).credentials(login()).build().send(mail()).await.unwrap_err();
        assert!(error.status().is_none(), "{error}");
    }
    assert_eq!((sink.count(), sink.refused()), (0, 0));
}

#[tokio::test]
async fn something_runs_before_a_mail_is_taken() {
    let sink = Arc::new(Sink::start().await);
    let (ran, counted) = (Arc::new(AtomicBool::new(false)), Arc::downgrade(&sink));
    sink.before_taking({
        let ran = ran.clone();
        move || {
            assert_eq!(counted.upgrade().unwrap().count(), 0);
            let ran = ran.clone();
            Box::pin(async move { ran.store(true, Ordering::SeqCst) })
        }
    });
    send(&sink).await.unwrap();
    assert!(ran.load(Ordering::SeqCst));
    assert_eq!(sink.count(), 1);
}

#[tokio::test]
async fn a_mail_whose_client_has_gone_is_kept_and_not_answered() {
    for tls in [Tls::None, Tls::Implicit] {
        let sink = Sink::with(Options { tls, ..Options::default() }).await;
        let (came, mut has_come) = mpsc::unbounded_channel();
        let gone = Arc::new(tokio::sync::Notify::new());
        sink.before_taking({
            let gone = gone.clone();
            move || {
                came.send(()).unwrap();
                let gone = gone.clone();
                Box::pin(async move { gone.notified().await })
            }
        });
        if tls == Tls::None {
            leave_at_data(Client::connect(&sink).await, &mut has_come).await;
        } else {
            leave_at_data(Client::secure(&sink).await, &mut has_come).await;
        }
        gone.notify_one();
        eventually("the mail", || (sink.count() == 1).then_some(())).await;
        assert!(!sink.taken()[0].answered, "{tls:?}");
    }
}

/// Goes when the sink has the whole mail.
async fn leave_at_data<S: Stream>(mut client: Client<S>, sink_has_it: &mut UnboundedReceiver<()>) {
    client.hears("220").await;
    client.begins_a_mail().await;
    client.says("Subject: x\r\n\r\n.").await;
    sink_has_it.recv().await.unwrap();
}

#[tokio::test]
async fn a_stopped_sink_comes_back_on_its_port() {
    let sink = Sink::start().await;
    let addr = sink.addr();
    send(&sink).await.unwrap();
    let mut open = Client::at_data(&sink).await;
    sink.stop().await;
    open.is_cut().await;
    assert_eq!(TcpStream::connect(addr).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(send(&sink).await.unwrap_err().status().is_none());
    sink.stop().await;
    sink.resume().await;
    sink.resume().await;
    assert_eq!(sink.addr(), addr);
    send(&sink).await.unwrap();
    assert_eq!((sink.count(), sink.connections()), (2, 3));
}

#[tokio::test]
async fn a_dropped_sink_is_gone() {
    let sink = Sink::start().await;
    let (addr, file) = (sink.addr(), sink.certificate().to_owned());
    let mut open = Client::greeted(&sink).await;
    assert!(file.exists());
    drop(sink);
    open.is_cut().await;
    let refused = async { while TcpStream::connect(addr).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, refused).await.expect("nobody listens");
    eventually("the file to go", || (!file.exists()).then_some(())).await;
}
