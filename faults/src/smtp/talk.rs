//! One connection's conversation.

use std::io::{ErrorKind, Result};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use tokio::net::TcpStream;

use super::wire::Wire;
use super::{Answer, Shared, Step, Taken, Tls, Visit};

struct Talk {
    wire: Wire,
    shared: Arc<Shared>,
    is_secure: bool,
    is_logged_in: bool,
    mail: Option<Mail>,
}

/// A mail before its data.
struct Mail {
    from: String,
    to: Option<String>,
    smtputf8: bool,
}

/// An error means that the client is gone, or that the connection is to be cut.
pub(super) async fn talk(stream: TcpStream, shared: Arc<Shared>, visit: Visit) -> Result<()> {
    let mut talk =
        Talk { wire: Wire::new(stream)?, shared, is_secure: false, is_logged_in: false, mail: None };
    if talk.shared.options.tls == Tls::Implicit {
        talk = talk.secure().await?;
    }
    if !talk.asks(&Step::Greeting).await? {
        return talk.wire.farewell().await;
    }
    talk.say("220 localhost ESMTP sink").await?;
    while let Some(line) = talk.wire.line().await? {
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb.to_ascii_uppercase().as_str() {
            "EHLO" => talk.ehlo().await?,
            "HELO" => talk.say("250 localhost").await?,
            "STARTTLS" if talk.offers_starttls() => {
                talk.say("220 2.0.0 go ahead").await?;
                talk = talk.secure().await?;
            }
            "AUTH" => talk.auth(rest).await?,
            "MAIL" => talk.mail(rest).await?,
            "RCPT" => talk.recipient(rest).await?,
            "DATA" => talk.data().await?,
            "RSET" => {
                talk.mail = None;
                talk.say("250 2.0.0 ok").await?;
            }
            "NOOP" => talk.say("250 2.0.0 ok").await?,
            "QUIT" => {
                // Whoever has its answer may come again, and is not there twice.
                drop(visit);
                talk.say("221 2.0.0 bye").await?;
                break;
            }
            _ => talk.say("502 5.5.1 unknown command").await?,
        }
    }
    talk.wire.farewell().await
}

impl Talk {
    /// What was said before is forgotten.
    async fn secure(self) -> Result<Talk> {
        let wire = self.wire.secure(self.shared.certificate.acceptor()).await?;
        Ok(Talk { wire, is_secure: true, mail: None, ..self })
    }

    async fn say(&mut self, lines: &str) -> Result<()> {
        if lines.starts_with(['4', '5']) {
            self.shared.refused.fetch_add(1, Ordering::SeqCst);
        }
        self.wire.write(lines).await
    }

    /// What the test wants here.
    fn answer(&self, step: &Step<'_>) -> Answer {
        let answers = self.shared.answers.lock().unwrap().clone();
        answers(step)
    }

    /// Whether it is to go on as a healthy server; if not, the client has its line already.
    async fn asks(&mut self, step: &Step<'_>) -> Result<bool> {
        match self.answer(step) {
            Answer::Yes => {}
            Answer::After(time) => tokio::time::sleep(time).await,
            Answer::No(line) => {
                self.say(&line).await?;
                return Ok(false);
            }
            Answer::TakeAndCut => return Err(ErrorKind::ConnectionAborted.into()),
        }
        Ok(true)
    }

    fn offers_starttls(&self) -> bool {
        self.shared.options.tls == Tls::StartTls && !self.is_secure
    }

    async fn ehlo(&mut self) -> Result<()> {
        self.mail = None;
        let options = &self.shared.options;
        let offers = [
            (options.smtputf8, "SMTPUTF8"),
            (self.offers_starttls(), "STARTTLS"),
            (options.login.is_some() && !self.offers_starttls(), "AUTH PLAIN LOGIN"),
        ];
        let due = offers.iter().filter(|(is_due, _)| *is_due);
        let due: String = due.map(|(_, offer)| format!("250-{offer}\r\n")).collect();
        self.say(&format!("250-localhost\r\n{due}250 8BITMIME")).await
    }

    async fn auth(&mut self, rest: &str) -> Result<()> {
        self.shared.logins.fetch_add(1, Ordering::SeqCst);
        if self.offers_starttls() {
            return self.say("530 5.7.0 STARTTLS comes first").await;
        }
        let Some(login) = self.shared.options.login.clone() else {
            return self.say("502 5.5.1 no login is needed").await;
        };
        if self.is_logged_in || self.mail.is_some() {
            return self.say("503 5.5.1 not now").await;
        }
        let (mechanism, initial) =
            rest.split_once(' ').map_or((rest, None), |(name, text)| (name, Some(text)));
        let found = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => self.plain(initial).await?,
            "LOGIN" => self.login(initial).await?,
            _ => return self.say("504 5.5.4 unknown mechanism").await,
        };
        let Some((user, password)) = found else {
            return self.say("501 5.5.2 no login").await;
        };
        if !self.asks(&Step::Login { user: &user }).await? {
            return Ok(());
        }
        self.is_logged_in = (user, password) == login;
        let answer = if self.is_logged_in { "235 2.7.0 welcome" } else { "535 5.7.8 wrong user or password" };
        self.say(answer).await
    }

    async fn plain(&mut self, initial: Option<&str>) -> Result<Option<(String, String)>> {
        let Some(text) = self.response("", initial).await? else { return Ok(None) };
        let mut parts = text.split('\0').skip(1).map(str::to_owned);
        Ok(parts.next().zip(parts.next()))
    }

    async fn login(&mut self, initial: Option<&str>) -> Result<Option<(String, String)>> {
        let Some(user) = self.response("Username:", initial).await? else { return Ok(None) };
        let password = self.response("Password:", None).await?;
        Ok(password.map(|password| (user, password)))
    }

    /// The client's response, the initial one or the one to a challenge; none when it gives up or sends no Base64.
    async fn response(&mut self, challenge: &str, initial: Option<&str>) -> Result<Option<String>> {
        let text = match initial {
            Some("=") => return Ok(Some(String::new())),
            Some(text) => text.to_owned(),
            None => {
                self.say(&format!("334 {}", BASE64.encode(challenge))).await?;
                self.wire.line().await?.ok_or(ErrorKind::UnexpectedEof)?
            }
        };
        Ok(BASE64.decode(text).ok().and_then(|text| String::from_utf8(text).ok()))
    }

    async fn mail(&mut self, rest: &str) -> Result<()> {
        if self.offers_starttls() {
            return self.say("530 5.7.0 STARTTLS comes first").await;
        }
        if self.shared.options.login.is_some() && !self.is_logged_in {
            return self.say("530 5.7.0 a login comes first").await;
        }
        if self.mail.is_some() {
            return self.say("503 5.5.1 one mail after the other").await;
        }
        let Some((from, parameters)) = path(rest, "FROM:") else {
            return self.say("501 5.5.4 MAIL FROM:<address>").await;
        };
        let smtputf8 = parameters.split(' ').any(|parameter| parameter.eq_ignore_ascii_case("SMTPUTF8"));
        if smtputf8 && !self.shared.options.smtputf8 {
            return self.say("555 5.5.4 SMTPUTF8 is not offered").await;
        }
        if !smtputf8 && !from.is_ascii() {
            return self.say("553 5.6.7 the address needs SMTPUTF8").await;
        }
        if self.asks(&Step::Sender(from)).await? {
            self.mail = Some(Mail { from: from.to_owned(), to: None, smtputf8 });
            self.say("250 2.1.0 ok").await?;
        }
        Ok(())
    }

    async fn recipient(&mut self, rest: &str) -> Result<()> {
        let Some(mail) = &self.mail else {
            return self.say("503 5.5.1 MAIL comes first").await;
        };
        let Some((to, _)) = path(rest, "TO:").filter(|(to, _)| !to.is_empty()) else {
            return self.say("501 5.5.4 RCPT TO:<address>").await;
        };
        if !mail.smtputf8 && !to.is_ascii() {
            return self.say("553 5.6.7 the address needs SMTPUTF8").await;
        }
        if mail.to.is_some() {
            return self.say("452 4.5.3 one recipient a mail").await;
        }
        if self.asks(&Step::Recipient(to)).await? {
            self.mail.as_mut().expect("it is begun").to = Some(to.to_owned());
            self.say("250 2.1.5 ok").await?;
        }
        Ok(())
    }

    async fn data(&mut self) -> Result<()> {
        let Some(Mail { from, to: Some(to), .. }) = self.mail.take_if(|mail| mail.to.is_some()) else {
            return self.say("503 5.5.1 RCPT comes first").await;
        };
        self.say("354 end with a dot").await?;
        let Some(text) = self.wire.text().await? else {
            return self.say("552 5.3.4 the mail is too big").await;
        };
        let before_taking = self.shared.before_taking.lock().unwrap().clone();
        if let Some(run) = before_taking {
            run().await;
        }
        let cuts = match self.answer(&Step::Data { to: &to, text: &text }) {
            Answer::No(line) => return self.say(&line).await,
            Answer::After(time) => {
                tokio::time::sleep(time).await;
                false
            }
            Answer::Yes => false,
            Answer::TakeAndCut => true,
        };
        // The runtime learns here that the client has gone meanwhile.
        tokio::task::yield_now().await;
        self.take(Taken { from, to, text, at: Instant::now(), answered: false }, cuts)
    }

    /// Whoever sees the mail, or its 250, sees both.
    fn take(&mut self, mut mail: Taken, cuts: bool) -> Result<()> {
        let mut taken = self.shared.taken.lock().unwrap();
        mail.answered = !cuts && self.wire.write_now("250 2.0.0 taken");
        let goes_on = mail.answered;
        taken.push(mail);
        if goes_on { Ok(()) } else { Err(ErrorKind::ConnectionAborted.into()) }
    }
}

/// The address and the parameters of `FROM:<address> parameters`.
fn path<'a>(rest: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let (start, rest) = rest.split_at_checked(word.len())?;
    let (address, parameters) = rest.trim_start().strip_prefix('<')?.split_once('>')?;
    start.eq_ignore_ascii_case(word).then_some((address, parameters))
}
