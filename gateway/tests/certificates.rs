//! Certificates: chosen by name, changed under load, and what TLS is spoken with them.
#![allow(clippy::unwrap_used, reason = "a test may")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;

use gateway::gen_cert::Summary;
use rustix::process::Signal;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, HandshakeKind, SignatureScheme};
use rustls::{StreamOwned, SupportedProtocolVersion};
use support::process::{Load, Process, Town};
use support::{LONG, World, eventually, raw};

const EXPIRY: (&str, &str) = ("vedetta_gateway_certificate_expiry_timestamp_seconds", "");
const TAKEN: (&str, &str) = ("vedetta_gateway_certificate_reloads_total", "result=\"ok\"");
const REFUSED: (&str, &str) = ("vedetta_gateway_certificate_reloads_total", "result=\"refused\"");

/// Takes any certificate: these tests look at which one it is.
#[derive(Debug)]
struct Anything;

impl ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn any_client(version: &'static SupportedProtocolVersion) -> ClientConfig {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth()
}

/// The certificate that a client gets who asks for this name.
fn served(addr: SocketAddr, name: Option<&str>) -> CertificateDer<'static> {
    let mut config = any_client(&rustls::version::TLS13);
    config.enable_sni = name.is_some();
    let name = ServerName::try_from(name.unwrap_or("localhost").to_owned()).unwrap();
    let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut tcp = TcpStream::connect(addr).unwrap();
    tcp.set_read_timeout(Some(LONG)).unwrap();
    tls.complete_io(&mut tcp).unwrap();
    tls.peer_certificates().unwrap()[0].clone()
}

fn der(cert: &Summary) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&cert.cert).unwrap()
}

async fn serves(gateway: &Process, cert: &Summary) {
    let (addr, expected) = (gateway.addr(), der(cert));
    eventually(async || {
        tokio::task::spawn_blocking(move || served(addr, Some("localhost"))).await.unwrap() == expected
    })
    .await;
}

async fn counts(gateway: &Process, metric: (&str, &str), value: f64) {
    eventually(async || gateway.metric(metric).await == Some(value)).await;
}

fn overwrite(target: &Summary, source: &Summary) {
    std::fs::copy(&source.cert, &target.cert).unwrap();
    std::fs::copy(&source.key, &target.key).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_changes_the_certificate_under_load_and_nothing_is_lost() {
    let town = Town::new().await;
    let used = town.certificate("used", &["localhost"], 9);
    let (first, second) =
        (town.certificate("first", &["localhost"], 20), town.certificate("second", &["localhost"], 5));
    overwrite(&used, &first);
    let gateway = town.start(&used, &[]).await;
    assert_eq!(gateway.metric(EXPIRY).await, Some(first.not_after as f64));

    let client = || town.client(gateway.addr(), &[&first, &second]);
    let clients = [client(), client().http1_only(), client().http1_only().pool_max_idle_per_host(0)];
    let clients = clients.map(|builder| builder.build().unwrap()).into();
    let url = format!("https://localhost:{}/user_manager/me", gateway.addr().port());
    let load = Load::start(clients, &url, &town.token());
    for next in [&second, &first, &second] {
        load.answers(20).await;
        overwrite(&used, next);
        gateway.signal(Signal::HUP);
        serves(&gateway, next).await;
        counts(&gateway, EXPIRY, next.not_after as f64).await;
    }
    load.answers(20).await;
    load.lost_nothing().await;
    assert!(gateway.metric(TAKEN).await.unwrap() >= 3.0);
    assert!(gateway.metric(REFUSED).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_with_a_bad_certificate_is_refused_and_counted_and_the_old_one_stays() {
    let town = Town::new().await;
    let used = town.certificate("used", &["localhost"], 9);
    let good = town.certificate("good", &["localhost"], 9);
    let other = town.certificate("other", &["localhost"], 3);
    overwrite(&used, &good);
    let mut gateway = town.start(&used, &[]).await;

    // A key of another certificate; then no certificate at all; then no file.
    std::fs::copy(&other.key, &used.key).unwrap();
    gateway.signal(Signal::HUP);
    gateway.says("not the key of the certificate").await;
    counts(&gateway, REFUSED, 1.0).await;
    std::fs::write(&used.cert, "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n")
        .unwrap();
    gateway.signal(Signal::HUP);
    gateway.says("not an X.509 certificate").await;
    std::fs::remove_file(&used.cert).unwrap();
    gateway.signal(Signal::HUP);
    gateway.says("No such file").await;

    serves(&gateway, &good).await;
    assert_eq!(gateway.metric(EXPIRY).await, Some(good.not_after as f64));
    assert!(gateway.metric(TAKEN).await.is_none());
    overwrite(&used, &other);
    gateway.signal(Signal::HUP);
    serves(&gateway, &other).await;
    assert!(gateway.runs());
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_change_are_noticed_and_a_bad_change_is_told_once() {
    let town = Town::new().await;
    let used = town.certificate("used", &["localhost"], 9);
    let (good, next) =
        (town.certificate("good", &["localhost"], 9), town.certificate("next", &["localhost"], 3));
    overwrite(&used, &good);
    let gateway = town.start(&used, &[]).await;

    overwrite(&used, &next);
    serves(&gateway, &next).await;
    counts(&gateway, EXPIRY, next.not_after as f64).await;

    // Only one of the two files is new, and stays alone.
    std::fs::copy(&good.cert, &used.cert).unwrap();
    counts(&gateway, REFUSED, 1.0).await;
    serves(&gateway, &next).await;
    // Another change is another refusal: by then the first one was looked at again and told no second time.
    std::fs::write(&used.cert, "").unwrap();
    counts(&gateway, REFUSED, 2.0).await;
    assert_eq!(gateway.lines("are refused").len(), 2);
    // The rest of the pair comes.
    overwrite(&used, &good);
    serves(&gateway, &good).await;
    counts(&gateway, REFUSED, 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_swapped_by_a_link_is_noticed() {
    let town = Town::new().await;
    let (first, second) =
        (town.certificate("v1", &["localhost"], 9), town.certificate("v2", &["localhost"], 9));
    // As Kubernetes mounts a secret: cert.pem -> ..data/cert.pem, ..data -> v1.
    let mounted = town.folder.path().join("mounted");
    let data = mounted.join("..data");
    let point = |at: &Path| {
        symlink(at, mounted.join("..new")).unwrap();
        std::fs::rename(mounted.join("..new"), &data).unwrap();
    };
    std::fs::create_dir(&mounted).unwrap();
    point(first.cert.parent().unwrap());
    for file in ["cert.pem", "key.pem"] {
        symlink(Path::new("..data").join(file), mounted.join(file)).unwrap();
    }
    let used = Summary { cert: mounted.join("cert.pem"), key: mounted.join("key.pem"), ..first.clone() };
    let gateway = town.start(&used, &[]).await;
    serves(&gateway, &first).await;
    point(second.cert.parent().unwrap());
    serves(&gateway, &second).await;
    assert!(gateway.metric(REFUSED).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_a_client_asks_for_chooses_the_certificate() {
    let town = Town::new().await;
    let first = town.certificate("first", &["localhost", "first.example.com"], 9);
    let wild = town.certificate("wild", &["*.example.com"], 4);
    let api = town.certificate("api", &["api.example.com"], 6);
    let pairs = [&first, &wild, &api]
        .map(|pair| format!("[[certificates]]\ncert = {:?}\nkey = {:?}\n", pair.cert, pair.key));
    std::fs::write(town.folder.path().join("gateway.toml"), pairs.concat()).unwrap();
    let gateway = town.start_with_file("gateway.toml").await;
    let addr = gateway.addr();
    for (name, expected) in [
        (Some("first.example.com"), &first),
        (Some("other.example.com"), &wild),
        (Some("OTHER.example.com"), &wild),
        (Some("api.example.com"), &api),
        (Some("a.b.example.com"), &first),
        (Some("example.org"), &first),
        (None, &first),
    ] {
        let got = tokio::task::spawn_blocking(move || served(addr, name)).await.unwrap();
        assert!(got == der(expected), "{name:?}");
    }
    assert_eq!(gateway.metric(EXPIRY).await, Some(wild.not_after as f64), "the earliest");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_1_3_speak_http_2_and_http_1_1() {
    let world = World::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        for (offered, chosen) in [(&["h2", "http/1.1"][..], "h2"), (&["http/1.1"][..], "http/1.1")] {
            let (addr, cert) = (world.addr, world.cert.clone());
            let connect = move || raw::connect(addr, &cert, version, offered).unwrap();
            let mut tls = tokio::task::spawn_blocking(connect).await.unwrap();
            assert_eq!(tls.conn.alpn_protocol(), Some(chosen.as_bytes()));
            assert_eq!(tls.conn.protocol_version(), Some(version.version));
            if chosen == "http/1.1" {
                let ask = move || {
                    tls.write_all(b"GET /nope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
                    raw::read_to_close(&mut tls)
                };
                let answer = tokio::task::spawn_blocking(ask).await.unwrap();
                assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
            }
        }
        let pem = std::fs::read(&world.cert).unwrap();
        let wanted = if version.version == rustls::ProtocolVersion::TLSv1_2 {
            reqwest::tls::Version::TLS_1_2
        } else {
            reqwest::tls::Version::TLS_1_3
        };
        let client = reqwest::Client::builder()
            .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
            .min_tls_version(wanted)
            .max_tls_version(wanted)
            .resolve("localhost", world.addr)
            .timeout(LONG)
            .build()
            .unwrap();
        let answer = client.get(world.url("/nope")).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (404, reqwest::Version::HTTP_2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_resumed_in_both_versions() {
    let world = World::start().await;
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let mut config = any_client(version);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let (config, addr) = (Arc::new(config), world.addr);
        let ask = move || {
            let tls =
                ClientConnection::new(config.clone(), ServerName::try_from("localhost").unwrap()).unwrap();
            let tcp = TcpStream::connect(addr).unwrap();
            tcp.set_read_timeout(Some(LONG)).unwrap();
            let mut tls = StreamOwned::new(tls, tcp);
            tls.write_all(b"GET /nope HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
            raw::read_to_close(&mut tls);
            tls.conn.handshake_kind().unwrap()
        };
        let kinds = tokio::task::spawn_blocking(move || [ask(), ask(), ask()]).await.unwrap();
        assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
    }
}

/// A ClientHello for this version and no later one. `signatures`: with the list of signature algorithms, which came
/// with TLS 1.2 only.
fn old_hello(version: [u8; 2], signatures: bool) -> Vec<u8> {
    let suites = [0xC0, 0x09, 0xC0, 0x13, 0x00, 0x2F, 0x00, 0x35];
    let mut hello = version.to_vec();
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, suites.len() as u8]);
    hello.extend(suites);
    hello.extend([1, 0]);
    if signatures {
        let extension = [0, 13, 0, 4, 0, 2, 4, 3];
        hello.extend([0, extension.len() as u8]);
        hello.extend(extension);
    }
    let mut record = vec![22, version[0], version[1], 0, hello.len() as u8 + 4, 1, 0, 0, hello.len() as u8];
    record.extend(hello);
    record
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_0_and_1_1_are_refused() {
    const HANDSHAKE_FAILURE: u8 = 40;
    const PROTOCOL_VERSION: u8 = 70;
    let world = World::start().await;
    // rustls misses the signature algorithms before it looks at the version.
    for (version, signatures, reason) in [
        ([3, 1], true, PROTOCOL_VERSION),
        ([3, 2], true, PROTOCOL_VERSION),
        ([3, 1], false, HANDSHAKE_FAILURE),
        ([3, 2], false, HANDSHAKE_FAILURE),
    ] {
        let addr = world.addr;
        let ask = move || {
            let mut tcp = TcpStream::connect(addr).unwrap();
            tcp.set_read_timeout(Some(LONG)).unwrap();
            tcp.write_all(&old_hello(version, signatures)).unwrap();
            let mut answer = Vec::new();
            let _ = tcp.read_to_end(&mut answer);
            answer
        };
        let answer = tokio::task::spawn_blocking(ask).await.unwrap();
        // A fatal alert, and nothing after it.
        assert_eq!((answer[0], &answer[5..]), (21, &[2, reason][..]), "{version:?}: {answer:?}");
    }
    let failures = "vedetta_gateway_tls_handshake_failures_total";
    eventually(async || {
        let (_, page) = world.admin("/metrics").await;
        page.lines().any(|line| line.starts_with(failures) && line.ends_with(" 4"))
    })
    .await;
}
