//! Every key, alone: what it changes, and what is said when it is wrong.

use std::collections::BTreeSet;
use std::time::Duration;

use common::auth::Auth;
use serde::de::value::Error;
use serde::de::{Deserialize, Deserializer, Visitor};
use toml::{Table, Value};

use super::*;
use crate::policy::rate::Rate;
use crate::settings::{CertificateFiles, EncodedSlash, RouteSettings, UpstreamSettings};
use crate::upstream::Endpoint;

const EXAMPLE: &str = include_str!("../../../gateway.example.toml");

type Change = fn(&mut Settings);

/// A file with a key in it, and what it changes of the defaults. Every key is here, and each changes one thing.
const KEYS: &[(&str, Change)] = &[
    ("listen = '127.0.0.1:1'", |all| all.listen = "127.0.0.1:1".into()),
    ("admin_listen = '[::1]:0'", |all| all.admin_listen = "[::1]:0".into()),
    ("redirect_listen = '0.0.0.0:80'", |all| all.redirect_listen = Some("0.0.0.0:80".into())),
    ("node = 'gateway-2'", |all| all.node = "gateway-2".into()),
    ("workers = 77", |all| all.workers = 77.try_into().unwrap()),
    ("auth = 'off'", |all| all.auth = Auth::Off),
    ("keys = 'data_collector'", |all| all.keys = 1),
    ("encoded_slash = 'reject'", |all| all.encoded_slash = EncodedSlash::Reject),
    ("trusted_proxies = ['10.0.0.0/8', '::1/128']", |all| {
        all.trusted_proxies = vec!["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    }),
    ("cors_origins = ['https://app.example.com', 'http://localhost:3000']", |all| {
        all.cors_origins =
            ["https://app.example.com", "http://localhost:3000"].map(|it| it.parse().unwrap()).into();
    }),
    ("access_log = false", |all| all.access_log = false),
    (
        "[[certificates]]\ncert = 'a.pem'\nkey = 'a.key'\n[[certificates]]\ncert = 'b.pem'\nkey = 'b.key'",
        |all| {
            all.certificates = [("a.pem", "a.key"), ("b.pem", "b.key")]
                .map(|(cert, key)| CertificateFiles { cert: cert.into(), key: key.into() })
                .into();
        },
    ),
    ("[limits]\nconnections = 5", |all| all.limits.connections = 5),
    ("[limits]\nconnections_per_client = 5", |all| all.limits.connections_per_client = Some(5)),
    ("[limits]\nconnections_per_client = 'off'", |all| all.limits.connections_per_client = None),
    ("[limits]\nhead = 2048", |all| all.limits.head = 2048),
    ("[limits]\nrate = '0.5/s burst 7'", |all| all.limits.rate = Some(Rate::new(0.5, 7))),
    ("[limits]\nrate = 'off'", |all| all.limits.rate = None),
    ("[limits]\nrate_login = '3/s burst 4'", |all| all.limits.rate_login = Some(Rate::new(3.0, 4))),
    ("[limits]\nrate_login = 'off'", |all| all.limits.rate_login = None),
    ("[limits]\nrate_clients = 5", |all| all.limits.rate_clients = 5),
    ("[limits]\nh2_streams = 5", |all| all.limits.h2_streams = 5),
    ("[limits]\nh2_control_frames = 5", |all| all.limits.h2_control_frames = 5),
    ("[limits]\nstreams = 5", |all| all.limits.streams = 5),
    ("[limits]\nbody_rate = 5", |all| all.limits.body_rate = 5),
    ("[timeouts]\nhandshake = '1500ms'", |all| all.timeouts.handshake = Duration::from_millis(1_500)),
    ("[timeouts]\nhead = '2m'", |all| all.timeouts.head = Duration::from_secs(120)),
    ("[timeouts]\nidle = '7s'", |all| all.timeouts.idle = Duration::from_secs(7)),
    ("[timeouts]\nbody = '7s'", |all| all.timeouts.body = Duration::from_secs(7)),
    ("[timeouts]\nwrite = '7s'", |all| all.timeouts.write = Duration::from_secs(7)),
    ("[timeouts]\nstream_idle = '7s'", |all| all.timeouts.stream_idle = Duration::from_secs(7)),
    ("[timeouts]\nconnect = '7s'", |all| all.timeouts.connect = Duration::from_secs(7)),
    ("[timeouts]\nupstream_read = '7s'", |all| all.timeouts.upstream_read = Duration::from_secs(7)),
    ("[timeouts]\nupstream_write = '7s'", |all| all.timeouts.upstream_write = Duration::from_secs(7)),
    ("[timeouts]\nupstream_idle = '7s'", |all| all.timeouts.upstream_idle = Duration::from_secs(7)),
    ("[upstreams.data_collector]\naddresses = ['http://a:1', 'http://[::1]:2']", |all| {
        all.upstreams[1].addresses = vec![Endpoint::new("a", 1), Endpoint::new("::1", 2)];
    }),
    ("[upstreams.user_manager]\nadmin_port = 7", |all| all.upstreams[0].admin_port = 7),
    ("[upstreams.user_manager]\nmax_in_flight = 7", |all| all.upstreams[0].max_in_flight = 7),
    ("[upstreams.user_manager]\nhealth_interval = '7s'", |all| {
        all.upstreams[0].health_interval = Some(Duration::from_secs(7));
    }),
    ("[upstreams.user_manager]\nhealth_interval = 'off'", |all| all.upstreams[0].health_interval = None),
    ("[upstreams.user_manager]\neject_after = 7", |all| all.upstreams[0].eject_after = 7),
    ("[upstreams.user_manager]\neject_for = '7s'", |all| {
        all.upstreams[0].eject_for = Duration::from_secs(7);
    }),
    ("[upstreams.user_manager]\nretry_budget = 1", |all| all.upstreams[0].retry_budget = 1.0),
    ("[upstreams.weather]\naddresses = ['http://weather:80']\nadmin_port = 81", |all| {
        all.upstreams.push(UpstreamSettings::new("weather", vec![Endpoint::new("weather", 80)], 81));
    }),
    ("[[routes]]\nprefix = '/a/b/'\nupstream = 'data_collector'", |all| {
        all.routes = vec![RouteSettings::new("/a/b/", 1)];
    }),
    ("[[routes]]\nprefix = '/a/'\nupstream = 'user_manager'\nmax_body = 7", |all| {
        all.routes = vec![RouteSettings { max_body: 7, ..RouteSettings::new("/a/", 0) }];
    }),
    ("[[routes]]\nprefix = '/a/'\nupstream = 'user_manager'\npublic = ['POST /x', 'GET /']", |all| {
        let public = vec!["POST /x".parse().unwrap(), "GET /".parse().unwrap()];
        all.routes = vec![RouteSettings { public, ..RouteSettings::new("/a/", 0) }];
    }),
    ("[[routes]]\nprefix = '/a/'\nupstream = 'user_manager'\ncostly = ['POST /x']", |all| {
        let costly = vec!["POST /x".parse().unwrap()];
        all.routes = vec![RouteSettings { costly, ..RouteSettings::new("/a/", 0) }];
    }),
];

/// Files that are wrong, and every complaint about them.
const WRONG: &[(&str, &[&str])] = &[
    ("listen = ", &["line 1: "]),
    ("node = 'a'\n\nnode = 'b'", &["line 3: duplicate key"]),
    ("listenn = 'a:1'", &["listenn: there is no such key"]),
    ("[limit]\nhead = 1", &["limit: there is no such key"]),
    ("'a\nb' = 1", &["line 1: "]),
    ("\"a\\nb\" = 1", &["a b: there is no such key"]),
    (
        "z = 1\n[limits]\nhaed = 1\n[upstreams.user_manager]\nadres = 1\n[[routes]]\nprefix = '/a'\nbody = 1",
        &[
            "limits.haed: there is no such key",
            "routes[0].body: there is no such key",
            "upstreams.user_manager.adres: there is no such key",
            "z: there is no such key",
            "routes[0].prefix: \"/a\" is not of the form /name/ or /a/b/",
            "routes[0].upstream: it is missing",
        ],
    ),
    ("a = 1\nworkers = '2'", &["a: there is no such key", "workers: invalid type: string \"2\""]),
    ("limits = 3", &["limits: invalid type"]),
    ("[[routes]]\npublic = 'GET /x'", &["routes[0].public: invalid type"]),
    ("[[routes]]\npublic = [1]", &["routes[0].public[0]: invalid type"]),
    (
        "[limits]\nconnections_per_client = true",
        &["limits.connections_per_client: expected a number or \"off\""],
    ),
    ("[limits]\nconnections_per_client = 'on'", &["limits.connections_per_client: \"on\" is neither"]),
    ("listen = '8443'", &["listen: \"8443\" is not of the form host:port"]),
    ("admin_listen = ':9900'", &["admin_listen: "]),
    (
        "redirect_listen = 'a:65536'",
        &["redirect_listen: \"a:65536\" is not of the form host:port, and not \"off\""],
    ),
    ("node = 'a b'", &["node: \"a b\" is not a name"]),
    ("node = ''", &["node: \"\" is not a name"]),
    ("workers = 0", &["workers: 0 is not from 1 to 1024"]),
    ("auth = 'maybe'", &["auth: \"maybe\" is not \"required\" or \"off\""]),
    ("keys = 'x'", &["keys: there is no upstream \"x\""]),
    ("encoded_slash = 'keep'", &["encoded_slash: \"keep\" is not \"decode\" or \"reject\""]),
    (
        "trusted_proxies = ['10.0.0.0/8', '10.0.0.1/33']",
        &["trusted_proxies[1]: \"10.0.0.1/33\" is not a range"],
    ),
    (
        "cors_origins = ['*', 'null', 'ftp://a', 'https://a/', 'https://A', 'https://a:443', 'https://u@a']",
        &[
            "cors_origins[0]: \"*\" is not of the form scheme://host",
            "cors_origins[1]: \"null\" is not of the form",
            "cors_origins[2]: \"ftp://a\" is not of the form",
            "cors_origins[3]: \"https://a/\" is not what a browser sends; that would be \"https://a\"",
            "cors_origins[4]: \"https://A\" is not what a browser sends; that would be \"https://a\"",
            "cors_origins[5]: \"https://a:443\" is not what a browser sends; that would be \"https://a\"",
            "cors_origins[6]: \"https://u@a\" is not what a browser sends; that would be \"https://a\"",
        ],
    ),
    ("certificates = []", &["certificates: there is none"]),
    ("[[certificates]]\ncert = 'a'", &["certificates[0].key: it is missing"]),
    (
        "[[certificates]]\ncert = 'a'\nkey = 'a'\n[[certificates]]\nkey = ''",
        &["certificates[1].cert: it is missing", "certificates[1].key: it is empty"],
    ),
    ("[limits]\nconnections = 0", &["limits.connections: 0 is not from 1 to"]),
    ("[limits]\nconnections_per_client = -1", &["limits.connections_per_client: -1 is not from 1 to"]),
    ("[limits]\nhead = 0", &["limits.head: 0 is not from 1024 to"]),
    (
        "[limits]\nrate = '0/s'\nrate_login = 'often'",
        &["limits.rate: \"0/s\"", "limits.rate_login: \"often\""],
    ),
    ("[limits]\nrate_clients = 0", &["limits.rate_clients: 0 is not from 1 to"]),
    ("[limits]\nh2_streams = 0", &["limits.h2_streams: 0 is not from 1 to"]),
    ("[limits]\nh2_control_frames = 0", &["limits.h2_control_frames: 0 is not from 1 to"]),
    ("[limits]\nstreams = 9999999", &["limits.streams: 9999999 is not from 1 to 1000000"]),
    ("[limits]\nbody_rate = 0", &["limits.body_rate: 0 is not from 1 to"]),
    (
        "[timeouts]\nbody = '0s'\nconnect = '-1s'\nhandshake = '15'\nhead = 'soon'\nidle = '25h'",
        &[
            "timeouts.handshake: \"15\" is not a duration such as",
            "timeouts.head: \"soon\" is not a duration such as",
            "timeouts.idle: \"25h\" is not from 1ms to 24h",
            "timeouts.body: \"0s\" is not from 1ms to 24h",
            "timeouts.connect: \"-1s\" is not a duration such as",
        ],
    ),
    (
        "[timeouts]\nstream_idle = ''\nupstream_idle = ''\nupstream_read = ''\nupstream_write = ''\nwrite = ''",
        &[
            "timeouts.write: \"\"",
            "timeouts.stream_idle: \"\"",
            "timeouts.upstream_read: \"\"",
            "timeouts.upstream_write: \"\"",
            "timeouts.upstream_idle: \"\"",
        ],
    ),
    ("[upstreams.a]", &["upstreams.a.addresses: it is missing", "upstreams.a.admin_port: it is missing"]),
    ("[upstreams.'a b']\naddresses = ['http://a:1']\nadmin_port = 1", &["upstreams: \"a b\" is not a name"]),
    ("[upstreams.user_manager]\naddresses = []", &["upstreams.user_manager.addresses: there is none"]),
    (
        "[upstreams.user_manager]\naddresses = ['http://a:1', 'https://a:1', 'a:1', 'http://a:0', 'http://a:1/x']",
        &[
            "upstreams.user_manager.addresses[1]: \"https://a:1\" is not of the form http://host:port",
            "upstreams.user_manager.addresses[2]: \"a:1\" is not of the form",
            "upstreams.user_manager.addresses[3]: \"http://a:0\" has no port",
            "upstreams.user_manager.addresses[4]: \"http://a:1/x\" is not of the form",
        ],
    ),
    (
        "[upstreams.user_manager]\nadmin_port = 65536\neject_after = 0\neject_for = '0s'\nhealth_interval = 'on'\n\
         max_in_flight = 0\nretry_budget = 1.5",
        &[
            "upstreams.user_manager.admin_port: 65536 is not from 1 to 65535",
            "upstreams.user_manager.max_in_flight: 0 is not from 1 to",
            "upstreams.user_manager.health_interval: \"on\" is not a duration such as \"15s\" or \"500ms\", and not \"off\"",
            "upstreams.user_manager.eject_after: 0 is not from 1 to",
            "upstreams.user_manager.eject_for: \"0s\" is not from 1ms to 24h",
            "upstreams.user_manager.retry_budget: 1.5 is not from 0 to 1",
        ],
    ),
    ("[upstreams.user_manager]\nretry_budget = nan", &["upstreams.user_manager.retry_budget: NaN"]),
    ("routes = []", &["routes: there is none"]),
    ("[[routes]]", &["routes[0].prefix: it is missing", "routes[0].upstream: it is missing"]),
    ("[[routes]]\nprefix = '/a/'\nupstream = 'x'", &["routes[0].upstream: there is no upstream \"x\""]),
    (
        "[[routes]]\nprefix = '/a/'\nupstream = 'user_manager'\n[[routes]]\nprefix = '/a/'\nupstream = 'data_collector'",
        &["routes[1].prefix: routes[0] has \"/a/\" already"],
    ),
    (
        "[[routes]]\nprefix = '/a/'\nupstream = 'user_manager'\nmax_body = 0\n\
         public = ['GET', 'GET x', 'get /x', 'GET /a/../x', 'GET /x?y']\ncostly = ['POST /%41']",
        &[
            "routes[0].max_body: 0 is not from 1 to",
            "routes[0].public[0]: \"GET\" is not of the form \"GET /path\"",
            "routes[0].public[1]: \"GET x\" is not of the form \"GET /path\"",
            "routes[0].public[2]: \"get\" is not a method in capital letters",
            "routes[0].public[3]: \"/a/../x\" is not a path in normal form",
            "routes[0].public[4]: \"/x?y\" is not a path in normal form",
            "routes[0].costly[0]: \"/%41\" is not a path in normal form",
        ],
    ),
];

fn settings(text: &str) -> Result<Settings, Vec<String>> {
    let told = |problems: Vec<Problem>| problems.iter().map(ToString::to_string).collect();
    let (file, mut problems) = parse(text).map_err(told)?;
    let settings = apply::apply(file, &mut problems);
    if problems.is_empty() { Ok(settings) } else { Err(told(problems)) }
}

#[test]
fn an_empty_file_changes_nothing() {
    assert_eq!(settings(""), Ok(Settings::default()));
}

#[test]
fn each_key_changes_what_it_names_and_nothing_else() {
    for (text, change) in KEYS {
        let mut expected = Settings::default();
        change(&mut expected);
        assert_ne!(expected, Settings::default(), "{text}");
        assert_eq!(settings(text), Ok(expected), "{text}");
    }
}

#[test]
fn every_key_is_among_those_tested() {
    let mut tested = BTreeSet::new();
    for (text, _) in KEYS {
        collect(&toml::from_str::<Table>(text).unwrap(), "", &mut tested);
    }
    assert_eq!(tested, keys());
}

#[test]
fn the_example_has_every_key_at_its_default() {
    assert_eq!(settings(EXAMPLE), Ok(Settings::default()));
    // How many workers there are depends on the machine.
    let whole = EXAMPLE.replace("# workers = ", "workers = ");
    let mut there = BTreeSet::new();
    collect(&toml::from_str::<Table>(&whole).unwrap(), "", &mut there);
    assert_eq!(there, keys());
}

#[test]
fn every_problem_of_a_wrong_file_is_told_with_its_path() {
    for (text, expected) in WRONG {
        let told = settings(text).expect_err(text);
        assert_eq!(told.len(), expected.len(), "{text}: {told:#?}");
        for (told, expected) in told.iter().zip(*expected) {
            assert!(told.starts_with(expected) && !told.contains('\n'), "{text}: {told}, not {expected}");
        }
    }
}

#[test]
fn names_and_prefixes_are_short_tokens() {
    for right in ["/a/", "/a/b/", "/user_manager/", "/v1.0/", "/.well-known/"] {
        assert_eq!(values::prefix(right.into()), Ok(right.to_owned()));
    }
    let long = format!("/{}/", "x".repeat(63));
    for wrong in
        ["", "/", "//", "a/", "/a", "/a//b/", "/./", "/../", "/a/../", "/a b/", "/%61/", "/é/", &long]
    {
        assert!(values::prefix(wrong.into()).is_err(), "{wrong}");
    }
    assert!(values::name("x".repeat(64)).is_ok());
    for wrong in ["", "a b", "a/b", "a\"b", "é", &"x".repeat(65)] {
        assert!(values::name(wrong.into()).is_err(), "{wrong}");
    }
}

/// The paths of all keys that the structs have. The names of upstreams and the places in lists are left out.
fn keys() -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for (prefix, fields) in [
        ("", fields::<File>()),
        ("certificates.", fields::<CertificateTable>()),
        ("limits.", fields::<LimitsTable>()),
        ("timeouts.", fields::<TimeoutsTable>()),
        ("upstreams.", fields::<UpstreamTable>()),
        ("routes.", fields::<RouteTable>()),
    ] {
        assert!(!fields.is_empty());
        keys.extend(fields.iter().map(|field| format!("{prefix}{field}")));
    }
    keys
}

/// The paths of all keys of a table, in the same form.
fn collect(table: &Table, prefix: &str, keys: &mut BTreeSet<String>) {
    for (key, value) in table {
        let path = format!("{prefix}{key}");
        match value {
            Value::Table(inner) if key == "upstreams" => {
                inner.values().for_each(|each| collect(each.as_table().unwrap(), "upstreams.", keys));
            }
            Value::Table(inner) => collect(inner, &format!("{path}."), keys),
            Value::Array(list) => {
                list.iter()
                    .filter_map(Value::as_table)
                    .for_each(|each| collect(each, &format!("{path}."), keys));
            }
            _ => {}
        }
        keys.insert(path);
    }
}

/// The names that a struct asks its deserializer for.
fn fields<'de, T: Deserialize<'de>>() -> &'static [&'static str] {
    let mut asked: &'static [&'static str] = &[];
    let _ = T::deserialize(Listener(&mut asked));
    asked
}

struct Listener<'a>(&'a mut &'static [&'static str]);

impl<'de> Deserializer<'de> for Listener<'_> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        *self.0 = fields;
        self.deserialize_any(visitor)
    }

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(serde::de::Error::custom("nothing is here"))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}
