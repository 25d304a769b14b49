//! From PEM files to certificates that are known to belong to their keys, found by the names they are for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::settings::CertificateFiles;

/// SHA-256 of all files: whether anything has changed. Times and sizes would miss a copy that keeps the time.
pub(super) type Digest = [u8; 32];

/// What was in the files at one look. All that follows is made of these bytes, so that it is what the digest is of.
pub(super) struct Files<'a> {
    pairs: Vec<Pair<'a>>,
    digest: Digest,
}

struct Pair<'a> {
    files: &'a CertificateFiles,
    chain: Vec<u8>,
    key: Vec<u8>,
}

impl Files<'_> {
    /// Reads all of them. An error is one line that names the option and the file.
    pub(super) fn read(files: &[CertificateFiles]) -> Result<Files<'_>, String> {
        let mut sum = Context::new(&SHA256);
        let mut read = |option: &str, path: &Path| {
            let bytes = std::fs::read(path).map_err(|error| unusable(option, path, &error))?;
            // The length keeps the end of one file from passing for the beginning of the next.
            sum.update(&bytes.len().to_be_bytes());
            sum.update(&bytes);
            Ok::<_, String>(bytes)
        };
        let pairs = files
            .iter()
            .map(|files| {
                let chain = read(CHAIN, &files.cert)?;
                Ok(Pair { files, chain, key: read(KEY, &files.key)? })
            })
            .collect::<Result<Vec<_>, String>>()?;
        let mut digest = Digest::default();
        digest.copy_from_slice(sum.finish().as_ref());
        Ok(Files { pairs, digest })
    }

    /// What tells these files from others.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }

    /// All or none: one bad pair refuses the set.
    pub(super) fn certificates(&self) -> Result<Certificates, String> {
        let all = self.pairs.iter().map(Pair::parse).collect::<Result<Vec<_>, _>>()?;
        Certificates::new(all)
    }
}

const CHAIN: &str = "--tls-cert";
const KEY: &str = "--tls-key";

fn unusable(option: &str, path: &Path, why: &dyn Display) -> String {
    format!("{option}: {}: {why}", path.display())
}

impl Pair<'_> {
    fn parse(&self) -> Result<Certificate, String> {
        let bad_chain = |why: &dyn Display| unusable(CHAIN, &self.files.cert, why);
        let bad_key = |why: &dyn Display| unusable(KEY, &self.files.key, why);
        let chain = CertificateDer::pem_slice_iter(&self.chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| bad_chain(&error))?;
        let leaf = chain.first().ok_or_else(|| bad_chain(&"there is no certificate in it"))?;
        let (names, expiry) =
            names_and_expiry(leaf).ok_or_else(|| bad_chain(&"it is not an X.509 certificate"))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| bad_key(&error))?;
        let key = CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => bad_key(&"it is not the key of the certificate"),
            other => bad_key(&other),
        })?;
        Ok(Certificate { key: Arc::new(key), names, expiry })
    }
}

/// A chain with its key.
struct Certificate {
    key: Arc<CertifiedKey>,
    /// In lower case; wildcards begin with `*.`.
    names: Vec<String>,
    /// Unix seconds.
    expiry: i64,
}

fn names_and_expiry(leaf: &CertificateDer<'_>) -> Option<(Vec<String>, i64)> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let alternative = parsed.subject_alternative_name().ok()?;
    let names = alternative.iter().flat_map(|extension| &extension.value.general_names);
    let names = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    });
    Some((names.collect(), parsed.validity().not_after.timestamp()))
}

/// Certificates by name. Where two have the same name, the first has it.
#[derive(Debug)]
pub(super) struct Certificates {
    first: Arc<CertifiedKey>,
    names: HashMap<String, Arc<CertifiedKey>>,
    /// By what follows `*.`.
    wildcards: HashMap<String, Arc<CertifiedKey>>,
    expiry: i64,
}

impl Certificates {
    fn new(all: Vec<Certificate>) -> Result<Certificates, String> {
        let first = all.first().ok_or("there is no certificate")?.key.clone();
        let expiry = all.iter().map(|certificate| certificate.expiry).min().unwrap_or_default();
        let (mut names, mut wildcards) = (HashMap::new(), HashMap::new());
        // With one certificate nobody has a choice, and no handshake needs to look.
        if all.len() > 1 {
            for Certificate { key, names: its, .. } in all {
                for name in its {
                    let (map, name) = match name.strip_prefix("*.") {
                        Some(parent) => (&mut wildcards, parent.to_owned()),
                        None => (&mut names, name),
                    };
                    map.entry(name).or_insert_with(|| key.clone());
                }
            }
        }
        Ok(Certificates { first, names, wildcards, expiry })
    }

    /// The earliest, Unix seconds.
    pub(super) fn expiry(&self) -> i64 {
        self.expiry
    }

    /// The certificate for this name: its own before a wildcard's, and a wildcard stands for one label.
    pub(super) fn choose(&self, name: Option<&str>) -> Arc<CertifiedKey> {
        name.and_then(|name| self.named(name)).unwrap_or(&self.first).clone()
    }

    fn named(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        if self.names.is_empty() && self.wildcards.is_empty() {
            return None;
        }
        let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(name.to_ascii_lowercase())
        } else {
            Cow::Borrowed(name)
        };
        let parent = || name.split_once('.').and_then(|(_, parent)| self.wildcards.get(parent));
        self.names.get(name.as_ref()).or_else(parent)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may")]
mod tests {
    use common::clock::{Clock, DAY};
    use tempfile::TempDir;

    use super::*;
    use crate::gen_cert::{Options, generate};

    fn files(folder: &Path, name: &str, san: &[&str], days: u16) -> CertificateFiles {
        let san = san.iter().map(|name| (*name).to_owned()).collect();
        let options = Options { san, days, ..Options::into_folder(folder.join(name)) };
        let made = generate(&options, &Clock::manual(1_000_000_000).0).unwrap();
        CertificateFiles { cert: made.cert, key: made.key }
    }

    fn load(files: &[CertificateFiles]) -> Result<Certificates, String> {
        Files::read(files)?.certificates()
    }

    #[test]
    fn the_name_that_is_asked_for_chooses_the_certificate() {
        let folder = TempDir::new().unwrap();
        let all = [
            files(folder.path(), "first", &["first.example.com"], 9),
            files(folder.path(), "wild", &["*.example.com", "example.org"], 7),
            files(folder.path(), "api", &["API.example.com", "first.example.com"], 8),
        ];
        let set = load(&all).unwrap();
        let alone: Vec<_> = all.iter().map(|one| load(std::slice::from_ref(one)).unwrap()).collect();
        let chosen = |name| {
            let key = set.choose(name);
            alone.iter().position(|set| set.first.cert == key.cert).unwrap()
        };
        for (name, expected) in [
            (None, 0),
            (Some("nobody.example.net"), 0),
            (Some("first.example.com"), 0),
            (Some("other.example.com"), 1),
            (Some("OTHER.Example.COM"), 1),
            (Some("example.org"), 1),
            (Some("api.example.com"), 2),
            (Some("Api.Example.Com"), 2),
            // A wildcard is one label, not none and not two.
            (Some("example.com"), 0),
            (Some("a.b.example.com"), 0),
            (Some("localhost"), 0),
        ] {
            assert_eq!(chosen(name), expected, "{name:?}");
        }
        assert_eq!(set.expiry(), 1_000_000_000 + 7 * DAY, "the earliest");
    }

    #[test]
    fn one_bad_pair_refuses_all() {
        let folder = TempDir::new().unwrap();
        let good = files(folder.path(), "good", &["a.example.com"], 9);
        let other = files(folder.path(), "other", &["b.example.com"], 9);
        let mixed = CertificateFiles { cert: other.cert.clone(), key: good.key.clone() };
        let refusal = load(&[good.clone(), mixed]).unwrap_err();
        assert!(refusal.contains("--tls-key") && refusal.contains("not the key"), "{refusal}");
        // A file that is being written.
        let half = std::fs::read(&other.cert).unwrap();
        std::fs::write(&other.cert, &half[..half.len() / 2]).unwrap();
        let refusal = load(&[good, other]).unwrap_err();
        assert!(refusal.contains("--tls-cert"), "{refusal}");
    }

    #[test]
    fn a_change_is_seen_by_content() {
        let folder = TempDir::new().unwrap();
        let all = [files(folder.path(), "one", &["a.example.com"], 9)];
        let digest = || Files::read(&all).unwrap().digest();
        let before = digest();
        assert_eq!(digest(), before);
        files(folder.path(), "two", &["a.example.com"], 9);
        std::fs::copy(folder.path().join("two/key.pem"), &all[0].key).unwrap();
        assert_ne!(digest(), before);
    }
}
