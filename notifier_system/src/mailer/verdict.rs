//! Whom a failure concerns: one mail, or everybody's.

use std::error::Error;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error as SmtpError;
use lettre::transport::smtp::commands::Mail;

use super::Failure;
use super::connections::{Server, Trouble};
use crate::gate::Cause;

/// How long the server may take over a sender.
const NAMING: Duration = Duration::from_secs(10);

/// What a failure means. What came of a mail may be about this mail or about everybody's, and lettre does not say at which
/// command it came; so a connection of its own goes as far as the recipient. Where it gets there, it is about this mail: 4xx for
/// now, 5xx for good. So is an address beyond ASCII where the server has no SMTPUTF8: lettre then sends nothing.
pub(super) async fn of(trouble: &Trouble, server: &Server, sender: &Address) -> Failure {
    let why = trouble.to_string();
    let answer = match trouble {
        Trouble::Connect(_) | Trouble::SlowToConnect(_) => return Failure::Everything(Cause::Away, why),
        Trouble::Login(error) => return Failure::Everything(cause(error), why),
        Trouble::Mail(error) if is_quota(error) => return Failure::Everything(Cause::Quota, why),
        Trouble::Mail(error) if error.is_client() && why.contains("non-ascii") => {
            return Failure::Refused(why);
        }
        // Authentication is required, and there is no login.
        Trouble::Mail(error) if has_code(error, "530") && server.login.is_none() => {
            return Failure::Everything(Cause::Login, why);
        }
        // The server may say so of a connection that has carried enough.
        Trouble::Mail(error) if has_code(error, "421") => None,
        Trouble::Mail(error) => error.status().map(|_| error),
        // Tried again at once, it would be one more copy.
        Trouble::Slow(_) => return Failure::NotNow(why),
    };
    match (as_far_as_the_recipient(server, sender).await, answer) {
        (Ok(()), None) => Failure::Broken(why),
        (Ok(()), Some(answer)) if answer.is_transient() => Failure::NotNow(why),
        (Ok(()), Some(_)) => Failure::Refused(why),
        (Err((cause, trouble)), _) => Failure::Everything(cause, trouble.to_string()),
    }
}

/// Connects, logs in, and names the sender.
async fn as_far_as_the_recipient(server: &Server, sender: &Address) -> Result<(), (Cause, Trouble)> {
    let mut connection = server.connect().await.map_err(|trouble| match &trouble {
        Trouble::Login(error) => (cause(error), trouble),
        _ => (Cause::Away, trouble),
    })?;
    let naming = connection.command(Mail::new(Some(sender.clone()), Vec::new()));
    let named =
        tokio::time::timeout(NAMING, naming).await.map_err(|_| (Cause::Away, Trouble::Slow(NAMING)))?;
    named.map_err(|error| match cause(&error) {
        Cause::Away if error.is_permanent() => (Cause::Sender, Trouble::Mail(error)),
        cause => (cause, Trouble::Mail(error)),
    })?;
    // Without waiting for its farewell.
    drop(connection);
    Ok(())
}

/// Why nothing leaves. Answers about the login are 432, 454, 530, 534, 535 and 538 (RFC 4954).
fn cause(error: &SmtpError) -> Cause {
    if is_quota(error) {
        Cause::Quota
    } else if ["432", "454", "530", "534", "535", "538"].iter().any(|code| has_code(error, code))
        || (error.is_client() && error.to_string().contains("authentication mechanism"))
    {
        Cause::Login
    } else if is_about_tls(error) {
        Cause::Tls
    } else {
        Cause::Away
    }
}

fn has_code(error: &SmtpError, code: &str) -> bool {
    error.status().is_some_and(|status| status.to_string() == code)
}

/// Gmail tells its daily quota as 550 5.4.5, and too many mails in a short time as 421 4.7.0 (its page "Gmail SMTP errors and
/// codes").
fn is_quota(error: &SmtpError) -> bool {
    let says = |enhanced: &str| error.source().is_some_and(|text| text.to_string().starts_with(enhanced));
    (has_code(error, "550") && says("5.4.5 ")) || (has_code(error, "421") && says("4.7.0 "))
}

/// Whether no secure connection came about: the server offers none, or what it shows is not to be trusted.
fn is_about_tls(error: &SmtpError) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        cause = error.source();
    }
    error.is_tls() || error.to_string().contains("STARTTLS is not supported")
}
