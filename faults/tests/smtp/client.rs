//! Clients of the sink, a mail library and one that speaks line by line, and answers for it.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use faults::smtp::{Answer, Options, Sink, Step, Tls};
use lettre::message::MultiPart;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, CertificateStore, Tls as ClientTls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransportBuilder, Error};
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

pub(crate) type Mailer = AsyncSmtpTransport<Tokio1Executor>;

/// Only what never comes takes this long.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn mail() -> Message {
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

pub(crate) fn plain(sink: &Sink) -> AsyncSmtpTransportBuilder {
    Mailer::builder_dangerous("127.0.0.1").port(sink.addr().port()).timeout(Some(PATIENCE))
}

/// Over TLS, with the sink's certificate and no other.
pub(crate) fn tls(sink: &Sink, tls: Tls) -> AsyncSmtpTransportBuilder {
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

pub(crate) async fn send(sink: &Sink) -> Result<(), Error> {
    plain(sink).build().send(mail()).await.map(drop)
}

pub(crate) fn options(tls: Tls) -> Options {
    Options { tls, login: Some(("ada@example.com".into(), "p:w 1".into())), smtputf8: false }
}

pub(crate) fn login() -> Credentials {
    Credentials::new("ada@example.com".into(), "p:w 1".into())
}

pub(crate) fn code(sent: Result<(), Error>) -> String {
    sent.unwrap_err().status().expect("it is an answer").to_string()
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A client that speaks line by line.
pub(crate) struct Client<S = TcpStream>(pub(crate) BufReader<S>);

impl Client<TlsStream<TcpStream>> {
    pub(crate) async fn secure(sink: &Sink) -> Self {
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
    pub(crate) async fn greeted(sink: &Sink) -> Client {
        let mut client = Client::connect(sink).await;
        client.hears("220").await;
        client
    }

    pub(crate) async fn connect(sink: &Sink) -> Client {
        Client(BufReader::new(TcpStream::connect(sink.addr()).await.unwrap()))
    }

    /// With a mail begun.
    pub(crate) async fn at_data(sink: &Sink) -> Client {
        let mut client = Client::greeted(sink).await;
        client.begins_a_mail().await;
        client
    }
}

impl<S: Stream> Client<S> {
    pub(crate) async fn begins_a_mail(&mut self) {
        self.asks("MAIL FROM:<alerts@example.com>", "250").await;
        self.asks("RCPT TO:<ada@example.com>", "250").await;
        self.asks("DATA", "354").await;
    }

    pub(crate) async fn says(&mut self, line: &str) {
        self.0.write_all(format!("{line}\r\n").as_bytes()).await.unwrap();
    }

    /// The last line of an answer, which begins like this; gives the whole answer.
    pub(crate) async fn hears(&mut self, begin: &str) -> String {
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

    pub(crate) async fn asks(&mut self, line: &str, begin: &str) -> String {
        self.says(line).await;
        self.hears(begin).await
    }

    pub(crate) async fn is_cut(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.0.read_u8()).await.expect("the connection ends");
        assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    pub(crate) async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.unwrap().unwrap();
        assert_eq!(rest, b"");
    }
}

pub(crate) async fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
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
pub(crate) fn only(
    at: fn(&Step<'_>) -> bool,
    answer: Answer,
) -> impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static {
    move |step| if at(step) { answer.clone() } else { Answer::Yes }
}

pub(crate) fn greeting(step: &Step<'_>) -> bool {
    *step == Step::Greeting
}

pub(crate) fn at_login(step: &Step<'_>) -> bool {
    *step == Step::Login { user: "ada@example.com" }
}

pub(crate) fn recipient(step: &Step<'_>) -> bool {
    *step == Step::Recipient("ada@example.com")
}

pub(crate) fn data(step: &Step<'_>) -> bool {
    matches!(step, Step::Data { to: "ada@example.com", text } if text.windows(5).any(|word| word == b".dots"))
}
