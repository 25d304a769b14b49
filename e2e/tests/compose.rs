//! compose.yaml and the files of variables beside it say what the binaries and the documents say. That it runs is
//! `deploy/smoke.sh`'s, which needs Docker.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use e2e::process;
use serde_json::Value;

const COMPOSE: &str = include_str!("../../compose.yaml");
const EXAMPLE: &str = include_str!("../../.env.example");
const DEMO: &str = include_str!("../../.env.demo");
const DOCKERFILE: &str = include_str!("../../Dockerfile");
const OPERATIONS: &str = include_str!("../../docs/operations.md");

/// The binary of each service, by its container's name.
const BINARIES: [(&str, &str); 6] = [
    ("apigw", "gateway"),
    ("user_manager", "user_manager"),
    ("data_collector", "data_collector"),
    ("alert_system", "alert_system"),
    ("notifier_system", "notifier_system"),
    ("opensky_replay", "opensky_replay"),
];

/// What a container's place decides, or what is for other shapes: a file of the gateway, another service's address, a bus
/// that is no Kafka.
const FIXED: [&str; 18] = [
    "ADMIN_LISTEN",
    "BUS_URL",
    "CONFIG",
    "DATABASE_URL",
    "DATA_COLLECTOR_ADMIN_PORT",
    "DATA_COLLECTOR_URL",
    "KEY_FEED_URL",
    "LISTEN",
    "NODE",
    "OPENSKY_REPLAY_ANONYMOUS",
    "OPENSKY_REPLAY_CLIENT",
    "OPENSKY_REPLAY_DATA",
    "OPENSKY_REPLAY_SEED",
    "OPENSKY_REPLAY_TOKEN_LIFETIME",
    "REDIRECT_LISTEN",
    "UPGRADE_SOCKET",
    "USER_MANAGER_ADMIN_PORT",
    "USER_MANAGER_URL",
];

fn compose() -> Value {
    serde_saphyr::from_str(COMPOSE).unwrap()
}

/// The variables of a service, merged ones included.
fn environment(service: &Value) -> BTreeSet<String> {
    service["environment"].as_object().unwrap().keys().filter(|name| *name != "<<").cloned().collect()
}

/// The variables that compose.yaml itself has a default for: `${NAME:-default}`.
fn defaults() -> Vec<(String, String)> {
    // `$${` is the shell's, in a command.
    let text = COMPOSE.replace("$${", "");
    let named =
        text.split("${").skip(1).map(|rest| rest.split('}').next().unwrap().split_once(":-").unwrap());
    named.map(|(name, default)| (name.to_owned(), default.to_owned())).collect()
}

/// The variables of compose.yaml that people set: passed on as they are, or with a default.
fn settable() -> BTreeSet<String> {
    let compose = compose();
    let passed = compose["services"].as_object().unwrap().values().flat_map(|service| {
        let environment = service["environment"].as_object().into_iter().flatten();
        environment.filter(|(_, value)| value.is_null()).map(|(name, _)| name.clone())
    });
    passed.chain(defaults().into_iter().map(|(name, _)| name)).collect()
}

/// The names in a file of variables; in one of examples they are commented out.
fn names(file: &str, before: &str) -> Vec<String> {
    let lines = file.lines().filter_map(|line| line.strip_prefix(before)?.split_once('='));
    lines.map(|(name, _)| name.to_owned()).filter(|name| !name.contains(' ')).collect()
}

/// The variables that a binary's `--help` names, each with its default.
fn options(binary: &str) -> BTreeMap<String, Option<String>> {
    let output = Command::new(process::binary(binary)).arg("--help").env_clear().output().unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let mut options = BTreeMap::new();
    // An option begins with its flag; what is told of it up to the next one holds its default.
    for option in help.split("\n      --") {
        let Some((before, after)) = option.split_once("[env: ") else { continue };
        let default = [before, after].into_iter().find_map(|told| told.split_once("[default: "));
        let default = default.map(|(_, rest)| rest.split(']').next().unwrap().to_owned());
        options.insert(after.split(['=', ']']).next().unwrap().to_owned(), default);
    }
    options
}

#[test]
fn the_example_names_every_variable_once() {
    let names = names(EXAMPLE, "#");
    let set: BTreeSet<String> = names.iter().cloned().collect();
    assert_eq!(set.len(), names.len(), "none twice");
    assert_eq!(set, settable());
}

#[test]
fn each_container_takes_every_option_of_its_service() {
    let compose = compose();
    for (container, binary) in BINARIES {
        let taken = environment(&compose["services"][container]);
        let options = options(binary);
        assert!(options.len() > 5, "{binary} --help");
        for name in options.keys() {
            assert!(
                FIXED.contains(&name.as_str()) || taken.contains(name),
                "{container} does not take {name}"
            );
        }
        let unknown: Vec<_> = taken.iter().filter(|name| !options.contains_key(*name)).collect();
        assert!(unknown.is_empty(), "{binary} does not know {unknown:?}");
    }
}

#[test]
fn the_example_shows_the_defaults() {
    let mut compared = 0;
    for (_, binary) in BINARIES {
        for (name, default) in options(binary) {
            let Some(default) = default else { continue };
            let shown = EXAMPLE.lines().find_map(|line| line.strip_prefix(&format!("#{name}=")));
            // What is left empty is told in words.
            if let Some(shown) = shown.filter(|shown| !shown.is_empty()) {
                assert_eq!(shown, default, "{name}");
                compared += 1;
            }
        }
    }
    assert!(compared > 30, "{compared} defaults were found");
    let arguments = DOCKERFILE.lines().filter_map(|line| line.strip_prefix("ARG ")?.split_once('='));
    let arguments = arguments.map(|(name, default)| (name.to_owned(), default.to_owned()));
    for (name, default) in defaults().into_iter().chain(arguments) {
        assert!(EXAMPLE.lines().any(|line| line == format!("#{name}={default}")), "{name}");
    }
}

#[test]
fn what_is_built_here_is_never_taken_from_a_registry() {
    for (name, service) in compose()["services"].as_object().unwrap() {
        assert_eq!(service["build"].is_null(), service["pull_policy"].is_null(), "{name}");
        assert!(service["pull_policy"].is_null() || service["pull_policy"] == "never", "{name}");
    }
}

#[test]
fn every_variable_is_told_in_the_documents() {
    for name in settable() {
        assert!(OPERATIONS.contains(&format!("`{name}`")), "docs/operations.md does not tell of {name}");
    }
}

#[test]
fn the_demo_sets_what_can_be_set_and_holds_no_secret() {
    let demo = names(DEMO, "");
    assert!(!demo.is_empty());
    for name in demo.iter().filter(|name| !name.starts_with("COMPOSE_")) {
        assert!(settable().contains(name), "{name}");
    }
    for name in ["CONFIRM_EMAIL=off", "COLLECT_LAG=0s", "COLLECT_SETTLE=0s", "OPENSKY_CLIENT_SECRET=demo"] {
        assert!(DEMO.lines().any(|line| line == name), "{name}");
    }
}

#[test]
fn only_the_gateway_and_on_this_host_the_broker_are_published() {
    let compose = compose();
    let published: Vec<(&str, &str)> = compose["services"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, service)| service["profiles"].is_null())
        .flat_map(|(name, service)| {
            let ports = service["ports"].as_array().into_iter().flatten();
            ports.map(|port| (name.as_str(), port.as_str().unwrap()))
        })
        .collect();
    assert_eq!(published, [("apigw", "8443:8443"), ("broker_kafka", "127.0.0.1:29092:29092")]);
}

#[test]
fn the_images_carry_the_version() {
    assert!(DOCKERFILE.contains(&format!("image.version={} ", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn a_stop_takes_longer_than_the_services_grace() {
    for (container, _) in BINARIES {
        let service = &compose()["services"][container];
        let grace =
            service["stop_grace_period"].as_str().unwrap().trim_end_matches('s').parse::<u64>().unwrap();
        assert!(grace > 8, "{container}: SHUTDOWN_GRACE is 8 s");
    }
}
