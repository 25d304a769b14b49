//! `MAIL_URL`.

use std::path::PathBuf;

use secrecy::SecretString;
use url::Url;

/// A parsed `MAIL_URL`.
#[derive(Clone, Debug)]
pub(crate) enum MailUrl {
    /// `file:FOLDER`
    Folder(PathBuf),
    /// `smtp://…`, `smtps://…`
    Smtp { host: String, port: u16, security: Security, login: Option<(String, SecretString)> },
}

/// How a connection is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Security {
    /// STARTTLS, or nothing is sent.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// None.
    Plain,
}

impl MailUrl {
    /// The error says what is wrong without repeating the value.
    pub(crate) fn parse(text: &str) -> Result<MailUrl, &'static str> {
        const FORM: &str =
            "must be smtp://user:password@host:587, smtps://user:password@host:465 or file:FOLDER";
        if let Some(folder) = text.strip_prefix("file:") {
            let folder = folder.strip_prefix("//").unwrap_or(folder);
            return if folder.is_empty() { Err(FORM) } else { Ok(MailUrl::Folder(PathBuf::from(folder))) };
        }
        let url = Url::parse(text).map_err(|_| FORM)?;
        // An IPv6 address stands in brackets in a URL only.
        let host = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']'));
        let host = host.filter(|host| !host.is_empty()).ok_or(FORM)?.to_owned();
        let tls = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let security = match (url.scheme(), tls.as_deref()) {
            ("smtp", None) if is_this_machine(&host) => Security::Plain,
            ("smtp", None | Some("required")) => Security::StartTls,
            ("smtp", Some("none")) => Security::Plain,
            ("smtps", None) => Security::Tls,
            ("smtp" | "smtps", _) => return Err("tls must be required or none, and none only with smtp://"),
            _ => return Err(FORM),
        };
        let port = url.port().unwrap_or(if security == Security::Tls { 465 } else { 587 });
        let decoded =
            |text: &str| percent_decoded(text).ok_or("user and password must be percent-encoded UTF-8");
        let login = match (url.username(), url.password()) {
            ("", None) => None,
            (user, Some(password)) if !user.is_empty() => Some((decoded(user)?, decoded(password)?.into())),
            _ => return Err("user and password go together"),
        };
        Ok(MailUrl::Smtp { host, port, security, login })
    }
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The text behind percent-encoding, which is what form decoding does but for `+`.
fn percent_decoded(text: &str) -> Option<String> {
    let text = text.replace('+', "%2B");
    let (value, _) = url::form_urlencoded::parse(text.as_bytes()).next()?;
    (!value.contains('\u{fffd}')).then(|| value.into_owned())
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;

    fn security(url: &str) -> Security {
        match MailUrl::parse(url).unwrap() {
            MailUrl::Smtp { security, .. } => security,
            MailUrl::Folder(_) => panic!("{url} is SMTP"),
        }
    }

    #[test]
    fn plain_connections_only_to_this_machine_or_when_allowed() {
        assert_eq!(security("smtp://ada:pw@mail.example.com"), Security::StartTls);
        assert_eq!(security("smtp://mail.example.com:25?tls=none"), Security::Plain);
        assert_eq!(security("smtp://127.0.0.1:1025"), Security::Plain);
        assert_eq!(security("smtp://localhost:1025?tls=required"), Security::StartTls);
        assert_eq!(security("smtps://ada:pw@mail.example.com"), Security::Tls);
    }

    #[test]
    fn logins_are_percent_decoded() {
        let MailUrl::Smtp { login: Some((user, password)), port, .. } =
            MailUrl::parse("smtp://ada%40example.com:p%3Aw+1@mail.example.com").unwrap()
        else {
            panic!("there is a login")
        };
        assert_eq!((user.as_str(), password.expose_secret(), port), ("ada@example.com", "p:w+1", 587));
    }

    #[test]
    fn wrong_addresses_are_refused_without_being_repeated() {
        for bad in [
            "",
            "file:",
            "http://x",
            "smtp://",
            "smtp://user@host",
            "smtps://h?tls=none",
            "smtp://h?tls=maybe",
        ] {
            assert!(MailUrl::parse(bad).is_err(), "{bad} was taken");
        }
    }
}
