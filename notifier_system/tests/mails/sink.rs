//! A small SMTP server that keeps what it takes and answers as the test says.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use mail_parser::MessageParser;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A mail that the server has taken.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) text: Vec<u8>,
}

impl Taken {
    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> String {
        let mail = MessageParser::default().parse(&self.text).unwrap();
        mail.header_raw(name).unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn subject(&self) -> String {
        MessageParser::default().parse(&self.text).unwrap().subject().unwrap_or_default().to_owned()
    }

    /// Without the line ends at its end.
    pub(crate) fn body(&self) -> String {
        let mail = MessageParser::default().parse(&self.text).unwrap();
        mail.body_text(0).unwrap().trim_end().replace("\r\n", "\n")
    }
}

/// What the server answers when a recipient or a connection is not to have a plain success.
type Answers = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Runs before the answer to a mail's data.
type BeforeTaking = Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

#[derive(Clone)]
struct Shared {
    taken: Arc<Mutex<Vec<Taken>>>,
    refused: Arc<Mutex<u32>>,
    answers: Arc<Mutex<Answers>>,
    before_taking: Arc<Mutex<Option<BeforeTaking>>>,
}

/// The running server; it stops when it is dropped.
pub(crate) struct Sink {
    pub(crate) addr: SocketAddr,
    shared: Shared,
    _stop: DropGuard,
}

impl Sink {
    pub(crate) async fn start() -> Sink {
        Sink::on(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn on(listener: TcpListener) -> Sink {
        let addr = listener.local_addr().unwrap();
        let shared = Shared {
            taken: Arc::default(),
            refused: Arc::default(),
            answers: Arc::new(Mutex::new(Arc::new(|_| None))),
            before_taking: Arc::default(),
        };
        let token = CancellationToken::new();
        let serving = token.clone().run_until_cancelled_owned(serve(listener, shared.clone(), token.clone()));
        tokio::spawn(serving);
        Sink { addr, shared, _stop: token.drop_guard() }
    }

    pub(crate) fn url(&self) -> String {
        format!("smtp://{}", self.addr)
    }

    /// From now on the server's greeting (`greeting`) or its answer to a recipient's address is what `answers` gives.
    pub(crate) fn answer(&self, answers: impl Fn(&str) -> Option<String> + Send + Sync + 'static) {
        *self.shared.answers.lock().unwrap() = Arc::new(answers);
    }

    /// Runs before each answer to a mail's data.
    pub(crate) fn before_taking(
        &self,
        run: impl Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync + 'static,
    ) {
        *self.shared.before_taking.lock().unwrap() = Some(Arc::new(run));
    }

    pub(crate) fn taken(&self) -> Vec<Taken> {
        self.shared.taken.lock().unwrap().clone()
    }

    /// How often something other than success was answered.
    pub(crate) fn refused(&self) -> u32 {
        *self.shared.refused.lock().unwrap()
    }
}

async fn serve(listener: TcpListener, shared: Shared, token: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let talk = talk(stream, shared.clone());
        tokio::spawn(token.clone().run_until_cancelled_owned(talk));
    }
}

/// One connection. An error means that the client is gone.
async fn talk(stream: TcpStream, shared: Shared) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).split(b'\n');
    let answer_to = |what: &str| {
        let answer = shared.answers.lock().unwrap()(what);
        *shared.refused.lock().unwrap() += u32::from(answer.is_some());
        answer
    };
    let greeting = answer_to("greeting");
    let closes = greeting.is_some();
    write.write_all(format!("{}\r\n", greeting.unwrap_or("220 sink".into())).as_bytes()).await?;
    if closes {
        return Ok(());
    }
    let (mut from, mut to) = (String::new(), String::new());
    while let Some(line) = lines.next_segment().await? {
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        let address = || line.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
        let answer = match line.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
            "EHLO" => "250-sink\r\n250 8BITMIME".to_owned(),
            "MAIL" => {
                from = address();
                "250 ok".to_owned()
            }
            "RCPT" => {
                to = address();
                answer_to(&to).unwrap_or("250 ok".into())
            }
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let mut text = Vec::new();
                while let Some(line) = lines.next_segment().await? {
                    if line == b".\r" {
                        break;
                    }
                    text.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
                    text.push(b'\n');
                }
                let before = shared.before_taking.lock().unwrap().clone();
                if let Some(run) = before {
                    run().await;
                }
                shared.taken.lock().unwrap().push(Taken { from: from.clone(), to: to.clone(), text });
                "250 taken".to_owned()
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            "RSET" | "NOOP" => "250 ok".to_owned(),
            _ => "502 unknown".to_owned(),
        };
        write.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
    Ok(())
}
