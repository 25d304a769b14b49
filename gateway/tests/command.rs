//! The command line: certificates, complaints and exit codes.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use common::clock::{Clock, DAY};
use common::testing;
use gateway::gen_cert::{self, Error, Options};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use support::World;
use tempfile::TempDir;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

fn gateway(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gateway"));
    command.current_dir(folder).args(arguments);
    command
}

fn complaint(folder: &Path, arguments: &[&str]) -> String {
    testing::complaint(&mut gateway(folder, arguments))
}

#[test]
fn gen_cert_makes_a_certificate_that_any_client_takes() {
    let folder = TempDir::new().unwrap();
    let output = testing::run(&mut gateway(folder.path(), &["gen-cert", "--out", "tls"]));
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && told.contains("tls/cert.pem") && told.contains("tls/key.pem"),
        "{told}"
    );
    let key = folder.path().join("tls/key.pem");
    assert_eq!(key.metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let der = CertificateDer::from_pem_file(folder.path().join("tls/cert.pem")).unwrap();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &der);
    let pairs: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    assert!(told.contains(&pairs.join(":")), "{told}");

    let (_, cert) = X509Certificate::from_der(&der).unwrap();
    let names = cert.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = names.value.general_names.iter().map(san).collect();
    assert_eq!(names, ["localhost", "127.0.0.1", "00000000000000000000000000000001"]);
    let now = Clock::System.now();
    let validity = cert.validity();
    assert!(validity.not_before.timestamp() <= now);
    assert!((now + 364 * DAY..=now + 365 * DAY).contains(&validity.not_after.timestamp()));
    assert_eq!(
        cert.public_key().algorithm.algorithm.to_id_string(),
        "1.2.840.10045.2.1",
        "an elliptic curve"
    );
}

fn san(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        GeneralName::IPAddress([a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
        GeneralName::IPAddress(bytes) => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        other => format!("{other:?}"),
    }
}

#[test]
fn gen_cert_never_overwrites_unless_forced() {
    let folder = TempDir::new().unwrap();
    let (clock, _) = Clock::manual(1_000_000_000);
    let mut options =
        Options { san: vec!["vedetta.example".into()], days: 7, ..Options::into_folder(folder.path()) };
    let first = gen_cert::generate(&options, &clock).unwrap();
    assert_eq!(first.not_after, 1_000_000_000 + 7 * DAY);
    let before = std::fs::read(&first.key).unwrap();
    assert!(matches!(gen_cert::generate(&options, &clock), Err(Error::Exists(_))));
    assert_eq!(std::fs::read(&first.key).unwrap(), before);
    assert!(complaint(folder.path(), &["gen-cert"]).contains("--force"));
    options.force = true;
    let second = gen_cert::generate(&options, &clock).unwrap();
    assert_ne!(first.fingerprint, second.fingerprint);
    assert_ne!(std::fs::read(&second.key).unwrap(), before);
}

#[test]
fn gen_cert_leaves_a_certificate_that_is_there_when_told_to_keep_it() {
    let folder = TempDir::new().unwrap();
    let keep =
        || testing::run(gateway(folder.path(), &["gen-cert", "--keep"]).env("GEN_CERT_SAN", "a.example,::1"));
    let made = keep();
    assert_eq!(made.status.code(), Some(0));
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let first = (read("cert.pem"), read("key.pem"));
    let (_, pem) = x509_parser::pem::parse_x509_pem(&first.0).unwrap();
    let certificate = pem.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    let names: Vec<String> = names.value.general_names.iter().map(san).collect();
    assert_eq!(names, ["a.example", "00000000000000000000000000000001"]);

    let kept = keep();
    assert_eq!(kept.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&kept.stdout).contains("stays as it is"));
    assert_eq!((read("cert.pem"), read("key.pem")), first);

    std::fs::remove_file(folder.path().join("cert.pem")).unwrap();
    let half = keep();
    assert_eq!(half.status.code(), Some(2), "a key without its certificate is neither kept nor overwritten");
    assert_eq!(read("key.pem"), first.1);
}

#[test]
fn gen_cert_takes_at_most_a_year() {
    let folder = TempDir::new().unwrap();
    for days in ["0", "366", "many"] {
        assert!(complaint(folder.path(), &["gen-cert", "--days", days]).contains("--days"), "{days}");
    }
}

#[test]
fn a_certificate_that_cannot_be_served_stops_the_start() {
    let folder = TempDir::new().unwrap();
    let make = |name: &str| {
        gen_cert::generate(&Options::into_folder(folder.path().join(name)), &Clock::System).unwrap()
    };
    let (ours, other) = (make("ours"), make("other"));
    let (cert, key) = (ours.cert.to_str().unwrap(), ours.key.to_str().unwrap());
    let start = |cert: &str, key: &str| {
        complaint(folder.path(), &["serve", "--listen=127.0.0.1:0", "--tls-cert", cert, "--tls-key", key])
    };
    assert!(start("nowhere.pem", key).contains("--tls-cert: nowhere.pem"));
    assert!(start(key, key).contains("--tls-cert"), "there is no certificate in a key file");
    assert!(start(cert, "nowhere.pem").contains("--tls-key: nowhere.pem"));
    assert!(start(cert, cert).contains("--tls-key"), "there is no key in a certificate file");
    assert!(start(cert, other.key.to_str().unwrap()).contains("not the key of the certificate"));
}

#[test]
fn a_wrong_option_stops_the_start() {
    let folder = TempDir::new().unwrap();
    assert!(complaint(folder.path(), &["--user-manager-url=https://a:1"]).contains("http://host:port"));
    assert!(complaint(folder.path(), &["--auth=maybe"]).contains("--auth"));
    assert!(complaint(folder.path(), &["--max-connections=0"]).contains("--max-connections"));
    assert!(complaint(folder.path(), &["--no-such-flag"]).contains("--no-such-flag"));
}

#[test]
fn check_tells_whether_a_file_is_right() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("gateway.toml");
    let check = |toml: &str| {
        std::fs::write(&file, toml).unwrap();
        let output = testing::run(&mut gateway(folder.path(), &["check", "--config=gateway.toml"]));
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    };
    let right = (Some(0), "gateway.toml is right\n".to_owned(), String::new());
    assert_eq!(check(""), right);
    assert_eq!(check(include_str!("../gateway.example.toml")).0, Some(2), "its certificate is not there");

    let complaints = "gateway.toml: limits.raet: there is no such key\n\
                      gateway.toml: limits.head: 1 is not from 1024 to 1000000\n\
                      gateway.toml: routes[0].upstream: there is no upstream \"weather\"\n";
    let wrong = "[limits]\nraet = 1\nhead = 1\n[[routes]]\nprefix = '/weather/'\nupstream = 'weather'\n";
    assert_eq!(check(wrong), (Some(2), String::new(), complaints.to_owned()));

    gen_cert::generate(&Options::into_folder(folder.path()), &Clock::System).unwrap();
    gen_cert::generate(&Options::into_folder(folder.path().join("other")), &Clock::System).unwrap();
    assert_eq!(check(include_str!("../gateway.example.toml")), right);
    let certificates = |cert: &str, key: &str| {
        let ours = "[[certificates]]\ncert = 'cert.pem'\nkey = 'key.pem'\n";
        check(&format!("{ours}[[certificates]]\ncert = '{cert}'\nkey = '{key}'\n"))
    };
    assert_eq!(certificates("other/cert.pem", "other/key.pem"), right);
    for (cert, key, complaint) in [
        ("cert.pem", "other/key.pem", "certificates[1].key: other/key.pem: it is not the key"),
        ("cert.pem", "cert.pem", "certificates[1].key: cert.pem: "),
        ("nowhere.pem", "key.pem", "certificates[1].cert: nowhere.pem: "),
        ("key.pem", "key.pem", "certificates[1].cert: key.pem: "),
    ] {
        let (code, out, told) = certificates(cert, key);
        assert_eq!((code, out.as_str(), told.lines().count()), (Some(2), "", 1), "{told}");
        assert!(told.starts_with(&format!("gateway.toml: {complaint}")), "{told}");
    }

    assert!(complaint(folder.path(), &["check", "--config=nowhere.toml"]).starts_with("nowhere.toml: "));
    assert!(complaint(folder.path(), &["check"]).contains("--config"));
}

#[test]
fn a_wrong_file_stops_the_start() {
    let folder = TempDir::new().unwrap();
    gen_cert::generate(&Options::into_folder(folder.path()), &Clock::System).unwrap();
    std::fs::write(folder.path().join("gateway.toml"), "listenn = 'a:1'\nnode = ''").unwrap();
    for command in [&["--config=gateway.toml"][..], &["serve", "--config=gateway.toml"]] {
        let said = complaint(folder.path(), command);
        assert!(
            said.contains("gateway.toml: listenn: there is no such key (and 1 more: gateway check"),
            "{said}"
        );
    }
    let from_environment = testing::complaint(gateway(folder.path(), &[]).env("CONFIG", "gateway.toml"));
    assert!(from_environment.contains("listenn"), "{from_environment}");
    assert!(complaint(folder.path(), &["--config=nowhere.toml"]).contains("nowhere.toml: No such file"));
}

#[test]
fn a_port_in_use_stops_the_start() {
    let folder = TempDir::new().unwrap();
    gen_cert::generate(&Options::into_folder(folder.path()), &Clock::System).unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let said = complaint(folder.path(), &["--admin-listen=127.0.0.1:0", "--listen", &taken]);
    assert!(said.contains("--listen") && said.contains(&taken), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_tells_whether_a_gateway_is_ready() {
    let world = World::start().await;
    let folder = TempDir::new().unwrap();
    let admin = world.admin.to_string();
    let check = async || {
        let (path, admin) = (folder.path().to_owned(), admin.clone());
        let asked = move || testing::run(&mut gateway(&path, &["healthcheck", "--admin-listen", &admin]));
        tokio::task::spawn_blocking(asked).await.unwrap().status.code()
    };
    assert_eq!(check().await, Some(0));
    world.stop.cancel();
    tokio::time::timeout(support::LONG, world.running).await.unwrap().unwrap().unwrap();
    assert_eq!(check().await, Some(1));
}
