//! A self-signed certificate for machines that have none: ECDSA P-256, at most a year, so that every TLS checker
//! takes it.

use std::fmt;
use std::fs::Permissions;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use clap::Args;
use common::clock::{self, Clock};
use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose, date_time_ymd};

/// Before now, for clients whose clock is slow; in seconds.
const EARLIER: i64 = 3600;

/// Options of `gateway gen-cert`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The folder that gets cert.pem and key.pem
    #[arg(long, env = "GEN_CERT_OUT", default_value = ".")]
    pub out: PathBuf,

    /// A name or address the certificate is for; several separated by commas, or the flag several times
    #[arg(long, env = "GEN_CERT_SAN", value_delimiter = ',', default_values = ["localhost", "127.0.0.1", "::1"])]
    pub san: Vec<String>,

    /// Days from now until it expires
    #[arg(long, env = "GEN_CERT_DAYS", default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=365))]
    pub days: u16,

    /// Overwrites files that are there
    #[arg(long)]
    pub force: bool,

    /// Leaves a certificate that is there with its key as it is, and is content
    #[arg(long, conflicts_with = "force")]
    pub keep: bool,
}

impl Options {
    /// The defaults, into this folder.
    pub fn into_folder(out: impl Into<PathBuf>) -> Options {
        let san = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).into();
        Options { out: out.into(), san, days: 365, force: false, keep: false }
    }
}

/// What was made.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM, for the owner only.
    pub key: PathBuf,
    /// SHA-256 of the certificate: upper-case hexadecimal pairs between colons, as browsers show it.
    pub fingerprint: String,
    /// When it expires, Unix seconds.
    pub not_after: i64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "certificate  {}", self.cert.display())?;
        writeln!(f, "private key  {}", self.key.display())?;
        writeln!(f, "expires      {}", clock::rfc3339(self.not_after))?;
        write!(f, "SHA-256      {}", self.fingerprint)
    }
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file of that name is there and may be in use.
    #[error("{} is there already; --force overwrites it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("{}: {error}", path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        #[source]
        error: io::Error,
    },
    /// A name is not one that a certificate can carry.
    #[error("--san: {0}")]
    Certificate(#[from] rcgen::Error),
}

/// Whether there is a certificate with its key that [`Options::keep`] leaves as it is. One file without the other is
/// none, and stops [`generate`].
pub fn is_kept(options: &Options) -> bool {
    let (cert, key) = files(options);
    options.keep && cert.exists() && key.exists()
}

fn files(options: &Options) -> (PathBuf, PathBuf) {
    (options.out.join("cert.pem"), options.out.join("key.pem"))
}

/// Makes a key and a certificate for it and writes both.
pub fn generate(options: &Options, clock: &Clock) -> Result<Summary, Error> {
    let (cert, key) = files(options);
    if let Some(taken) = [&cert, &key].into_iter().find(|path| !options.force && path.exists()) {
        return Err(Error::Exists(taken.clone()));
    }
    let now = clock.now();
    let not_after = now + i64::from(options.days) * clock::DAY;
    let pair = KeyPair::generate()?;
    let certificate = parameters(&options.san, now - EARLIER, not_after)?.self_signed(&pair)?;

    std::fs::create_dir_all(&options.out)
        .map_err(|error| Error::Write { path: options.out.clone(), error })?;
    // The key first: a certificate without its key is never left behind.
    write(&key, 0o600, &pair.serialize_pem(), options.force)?;
    write(&cert, 0o644, &certificate.pem(), options.force)?;
    Ok(Summary { cert, key, fingerprint: fingerprint(certificate.der()), not_after })
}

fn parameters(names: &[String], not_before: i64, not_after: i64) -> Result<CertificateParams, rcgen::Error> {
    let time = |unix: i64| date_time_ymd(1970, 1, 1) + Duration::from_secs(u64::try_from(unix).unwrap_or(0));
    let mut parameters = CertificateParams::new(names)?;
    let name = names.first().map_or("localhost", String::as_str);
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    parameters.not_before = time(not_before);
    parameters.not_after = time(not_after);
    Ok(parameters)
}

/// Writes a file that is there whole or not at all, with the right mode from its first byte on.
fn write(path: &Path, mode: u32, text: &str, force: bool) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let create = || -> io::Result<()> {
        let mut file =
            tempfile::Builder::new().permissions(Permissions::from_mode(mode)).tempfile_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        if force {
            file.persist(path)?
        } else {
            file.persist_noclobber(path)?
        };
        Ok(())
    };
    create().map_err(|error| Error::Write { path: path.to_owned(), error })
}

fn fingerprint(der: &[u8]) -> String {
    let pairs: Vec<String> = digest(&SHA256, der).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
    pairs.join(":")
}
