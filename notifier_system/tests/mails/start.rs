use std::net::TcpListener;
use std::process::Command;

use common::service::{Parts, StartError};
use common::testing::temp_path;
use notifier_system::App;

use crate::service::{config, databases};

/// The complaint of a process that ends at once: one line, exit code 2.
fn complaint(options: &[(&str, &str)]) -> String {
    let (database, bus) = (temp_path("notifier.db"), temp_path("bus.db"));
    let mut process = Command::new(env!("CARGO_BIN_EXE_notifier_system"));
    process
        .env_clear()
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATABASE_URL", format!("sqlite:{}", database.display()))
        .env("BUS_URL", format!("log:{}", bus.display()))
        .env("LOG", "error")
        .envs(options.iter().copied());
    let text = common::testing::complaint(&mut process);
    assert!(text.starts_with("notifier_system: "), "{text}");
    assert!(!text.contains("hush"), "the password is told: {text}");
    text
}

#[test]
fn a_wrong_option_stops_the_start_with_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, value) in [
        ("ADMIN_LISTEN", address.as_str()),
        ("DATABASE_URL", "postgres://ada:hush@localhost:port/notifier"),
        ("BUS_URL", "smtp://localhost"),
        ("MAIL_URL", "http://ada:hush@example.com"),
        ("MAIL_URL", "smtp://ada:hush@"),
        ("MAIL_URL", "smtp://ada@example.com"),
        ("MAIL_URL", "smtps://ada:hush@example.com?tls=none"),
        ("MAIL_URL", "file:"),
        ("MAIL_URL", "file:/dev/null/mail"),
        ("MAIL_URL_FILE", "no/such/file"),
        ("MAIL_FROM", "nobody"),
        ("PUBLIC_URL", "flights"),
        ("PUBLIC_URL", "mailto:ada@example.com"),
    ] {
        let text = complaint(&[(option, value)]);
        let flag = option.to_lowercase().replace('_', "-");
        assert!(text.contains(option) || text.contains(&flag), "{option}={value}: {text}");
    }
}

#[test]
fn half_of_gmails_credentials_stops_the_start() {
    assert!(complaint(&[("GMAIL_USER", "ada@example.com")]).contains("GMAIL_APP_PASSWORD"));
    assert!(complaint(&[("GMAIL_APP_PASSWORD", "hush")]).contains("GMAIL_USER"));
}

#[tokio::test]
async fn in_process_it_is_a_start_error_too() {
    for db in databases().await {
        let error = App::build(config(&db, "smtp://ada:hush@", &[]), Parts::default()).await.err().unwrap();
        assert!(error.is::<StartError>() && !format!("{error:#}").contains("hush"), "{error:#}");
    }
}
