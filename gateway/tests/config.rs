//! The configuration file: what it changes can be seen from outside.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use common::auth::Feed;
use common::clock::Clock;
use common::service::Parts;
use gateway::{App, Config};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use support::{LONG, NOW, World, echo, eventually, refusing};
use tempfile::TempDir;
use tokio_util::sync::{CancellationToken, DropGuard};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A file, and the flag that names it.
fn file(toml: &str) -> (TempDir, String) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("gateway.toml");
    std::fs::write(&path, toml).unwrap();
    let flag = format!("--config={}", path.display());
    (folder, flag)
}

/// A gateway in front of a world's services that is told everything by a file.
struct Filed {
    addr: SocketAddr,
    admin: SocketAddr,
    _stops: DropGuard,
    _folder: TempDir,
}

impl Filed {
    /// In the file, `$USER_MANAGER` and `$DATA_COLLECTOR` stand for the services' addresses, `$KEYS` for the port of a
    /// key feed, and `$FOLDER` for where the certificate is.
    async fn start(world: &World, toml: &str) -> Filed {
        let keys =
            echo::serve_feed(Feed { keys: vec![world.signer.public().clone()], revoked: vec![] }).await;
        let toml = toml
            .replace("$USER_MANAGER", &world.user_manager.addr.to_string())
            .replace("$DATA_COLLECTOR", &world.data_collector.addr.to_string())
            .replace("$KEYS", &keys.port().to_string())
            .replace("$FOLDER", &world.cert.parent().unwrap().display().to_string());
        let (folder, _) = file(&toml);
        let config = Config { config: Some(folder.path().join("gateway.toml")), ..Config::default() };
        let (clock, _) = Clock::manual(NOW);
        let app = App::build(config, Parts { clock, ..Parts::default() }).await.unwrap();
        let (addr, admin) = (app.addr(), app.admin_addr());
        let stop = CancellationToken::new();
        tokio::spawn(app.run(stop.clone()));
        Filed { addr, admin, _stops: stop.drop_guard(), _folder: folder }
    }

    async fn admin(&self, path: &str) -> (StatusCode, String) {
        let answer = Client::new().get(format!("http://{}{path}", self.admin)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    async fn becomes_ready(&self) {
        eventually(async || self.admin("/readyz").await.0 == StatusCode::OK).await;
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.addr.port())
    }
}

const WHOLE: &str = "
    listen = '127.0.0.1:0'
    admin_listen = '127.0.0.1:0'
    node = 'from-a-file'
    [[certificates]]
    cert = '$FOLDER/cert.pem'
    key = '$FOLDER/key.pem'
    [upstreams.user_manager]
    addresses = ['http://$USER_MANAGER']
    admin_port = $KEYS
    [upstreams.data_collector]
    addresses = ['http://$DATA_COLLECTOR']
";

#[tokio::test]
async fn a_file_alone_makes_a_gateway() {
    let world = World::start().await;
    let filed = Filed::start(&world, WHOLE).await;
    assert_eq!((filed.addr.ip(), filed.admin.ip()), (LOCALHOST, LOCALHOST));
    assert!(filed.addr.port() != 8443 && filed.admin.port() != 9900);
    filed.becomes_ready().await;
    for service in ["user_manager", "data_collector"] {
        // This client trusts no certificate but the one in the file.
        let request = world.client().get(filed.url(&format!("/{service}/x"))).bearer_auth(world.token());
        let seen: Value = request.send().await.unwrap().json().await.unwrap();
        assert_eq!(seen["service"], service);
    }
    let refused = world.client().get(filed.url("/user_manager/x")).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let metrics = filed.admin("/metrics").await.1;
    assert!(metrics.contains("node=\"from-a-file\""), "{metrics}");
}

#[tokio::test]
async fn a_file_may_turn_tokens_off() {
    let world = World::start().await;
    let filed = Filed::start(&world, &format!("auth = 'off'\n{WHOLE}")).await;
    let answer = world.client().get(filed.url("/user_manager/x")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn keys_come_from_the_upstream_that_the_file_names() {
    let world = World::start().await;
    let (closed, _kept) = refusing();
    let elsewhere = WHOLE.replace("$KEYS", &closed.port().to_string());
    let filed =
        Filed::start(&world, &format!("keys = 'data_collector'\n{elsewhere}admin_port = $KEYS\n")).await;
    filed.becomes_ready().await;
}

#[tokio::test]
async fn a_connection_beyond_the_bound_waits() {
    let world = World::start().await;
    let filed = Filed::start(&world, &format!("auth = 'off'\n{WHOLE}[limits]\nconnections = 1\n")).await;
    let ask = |path: &str| {
        let client = world.client_builder().http1_only().pool_max_idle_per_host(0).build().unwrap();
        tokio::spawn(client.get(filed.url(path)).send())
    };
    let first = ask("/user_manager/slow");
    world.user_manager.has_slow_request().await;
    let second = ask("/user_manager/x");
    // Without the bound it would have been answered long before the last of these.
    for _ in 0..100 {
        assert_eq!(filed.admin("/healthz").await.0, StatusCode::OK);
        assert!(!second.is_finished());
    }
    world.user_manager.let_go();
    for asked in [first, second] {
        let answer = tokio::time::timeout(LONG, asked).await.unwrap().unwrap().unwrap();
        assert_eq!(answer.status(), 200);
        answer.bytes().await.unwrap();
    }
}

#[tokio::test]
async fn a_flag_overrules_the_file_and_the_file_the_default() {
    let (closed, _kept) = refusing();
    let (_folder, config) = file(&format!(
        "auth = 'off'\nnode = 'from-a-file'\n[upstreams.user_manager]\naddresses = ['http://{closed}']\n"
    ));
    let filed = World::start_with(std::slice::from_ref(&config)).await;
    assert_eq!(filed.client().get(filed.url("/user_manager/x")).send().await.unwrap().status(), 200);
    let flagged = World::start_with(&[config, "--auth=required".to_owned()]).await;
    flagged.becomes_ready().await;
    assert_eq!(flagged.client().get(flagged.url("/user_manager/x")).send().await.unwrap().status(), 401);
    for world in [filed, flagged] {
        assert!(world.admin("/metrics").await.1.contains("node=\"from-a-file\""));
    }
}
