//! One HTTP/2 connection.

use bytes::Bytes;
use h2::client::SendRequest;

use crate::tally::{Answer, Failure};
use crate::target::Target;

const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// An open connection; its clones send on the same one.
#[derive(Clone)]
pub(crate) struct Connection {
    sender: SendRequest<Bytes>,
}

/// A request without an answer.
pub(crate) struct Lost {
    pub(crate) failure: Failure,
    /// The connection is good for others.
    pub(crate) only_the_stream: bool,
}

impl Connection {
    pub(crate) async fn open(target: &Target) -> Result<Self, Failure> {
        let stream = target.open().await?;
        let (sender, driver) = h2::client::Builder::new()
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .enable_push(false)
            .handshake(stream)
            .await
            .map_err(|error| failure(&error))?;
        // Its error reaches every request of the connection, where it is counted.
        tokio::spawn(async { driver.await.ok() });
        Ok(Self { sender })
    }

    /// Sends the target's request and reads the answer.
    pub(crate) async fn exchange(&self, target: &Target) -> Result<Answer, Lost> {
        match tokio::time::timeout(target.timeout, self.ask(target)).await {
            Ok(answer) => {
                answer.map_err(|error| Lost { failure: failure(&error), only_the_stream: error.is_reset() })
            }
            Err(_) => Err(Lost { failure: Failure::Timeout, only_the_stream: true }),
        }
    }

    async fn ask(&self, target: &Target) -> Result<Answer, h2::Error> {
        let mut sender = self.sender.clone().ready().await?;
        let (answer, mut upload) = sender.send_request(target.head.clone(), target.body.is_empty())?;
        if !target.body.is_empty() {
            upload.send_data(target.body.clone(), true)?;
        }
        let (head, mut body) = answer.await?.into_parts();
        let mut bytes = 0;
        while let Some(data) = body.data().await {
            let length = data?.len();
            bytes += length as u64;
            body.flow_control().release_capacity(length)?;
        }
        let retry_after = head.headers.contains_key(http::header::RETRY_AFTER);
        Ok(Answer { status: head.status.as_u16(), bytes, retry_after, keeps: true })
    }
}

fn failure(error: &h2::Error) -> Failure {
    match error.reason() {
        // The server says that it did not begin with the request.
        Some(h2::Reason::REFUSED_STREAM) => Failure::Closed,
        Some(h2::Reason::NO_ERROR) if error.is_go_away() => Failure::Closed,
        Some(h2::Reason::PROTOCOL_ERROR) if error.is_library() => Failure::Protocol,
        _ => Failure::Reset,
    }
}
