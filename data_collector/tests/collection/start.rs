use std::net::TcpListener;
use std::process::Command;

use common::testing::temp_path;

/// The complaint of a process that ends at once: one line, exit code 2.
fn complaint(options: &[(&str, &str)]) -> String {
    let (database, bus) = (temp_path("data.db"), temp_path("bus.db"));
    let mut process = Command::new(env!("CARGO_BIN_EXE_data_collector"));
    process
        .env_clear()
        .env("LISTEN", "127.0.0.1:0")
        .env("ADMIN_LISTEN", "127.0.0.1:0")
        .env("DATABASE_URL", format!("sqlite:{}", database.display()))
        .env("BUS_URL", format!("log:{}", bus.display()))
        .env("LOG", "error")
        .envs(options.iter().copied());
    let text = common::testing::complaint(&mut process);
    assert!(text.starts_with("data_collector: "), "{text}");
    text
}

#[test]
fn a_wrong_option_stops_the_start_with_one_line_that_names_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (option, value) in [
        ("LISTEN", address.as_str()),
        ("ADMIN_LISTEN", &address),
        ("DATABASE_URL", "postgres://ada:hush@localhost:port/data"),
        ("DATABASE_URL", "data.db"),
        ("BUS_URL", "log:"),
        ("KEY_FEED_URL", "user_manager:9901"),
        ("USER_MANAGER_GRPC_URL", "user_manager:50051"),
        ("USER_MANAGER_GRPC_URL", "https://user_manager:50051"),
        ("AUTH", "maybe"),
        ("OPENSKY_API_URL", "opensky-network.org/api"),
        ("OPENSKY_TOKEN_URL", "ftp://localhost/token"),
        ("OPENSKY_TIMEOUT", "later"),
        ("OPENSKY_DAILY_CREDITS", "-1"),
        ("COLLECT_WINDOW", "5h"),
        ("COLLECT_WINDOW", "48h"),
        ("COLLECT_WINDOW", "1s"),
        ("COLLECT_EVERY", "0s"),
        ("COLLECT_LAG", "-1h"),
        ("BREAKER_FAILURE_THRESHOLD", "0"),
        ("BREAKER_SUCCESS_THRESHOLD", "0"),
        ("BREAKER_TIMEOUT", "0s"),
        ("BREAKER_EXPECTED_ERRORS", "connect,bad-luck"),
        ("DEFAULT_LOW_VALUE", "-1"),
        ("DEFAULT_HIGH_VALUE", "-1"),
        ("DEFAULT_HIGH_VALUE", "0"),
        ("DEFAULT_LOW_VALUE", "few"),
        ("MAX_INTERESTS", "0"),
    ] {
        let text = complaint(&[(option, value)]);
        let flag = option.to_lowercase().replace('_', "-");
        assert!(text.contains(option) || text.contains(&flag), "{option}={value}: {text}");
        assert!(!text.contains("hush"), "the password is told: {text}");
    }
}

#[test]
fn one_credential_alone_stops_the_start() {
    assert!(complaint(&[("OPENSKY_CLIENT_ID", "ada")]).contains("OPENSKY_CLIENT_SECRET"));
    let text = complaint(&[("OPENSKY_CLIENT_SECRET", "hush")]);
    assert!(text.contains("OPENSKY_CLIENT_ID") && !text.contains("hush"), "{text}");
    let file = complaint(&[("OPENSKY_CLIENT_ID", "ada"), ("OPENSKY_CLIENT_SECRET_FILE", "no/such/file")]);
    assert!(file.contains("OPENSKY_CLIENT_SECRET_FILE"), "{file}");
}
