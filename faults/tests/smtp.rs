//! What the sink takes and how it answers, seen from outside: through a mail library and line by line.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use faults::smtp::{Answer, Options, Sink, Step, Taken, Tls};
use lettre::message::MultiPart;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls as ClientTls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, Error};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

type Mailer = AsyncSmtpTransport<Tokio1Executor>;

/// Only what never comes takes this long.
const PATIENCE: Duration = Duration::from_secs(30);

fn mail() -> Message {
    Message::builder()
        .from("Alerts <alerts@example.com>".parse().unwrap())
        .to("ada@example.com".parse().unwrap())
        .subject("Über the threshold")
        .message_id(Some("<1@example.com>".to_owned()))
        .multipart(MultiPart::alternative_plain_html(
            "Zürich\n.\n.dot\n..dots\nend\n".to_owned(),
            "<p>Zürich</p>\n<p>.</p>".to_owned(),
        ))
        .unwrap()
}

fn plain(sink: &Sink) -> AsyncSmtpTransportBuilder {
    Mailer::builder_dangerous("127.0.0.1").port(sink.addr().port()).timeout(Some(PATIENCE))
}

/// Over TLS, with the sink's certificate and no other.
fn tls(sink: &Sink, tls: Tls) -> AsyncSmtpTransportBuilder {
    let pem = std::fs::read(sink.certificate()).unwrap();
    let parameters = TlsParameters::builder("localhost".to_owned())
        .certificate_store(CertificateStore::None)
        .add_root_certificate(Certificate::from_pem(&pem).unwrap())
        .build()
        .unwrap();
    plain(sink).tls(match tls {
        Tls::None => ClientTls::None,
        Tls::StartTls => ClientTls::Required(parameters),
        Tls::Implicit => ClientTls::Wrapper(parameters),
    })
}

async fn send(sink: &Sink) -> Result<(), Error> {
    plain(sink).build().send(mail()).await.map(drop)
}

fn options(tls: Tls) -> Options {
    Options { tls, login: Some(("ada@example.com".into(), "p:w 1".into())), smtputf8: false }
}

fn login() -> Credentials {
    Credentials::new("ada@example.com".into(), "p:w 1".into())
}

fn code(sent: Result<(), Error>) -> String {
    sent.unwrap_err().status().expect("it is an answer").to_string()
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A client that speaks line by line.
struct Client<S = TcpStream>(BufReader<S>);

impl Client<TlsStream<TcpStream>> {
    async fn secure(sink: &Sink) -> Self {
        let mut trusted = RootCertStore::empty();
        trusted.add(CertificateDer::from_pem_file(sink.certificate()).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(trusted)
            .with_no_client_auth();
        let stream = TcpStream::connect(sink.addr()).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        Client(BufReader::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()))
    }
}

impl Client {
    /// After the greeting.
    async fn greeted(sink: &Sink) -> Client {
        let mut client = Client::connect(sink).await;
        client.hears("220").await;
        client
    }

    async fn connect(sink: &Sink) -> Client {
        Client(BufReader::new(TcpStream::connect(sink.addr()).await.unwrap()))
    }

    /// With a mail begun.
    async fn at_data(sink: &Sink) -> Client {
        let mut client = Client::greeted(sink).await;
        client.begins_a_mail().await;
        client
    }
}

impl<S: Stream> Client<S> {
    async fn begins_a_mail(&mut self) {
        self.asks("MAIL FROM:<alerts@example.com>", "250").await;
        self.asks("RCPT TO:<ada@example.com>", "250").await;
        self.asks("DATA", "354").await;
    }

    async fn says(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The last line of an answer, which begins like this; gives the whole answer.
    async fn hears(&mut self, begin: &str) -> String {
        let mut all = String::new();
        loop {
            let start = all.len();
            let read = tokio::time::timeout(PATIENCE, self.0.read_line(&mut all)).await.unwrap().unwrap();
            assert_ne!(read, 0, "the connection has ended after {all:?}");
            if all.as_bytes()[start + 3] != b'-' {
                assert!(all[start..].starts_with(begin), "{all:?}");
                return all;
            }
        }
    }

    async fn asks(&mut self, line: &str, begin: &str) -> String {
        self.says(line).await;
        self.hears(begin).await
    }

    async fn is_cut(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("the connection ends");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"");
    }
}

async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(answer) = ask() {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The answer at one kind of step; a healthy one at the others.
fn only(at: fn(&Step<'_>) -> bool, answer: Answer) -> impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static {
    move |step| if at(step) { answer.clone() } else { Answer::Yes }
}

fn greeting(step: &Step<'_>) -> bool {
    *step == Step::Greeting
}

fn at_login(step: &Step<'_>) -> bool {
    *step == Step::Login { user: "ada@example.com" }
}

fn recipient(step: &Step<'_>) -> bool {
    *step == Step::Recipient("ada@example.com")
}

fn data(step: &Step<'_>) -> bool {
    matches!(step, Step::Data { to: "ada@example.com", text } if text.windows(5).any(|word| word == b".dots"))
}

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
