//! One gateway takes over from another: two processes, the same ports, nothing lost.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::TcpListener;

use gateway::gen_cert::Summary;
use reqwest::Client;
use rustix::process::Signal;
use support::LONG;
use support::process::{Load, Process, Town};

const WAITS: &str = "waiting for the running gateway";

/// HTTP/2, HTTP/1.1 on kept connections, and HTTP/1.1 on a new connection for each request.
fn clients(town: &Town, gateway: &Process, cert: &Summary) -> Vec<Client> {
    let client = || town.client(gateway.addr(), &[cert]);
    [client(), client().http1_only(), client().http1_only().pool_max_idle_per_host(0)]
        .map(|builder| builder.build().unwrap())
        .into()
}

fn load(town: &Town, gateway: &Process, cert: &Summary) -> Load {
    let url = format!("https://localhost:{}/user_manager/me", gateway.addr().port());
    Load::start(clients(town, gateway, cert), &url, &town.token())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_gateway_takes_over_and_nothing_is_lost() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    let mut old = town.start(&cert, &["--node=old"]).await;
    let load = load(&town, &old, &cert);
    load.answers(50).await;

    // A request that is in flight while the gateways change places.
    let url = format!("https://localhost:{}/user_manager/slow", old.addr().port());
    let slow = clients(&town, &old, &cert).remove(0).get(url).bearer_auth(town.token()).send();
    let slow = tokio::spawn(slow);
    town.user_manager.has_slow_request().await;

    let new = town.spawn(&cert, &["--node=new", "--upgrade"]);
    new.says(WAITS).await;
    load.answers(50).await;
    old.signal(Signal::QUIT);
    new.serves().await;
    assert_eq!((new.addr(), new.admin_addr()), (old.addr(), old.admin_addr()));
    old.says("another gateway has taken over").await;
    load.answers(200).await;
    assert!(old.runs(), "it has a request in flight");
    let metrics = new.admin("/metrics").await.unwrap();
    assert!(metrics.contains("node=\"new\""), "{metrics}");

    town.user_manager.let_go();
    let slow = tokio::time::timeout(LONG, slow).await.unwrap().unwrap().unwrap();
    assert_eq!(slow.status(), 200);
    assert_eq!(old.ends().await.code(), Some(0));
    load.answers(50).await;
    load.lost_nothing().await;
    assert!(!town.folder.path().join("upgrade.sock").exists());
    assert_eq!(new.lines("which it keeps"), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_taken_over_can_be_taken_over_from() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    // Without keys to wait for, only the service's name keeps one from being ready at once.
    let named = format!("--user-manager-url=http://localhost:{}", town.user_manager.addr.port());
    let flags = ["--auth=off", &named];
    let mut running = town.start(&cert, &flags).await;
    // A gateway that is started plainly does not wait for names.
    running.says("an upstream's addresses").await;
    let (addr, load) = (running.addr(), load(&town, &running, &cert));
    for _ in 0..3 {
        let next = town.spawn(&cert, &[&flags[..], &["--upgrade"]].concat());
        next.says(WAITS).await;
        load.answers(20).await;
        running.signal(Signal::QUIT);
        next.serves().await;
        assert_eq!(running.ends().await.code(), Some(0));
        running = next;
    }
    assert_eq!(running.addr(), addr);
    load.answers(20).await;
    load.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_nobody_at_the_socket_the_running_one_serves_on() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    let mut gateway = town.start(&cert, &[]).await;
    let load = load(&town, &gateway, &cert);
    gateway.signal(Signal::QUIT);
    gateway.says("nobody takes over; serving on").await;
    load.answers(50).await;
    load.lost_nothing().await;
    assert_eq!(gateway.lines("nobody takes over").len(), 1);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.ends().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_next_one_that_fails_leaves_the_running_one_serving() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    let old = town.start(&cert, &[]).await;
    let load = load(&town, &old, &cert);

    // What can be known beforehand is told before anything is waited for.
    let other = town.certificate("other", &["localhost"], 9);
    let mixed = Summary { key: other.key.clone(), ..cert.clone() };
    let mut wrong = town.spawn(&mixed, &["--upgrade"]);
    assert_eq!(wrong.ends().await.code(), Some(2));
    wrong.says("not the key of the certificate").await;
    assert_eq!(wrong.lines(WAITS), Vec::<String>::new());

    // What it binds itself is bound when it has the sockets.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let redirect = format!("--redirect-listen={}", taken.local_addr().unwrap());
    let mut fails = town.spawn(&cert, &["--upgrade", &redirect]);
    fails.says(WAITS).await;
    old.signal(Signal::QUIT);
    assert_eq!(fails.ends().await.code(), Some(2));
    fails.says("--redirect-listen").await;
    old.says("nobody takes over; serving on").await;

    // One that never gets its keys does not become ready, and goes when it is told to.
    let mut keyless = town.spawn(&cert, &["--upgrade", "--user-manager-admin-port=1"]);
    keyless.says(WAITS).await;
    old.signal(Signal::QUIT);
    keyless.says("preparing").await;
    keyless.signal(Signal::TERM);
    assert_eq!(keyless.ends().await.code(), Some(0));
    assert_eq!(keyless.lines("\"serving\""), Vec::<String>::new());

    load.answers(50).await;
    load.lost_nothing().await;
    assert_eq!(old.admin("/readyz").await.as_deref(), Some("ready\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_keeps_its_address_and_the_difference_is_told() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    let mut old = town.start(&cert, &[]).await;
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let new = town.spawn(&cert, &["--upgrade", &format!("--listen={free}")]);
    new.says(WAITS).await;
    old.signal(Signal::QUIT);
    let warning = new.says("which it keeps").await;
    assert!(warning.contains(&free.to_string()) && warning.contains("--listen"), "{warning}");
    new.serves().await;
    assert_eq!(new.addr(), old.addr());
    assert_eq!(old.ends().await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_is_stopped_while_the_next_one_prepares_hands_over_all_the_same() {
    let town = Town::new().await;
    let cert = town.certificate("tls", &["localhost"], 9);
    let mut old = town.start(&cert, &[]).await;
    let new = town.spawn(&cert, &["--upgrade", "--user-manager-admin-port=1"]);
    new.says(WAITS).await;
    old.signal(Signal::QUIT);
    new.says("preparing").await;
    old.signal(Signal::TERM);
    assert_eq!(old.ends().await.code(), Some(0));
    // It has no keys yet, but nobody else serves.
    new.serves().await;
    assert_eq!(new.addr(), old.addr());
}
