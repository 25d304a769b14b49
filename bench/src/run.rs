//! The kinds of runs.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::pace::Pace;
use crate::tally::{Failure, Tally};
use crate::target::Target;
use crate::{Options, cpu, http1, http2, print, report};

/// Handshakes at once while the connections are opened.
const OPENING: usize = 64;
/// After a failure, so that a server that is down is not asked as fast as the machine can.
const PAUSE: Duration = Duration::from_millis(10);

/// Opens the connections, then sends for as long as the options say.
pub(crate) async fn timed(options: &Options, target: &Arc<Target>) -> anyhow::Result<Value> {
    let fresh = || vec![(); options.connections as usize];
    if options.handshakes {
        return measure(options, target, fresh(), handshakes).await;
    }
    if options.new_connection_per_request {
        return measure(options, target, fresh(), connections).await;
    }
    if options.http2 {
        let opened = open(options, || warm_http2(target)).await;
        let streams = options.streams;
        return measure(options, target, opened, move |target, pace, connection| {
            http2_connection(target, pace, connection, streams)
        })
        .await;
    }
    let opened = open(options, || warm_http1(target)).await;
    measure(options, target, opened, http1_connection).await
}

/// Opens the connections and only holds them.
pub(crate) async fn idle(options: &Options, target: &Arc<Target>) -> anyhow::Result<bool> {
    let opened = open(options, || warm_http1(target)).await;
    let count = opened.iter().flatten().count();
    print(
        &json!({ "open": count, "failed": opened.len() - count, "tls": target.tally().tls }),
        options.json,
    )?;
    tokio::time::sleep(options.duration).await;
    let answers = opened.into_iter().flatten().map(|mut connection| async move {
        matches!(connection.exchange(target).await, Ok(answer) if answer.status / 100 == 2)
    });
    let answers: Vec<bool> = stream::iter(answers).buffer_unordered(OPENING).collect().await;
    let alive = answers.into_iter().filter(|answered| *answered).count();
    print(&json!({ "open": alive, "lost": count - alive }), options.json)?;
    Ok(count > 0 && alive == count)
}

/// Runs one `worker` for each of `connections` and reports.
async fn measure<C, W, F>(
    options: &Options,
    target: &Arc<Target>,
    connections: Vec<C>,
    worker: W,
) -> anyhow::Result<Value>
where
    W: Fn(Arc<Target>, Arc<Pace>, C) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let opened = {
        let tls = std::mem::take(&mut target.tally().tls);
        *target.tally() = Tally { tls, ..Tally::default() };
        connections.len()
    };
    let cpu_before = cpu::spent(&options.cpu_of)?;
    let start = Instant::now();
    let pace = Arc::new(Pace::new(options.rate, start, options.duration, options.requests));
    let driver = std::thread::spawn({
        let pace = Arc::clone(&pace);
        move || pace.drive()
    });
    let workers: JoinSet<()> =
        connections.into_iter().map(|it| worker(Arc::clone(target), Arc::clone(&pace), it)).collect();
    workers.join_all().await;
    let took = start.elapsed();
    let cpu_spent = cpu::spent(&options.cpu_of)? - cpu_before;
    let late = driver.join().ok().context("the thread that keeps the rate panicked")?;
    Ok(report::of(&target.tally(), opened, took, cpu_spent, pace.unsent(), &late))
}

/// As many connections as the options say, each used once. What fails here is tried again, and then counted, in the run.
async fn open<C, F: Future<Output = Option<C>>>(options: &Options, one: impl Fn() -> F) -> Vec<Option<C>> {
    stream::iter(0..options.connections).map(|_| one()).buffer_unordered(OPENING).collect().await
}

async fn warm_http1(target: &Target) -> Option<http1::Connection> {
    let mut connection = http1::Connection::open(target).await.ok()?;
    connection.exchange(target).await.ok()?.keeps.then_some(connection)
}

async fn warm_http2(target: &Target) -> Option<http2::Connection> {
    let connection = http2::Connection::open(target).await.ok()?;
    connection.exchange(target).await.ok()?;
    Some(connection)
}

async fn http1_connection(target: Arc<Target>, pace: Arc<Pace>, mut kept: Option<http1::Connection>) {
    while let Some(due) = pace.next().await {
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => match http1::Connection::open(&target).await {
                Ok(connection) => connection,
                Err(failure) => {
                    count_failure(&target, &pace, failure).await;
                    continue;
                }
            },
        };
        match connection.exchange(&target).await {
            Ok(answer) => {
                target.tally().answered(&answer, due.elapsed());
                kept = answer.keeps.then_some(connection);
            }
            Err(failure) => count_failure(&target, &pace, failure).await,
        }
    }
}

async fn http2_connection(
    target: Arc<Target>,
    pace: Arc<Pace>,
    mut kept: Option<http2::Connection>,
    streams: u32,
) {
    while !pace.is_over() {
        let connection = match kept.take() {
            Some(connection) => connection,
            None => match http2::Connection::open(&target).await {
                Ok(connection) => connection,
                Err(failure) => {
                    count_failure(&target, &pace, failure).await;
                    continue;
                }
            },
        };
        // Each ends with the run, or with the connection; the others then finish theirs before it is replaced.
        join_all((0..streams).map(|_| http2_stream(&target, &pace, &connection))).await;
    }
}

async fn http2_stream(target: &Target, pace: &Pace, connection: &http2::Connection) {
    while let Some(due) = pace.next().await {
        match connection.exchange(target).await {
            Ok(answer) => target.tally().answered(&answer, due.elapsed()),
            Err(lost) => {
                count_failure(target, pace, lost.failure).await;
                if !lost.only_the_stream {
                    return;
                }
            }
        }
    }
}

async fn connections(target: Arc<Target>, pace: Arc<Pace>, (): ()) {
    while let Some(due) = pace.next().await {
        let answer = async {
            let mut connection = http1::Connection::open(&target).await?;
            let answer = connection.exchange(&target).await?;
            target.tally().answered(&answer, due.elapsed());
            // With an answer like that the server closes by itself, perhaps before it reads our goodbye.
            if answer.keeps { connection.close(&target).await } else { Ok(()) }
        };
        if let Err(failure) = answer.await {
            count_failure(&target, &pace, failure).await;
        }
    }
}

/// The close is waited for: a server that closes in return has read the last message of the handshake.
async fn handshakes(target: Arc<Target>, pace: Arc<Pace>, (): ()) {
    while let Some(due) = pace.next().await {
        let closed = async {
            let connection = http1::Connection::open(&target).await?;
            let took = due.elapsed();
            connection.close(&target).await.map(|()| took)
        };
        match closed.await {
            Ok(took) => target.tally().shaken(took),
            Err(failure) => count_failure(&target, &pace, failure).await,
        }
    }
}

async fn count_failure(target: &Target, pace: &Pace, failure: Failure) {
    target.tally().failed(failure);
    if failure == Failure::Connect && target.until_refused {
        pace.stop();
    }
    tokio::time::sleep(PAUSE).await;
}
