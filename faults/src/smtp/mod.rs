//! An SMTP server that keeps the mails it takes and answers as the test says.
//!
//! It takes one recipient a mail (a second one gets 452), lines of up to 64 KiB and mails of up to 16 MiB.

mod certificate;
mod taken;
mod talk;
mod wire;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::port::Port;
use certificate::Certificate;
pub use taken::Taken;

/// How connections are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tls {
    /// Not at all.
    #[default]
    None,
    /// By STARTTLS, before which no mail and no login is taken.
    StartTls,
    /// From the first byte.
    Implicit,
}

/// What the server offers and asks for.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// How connections are protected.
    pub tls: Tls,
    /// User and password without which no mail is taken.
    pub login: Option<(String, String)>,
    /// EHLO offers SMTPUTF8.
    pub smtputf8: bool,
}

/// What the client is at, when the sink is asked for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// It has connected (and, with [`Tls::Implicit`], TLS stands).
    Greeting,
    /// It has named a user and a password, which are not compared yet.
    Login {
        /// The user.
        user: &'a str,
    },
    /// It has named this sender.
    Sender(&'a str),
    /// It has named this recipient.
    Recipient(&'a str),
    /// It has sent a whole mail.
    Data {
        /// The mail's recipient.
        to: &'a str,
        /// The mail, with the headers.
        text: &'a [u8],
    },
}

/// What the client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// As a healthy server would.
    Yes,
    /// This line instead (e.g. "450 4.2.1 mailbox busy"); at Greeting the connection is closed after it.
    No(String),
    /// As a healthy server, after this long. At Data the mail is taken after it, too.
    After(Duration),
    /// Only at Data (elsewhere it cuts at once): the mail is taken and kept, the connection is cut before its 250.
    TakeAndCut,
}

type Answers = Arc<dyn Fn(&Step<'_>) -> Answer + Send + Sync>;
type BeforeTaking = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

/// What the sink and its connections share.
struct Shared {
    options: Options,
    certificate: Certificate,
    answers: Mutex<Answers>,
    before_taking: Mutex<Option<BeforeTaking>>,
    taken: Mutex<Vec<Taken>>,
    refused: AtomicU32,
    logins: AtomicU32,
    connections: AtomicU32,
    open: AtomicU32,
    most_at_once: AtomicU32,
}

/// The running server. It stops, and cuts its connections, when it is dropped.
pub struct Sink {
    port: Port,
    shared: Arc<Shared>,
}

impl Sink {
    /// Plain, without a login, on a free port of 127.0.0.1.
    pub async fn start() -> Sink {
        Sink::with(Options::default()).await
    }

    /// On a free port of 127.0.0.1.
    pub async fn with(options: Options) -> Sink {
        Sink::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), options).await
    }

    /// Behind that listener.
    pub async fn on(listener: TcpListener, options: Options) -> Sink {
        let shared = Arc::new(Shared {
            options,
            certificate: Certificate::new(),
            answers: Mutex::new(Arc::new(|_| Answer::Yes)),
            before_taking: Mutex::default(),
            taken: Mutex::default(),
            refused: AtomicU32::default(),
            logins: AtomicU32::default(),
            connections: AtomicU32::default(),
            open: AtomicU32::default(),
            most_at_once: AtomicU32::default(),
        });
        let port = Port::new(listener, {
            let shared = shared.clone();
            move |stream, cut| serve(stream, shared.clone(), cut)
        });
        Sink { port, shared }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    /// `MAIL_URL` for it: `smtp://127.0.0.1:port` (plain), `smtp://user:password@localhost:port?tls=required` (STARTTLS),
    /// `smtps://user:password@localhost:port`. User and password are percent-encoded.
    pub fn url(&self) -> String {
        let login = self.shared.options.login.as_ref();
        let login = login
            .map(|(user, password)| format!("{}:{}@", percent_encoded(user), percent_encoded(password)))
            .unwrap_or_default();
        match self.shared.options.tls {
            Tls::None => format!("smtp://{login}{}", self.addr()),
            Tls::StartTls => format!("smtp://{login}localhost:{}?tls=required", self.addr().port()),
            Tls::Implicit => format!("smtps://{login}localhost:{}", self.addr().port()),
        }
    }

    /// A PEM file of its certificate (for `SSL_CERT_FILE`), which is for "localhost" and 127.0.0.1. It is gone when the
    /// sink is dropped.
    pub fn certificate(&self) -> &Path {
        self.shared.certificate.path()
    }

    /// From now on it answers what `answers` gives.
    pub fn answer(&self, answers: impl Fn(&Step<'_>) -> Answer + Send + Sync + 'static) {
        *self.shared.answers.lock().unwrap() = Arc::new(answers);
    }

    /// Runs before each answer to a mail's data, and before `answer`'s closure is asked for it.
    pub fn before_taking(&self, run: impl Fn() -> BoxFuture<'static, ()> + Send + Sync + 'static) {
        *self.shared.before_taking.lock().unwrap() = Some(Arc::new(run));
    }

    /// What it has taken, in that order.
    pub fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// How many mails it has taken.
    pub fn count(&self) -> usize {
        self.shared.taken.lock().unwrap().len()
    }

    /// How often something other than success was answered, that is a line that begins with 4 or 5.
    pub fn refused(&self) -> u32 {
        self.shared.refused.load(Ordering::SeqCst)
    }

    /// Logins that were tried (AUTH commands), right or wrong.
    pub fn logins(&self) -> u32 {
        self.shared.logins.load(Ordering::SeqCst)
    }

    /// Connections that were accepted so far.
    pub fn connections(&self) -> u32 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The most connections that were open at once.
    pub fn most_at_once(&self) -> u32 {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }

    /// Closes the listener and cuts every connection; waits until that is done.
    pub async fn stop(&self) {
        self.port.close().await;
    }

    /// Listens on the same port again, with everything it has taken and counted.
    pub async fn resume(&self) {
        self.port.open().await;
    }
}

/// Counted as open until it is dropped.
struct Visit(Arc<Shared>);

impl Visit {
    fn begin(shared: Arc<Shared>) -> Visit {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let open = shared.open.fetch_add(1, Ordering::SeqCst) + 1;
        shared.most_at_once.fetch_max(open, Ordering::SeqCst);
        Visit(shared)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, cut: CancellationToken) {
    let visit = Visit::begin(shared.clone());
    // An error is the connection's end, and nobody's concern: the client is gone, or it is cut.
    cut.run_until_cancelled(talk::talk(stream, shared, visit)).await.map(Result::ok);
}

fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}
