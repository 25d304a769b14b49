//! From a letter to a mail as it goes over the wire.

use std::time::{Duration, UNIX_EPOCH};

use anyhow::Context;
use aws_lc_rs::digest::{SHA256, digest};
use common::messages::Letter;
use common::trace::Trace;
use lettre::Message;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart, header};
use url::Url;

use crate::html;

/// Makes mails.
#[derive(Clone, Debug)]
pub(crate) struct Composer {
    pub(crate) from: Mailbox,
    pub(crate) public_url: Url,
}

impl Composer {
    /// A name made of the letter's id: the same letter always has the same.
    pub(crate) fn name(letter: &Letter) -> String {
        hex::encode(&digest(&SHA256, letter.id.as_bytes()).as_ref()[..16])
    }

    /// The mail of a letter at a time in Unix seconds. Header injection is not possible: lettre encodes what does not fit
    /// into a header.
    pub(crate) fn compose(&self, letter: &Letter, trace: &Trace, now: i64) -> anyhow::Result<Message> {
        let to =
            Mailbox::new(None, letter.email.as_str().parse().context("the address is not one for SMTP")?);
        let domain = self.from.email.domain();
        let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(now).unwrap_or(0));
        let mail = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(letter.subject.as_str())
            .date(date)
            .message_id(Some(format!("<{}@{domain}>", Composer::name(letter))));
        let text = SinglePart::plain(letter.body.clone());
        let mut mail = match html::page(letter) {
            // A copy is the same mail, so what separates its parts is made of the id too.
            Some(page) => {
                let parts = MultiPart::alternative().boundary(Composer::name(letter));
                mail.multipart(parts.singlepart(text).singlepart(SinglePart::html(page)))?
            }
            None => mail.singlepart(text)?,
        };
        let mut set = |name: &'static str, value: String| {
            mail.headers_mut().insert_raw(HeaderValue::new(HeaderName::new_from_ascii_str(name), value));
        };
        set("Auto-Submitted", "auto-generated".to_owned());
        set("X-Request-ID", trace.request_id.clone());
        if let Some(token) = &letter.unsubscribe {
            let mut link = self.public_url.clone();
            link.path_segments_mut()
                .map_err(|()| anyhow::anyhow!("PUBLIC_URL cannot be a base"))?
                .pop_if_empty()
                .extend(["data_collector", "unsubscribe"]);
            link.query_pairs_mut().append_pair("token", token);
            set("List-Unsubscribe", format!("<{link}>"));
            set("List-Unsubscribe-Post", "List-Unsubscribe=One-Click".to_owned());
        }
        mail.headers_mut().set(header::MIME_VERSION_1_0);
        Ok(mail)
    }
}

#[cfg(test)]
mod tests {
    use mail_parser::MessageParser;
    use serde_json::json;

    use super::*;

    fn composed(subject: &str) -> Vec<u8> {
        let letter: Letter = serde_json::from_value(json!({
            "id": "a/KJFK/total/x/high", "email": "ada@example.com", "subject": subject,
            "body": "351 flights – more than 200\n.\nend", "unsubscribe": "a.KJFK.s+g/="
        }))
        .unwrap();
        let composer = Composer {
            from: "Vedetta <vedetta@example.com>".parse().unwrap(),
            public_url: "https://localhost:8443".parse().unwrap(),
        };
        let trace = Trace { request_id: "r-1".into(), traceparent: None };
        composer.compose(&letter, &trace, 986_342_400).unwrap().formatted()
    }

    #[test]
    fn a_mail_has_the_headers_that_mail_clients_and_robots_look_for() {
        let text = composed("KJFK: 351 flights, über 200");
        let mail = MessageParser::default().parse(&text).unwrap();
        assert_eq!(mail.subject(), Some("KJFK: 351 flights, über 200"));
        assert_eq!(mail.to().unwrap().first().unwrap().address(), Some("ada@example.com"));
        assert_eq!(mail.date().unwrap().to_timestamp(), 986_342_400);
        assert!(mail.message_id().unwrap().ends_with("@example.com"));
        assert_eq!(mail.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
        assert_eq!(mail.header_raw("X-Request-ID").unwrap().trim(), "r-1");
        assert_eq!(mail.header_raw("List-Unsubscribe-Post").unwrap().trim(), "List-Unsubscribe=One-Click");
        let link: String = mail.header_raw("List-Unsubscribe").unwrap().split_whitespace().collect();
        assert_eq!(link, "<https://localhost:8443/data_collector/unsubscribe?token=a.KJFK.s%2Bg%2F%3D>");
        assert_eq!(
            mail.body_text(0).unwrap().replace("\r\n", "\n").trim_end(),
            "351 flights – more than 200\n.\nend"
        );
    }

    #[test]
    fn a_subject_cannot_add_headers() {
        let text = composed("hello\r\nBcc: eve@example.com\r\n\r\nbody");
        let mail = MessageParser::default().parse(&text).unwrap();
        assert!(mail.bcc().is_none());
        assert!(mail.body_text(0).unwrap().starts_with("351 flights"));
    }
}
