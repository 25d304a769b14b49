//! `<service> healthcheck`, which is all that a container's health check can run: the images have no shell.
#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use common::clock::Clock;
use e2e::eventually;
use e2e::process::{self, Process};
use gateway::gen_cert;
use tempfile::TempDir;

/// Exit code and standard error of a service's `healthcheck`.
async fn ask(name: &str, arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(process::binary(name));
    let output =
        command.args(arguments).env_clear().envs(environment.iter().copied()).output().await.unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A port where nothing listens: it was free, and the test's processes bind others.
async fn nobody() -> SocketAddr {
    tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_says_whether_it_is_ready() {
    let folder = TempDir::new().unwrap();
    let database = |name: &str| format!("sqlite:{}", folder.path().join(name).with_extension("db").display());
    for (name, port) in [
        ("user_manager", "ADMIN_LISTEN"),
        ("data_collector", "ADMIN_LISTEN"),
        ("alert_system", "ADMIN_LISTEN"),
        ("notifier_system", "ADMIN_LISTEN"),
        ("opensky_replay", "OPENSKY_REPLAY_LISTEN"),
    ] {
        let (database, nobody) = (database(name), nobody().await.to_string());
        let bus = format!("log:{}", folder.path().join(name).with_extension("bus").display());
        let environment = [
            (port, "127.0.0.1:0"),
            ("LISTEN", "127.0.0.1:0"),
            ("GRPC_LISTEN", "127.0.0.1:0"),
            ("DATABASE_URL", &database),
            ("BUS_URL", &bus),
            ("LOG_FORMAT", "json"),
        ];
        let (code, said) = ask(name, &["healthcheck"], &[(port, &nobody)]).await;
        assert_eq!((code, said.lines().count()), (Some(1), 1), "{name}: {said}");

        let service = Process::start(name, &[], &environment);
        let admin = eventually("a service to tell where its health is", async || {
            let mut told = service.log().into_iter();
            told.find_map(|line| line["admin"].as_str().or(line["addr"].as_str()).map(str::to_owned))
        })
        .await;
        eventually(&format!("{name} to be ready"), async || {
            (ask(name, &["healthcheck"], &[(port, &admin)]).await == (Some(0), String::new())).then_some(())
        })
        .await;
        let flag = if port == "ADMIN_LISTEN" { "--admin-listen" } else { "--listen" };
        assert_eq!(ask(name, &["healthcheck", flag, &admin], &[]).await.0, Some(0), "{name}, by flag");
        assert_eq!(service.stop().await, Some(0), "{name}");
        assert_eq!(ask(name, &["healthcheck"], &[(port, &admin)]).await.0, Some(1), "{name} is gone");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_lives_but_is_not_ready_fails_and_says_what_is_missing() {
    let folder = TempDir::new().unwrap();
    let made = gen_cert::generate(&gen_cert::Options::into_folder(folder.path()), &Clock::System).unwrap();
    let user_manager = format!("http://{}", nobody().await);
    let gateway = Process::start(
        "gateway",
        &["--listen=127.0.0.1:0", "--admin-listen=127.0.0.1:0", "--user-manager-url", &user_manager],
        &[
            ("TLS_CERT", made.cert.to_str().unwrap()),
            ("TLS_KEY", made.key.to_str().unwrap()),
            ("UPGRADE_SOCKET", folder.path().join("socket").to_str().unwrap()),
        ],
    );
    let admin = gateway.address("admin=").await.to_string();
    let (code, said) = ask("gateway", &["healthcheck", "--admin-listen", &admin], &[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("503") && said.contains("not ready: ") && said.contains("keys"), "{said}");
}
