//! Clients that are slow on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};

use crate::target::{Stream, Target};
use crate::{Options, print};

/// Handshakes at once.
const OPENING: usize = 64;
/// The pause before a connection that the server ended is replaced.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two looks at how many are open.
const LOOK: Duration = Duration::from_millis(20);
/// How long it may take until all are open.
const OPEN: Duration = Duration::from_secs(60);
/// Much more than a slow client sends.
const BODY: usize = 100_000;

/// What takes so long.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Slow {
    /// A header field at a time, and never the end of the head.
    Head,
    /// A few bytes of a body at a time.
    Body,
    /// A few bytes of the answer at a time.
    Read,
}

impl Slow {
    /// What the kernel may take for the client before it does, bytes.
    pub(crate) fn receive_buffer(self) -> Option<u32> {
        matches!(self, Self::Read).then_some(4096)
    }
}

#[derive(Default)]
struct Counts {
    open: AtomicUsize,
    failed: AtomicUsize,
    ended: AtomicUsize,
    refused: AtomicUsize,
}

/// Keeps the connections open for the duration, and prints how many there were. Is the number of them complete?
pub(crate) async fn crowd(options: &Options, slow: Slow, target: &Arc<Target>) -> anyhow::Result<bool> {
    let (counts, opening) = (Arc::new(Counts::default()), Arc::new(Semaphore::new(OPENING)));
    for _ in 0..options.connections {
        let (target, counts, opening) = (target.clone(), counts.clone(), opening.clone());
        let every = options.every;
        tokio::spawn(async move {
            loop {
                let stream = {
                    let _place = opening.acquire().await;
                    target.open().await
                };
                match stream {
                    Ok(stream) => {
                        counts.open.fetch_add(1, Relaxed);
                        // However it ends, the server did it.
                        let _ = drip(stream, slow, every, &target, &counts).await;
                        counts.open.fetch_sub(1, Relaxed);
                        counts.ended.fetch_add(1, Relaxed);
                    }
                    Err(_) => {
                        counts.failed.fetch_add(1, Relaxed);
                    }
                }
                sleep(PAUSE).await;
            }
        });
    }
    let all = options.connections as usize;
    let complete = async {
        while counts.open.load(Relaxed) < all {
            sleep(LOOK).await;
        }
    };
    let complete = timeout(OPEN, complete).await.is_ok();
    print(
        &json!({ "open": counts.open.load(Relaxed), "failed": counts.failed.load(Relaxed) }),
        options.json,
    )?;
    let (end, mut least) = (Instant::now() + options.duration, all);
    while Instant::now() < end {
        least = least.min(counts.open.load(Relaxed));
        sleep(LOOK).await;
    }
    print(
        &json!({
            "least_open": least,
            "ended": counts.ended.load(Relaxed),
            "refused": counts.refused.load(Relaxed),
            "failed": counts.failed.load(Relaxed),
        }),
        options.json,
    )?;
    Ok(complete)
}

/// Sends or takes a little now and then, until the server has had enough.
async fn drip(
    mut stream: Box<dyn Stream>,
    slow: Slow,
    every: Duration,
    target: &Target,
    counts: &Counts,
) -> std::io::Result<()> {
    let (end, some): (_, &[u8]) = match slow {
        Slow::Head => (String::new(), b"x-slow: 1\r\n"),
        Slow::Body => (format!("content-length: {BODY}\r\n\r\n"), b"12345678"),
        Slow::Read => ("\r\n".to_owned(), b""),
    };
    stream.write_all(target.head_without_end()).await?;
    stream.write_all(end.as_bytes()).await?;
    stream.flush().await?;
    let mut taken = [0; 12]; // as long as `HTTP/1.1 200`
    if let Slow::Read = slow {
        stream.read_exact(&mut taken).await?;
        while !taken.starts_with(b"HTTP/1.1 ") || taken.ends_with(b" 200") {
            sleep(every).await;
            stream.read_exact(&mut taken).await?;
        }
    } else {
        loop {
            // An answer before the end of the request is a refusal, or the end of the server's patience.
            if let Ok(answer) = timeout(every, stream.read_exact(&mut taken)).await {
                answer?;
                break;
            }
            stream.write_all(some).await?;
            stream.flush().await?;
        }
    }
    counts.refused.fetch_add(1, Relaxed);
    Ok(())
}
