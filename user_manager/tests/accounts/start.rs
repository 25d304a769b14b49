use std::net::TcpListener;
use std::process::Command;

use common::testing::temp_path;

/// The complaint of a process that ends at once: one line, exit code 2.
fn complaint(options: &[(&str, &str)]) -> String {
    let (database, bus) = (temp_path("user.db"), temp_path("bus.db"));
    let mut process = Command::new(env!("CARGO_BIN_EXE_user_manager"));
    process
        .env_clear()
        .env("LISTEN", "127.0.0.1:0")
        .env("GRPC_LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATABASE_URL", format!("sqlite:{}", database.display()))
        .env("BUS_URL", format!("log:{}", bus.display()))
        .env("LOG", "error")
        .envs(options.iter().copied());
    let text = common::testing::complaint(&mut process);
    assert!(text.starts_with("user_manager: "), "{text}");
    text
}

#[test]
fn a_wrong_option_stops_the_start_with_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, value) in [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://ada:hush@localhost/users"),
        ("DATABASE_URL", "postgres://ada:hush@localhost:port/users"),
        ("BUS_URL", "amqp://localhost"),
        ("BUS_URL", "kafka://localhost"),
        ("LISTEN", "nowhere"),
        ("LISTEN", &address),
        ("GRPC_LISTEN", &address),
        ("ADMIN_LISTEN", &address),
        ("PUBLIC_URL", "ftp://localhost"),
        ("AUTH", "maybe"),
        ("CONFIRM_EMAIL", "maybe"),
        ("MAIL_URL", "hush"),
        ("KEY_ENCRYPTION_KEY", "hush"),
        ("KEY_ROTATION", "1m"),
        ("SHUTDOWN_GRACE", "soon"),
        ("LOG_FORMAT", "xml"),
    ] {
        let text = complaint(&[(option, value)]);
        let flag = option.to_lowercase().replace('_', "-");
        assert!(text.contains(option) || text.contains(&flag), "{option}={value}: {text}");
        assert!(!text.contains("hush"), "the password is told: {text}");
    }
}

#[test]
fn two_sources_of_one_secret_are_a_contradiction() {
    let file = temp_path("url");
    std::fs::write(&file, "sqlite:x").unwrap();
    assert!(complaint(&[("DATABASE_URL_FILE", file.to_str().unwrap())]).contains("DATABASE_URL_FILE"));
}
