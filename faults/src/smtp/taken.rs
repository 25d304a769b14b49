//! A mail that the sink has taken. Nothing is parsed before somebody asks.

use std::time::Instant;

use mail_parser::{Message, MessageParser, MessagePart, PartType};

/// A mail that the sink has taken.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The envelope's sender.
    pub from: String,
    /// The envelope's recipient.
    pub to: String,
    /// The mail as it came, with the headers and CRLF at the line ends.
    pub text: Vec<u8>,
    /// When it was taken.
    pub at: Instant,
    /// Whether its 250 was written to the socket without error; false for [`TakeAndCut`](super::Answer::TakeAndCut) and
    /// for a connection that was gone.
    pub answered: bool,
}

impl Taken {
    /// A header's text as it was sent, unfolded, with single spaces. Empty when there is no such header.
    pub fn header(&self, name: &str) -> String {
        let mail = MessageParser::default().parse_headers(&self.text);
        let raw = mail.as_ref().and_then(|mail| mail.header_raw(name)).unwrap_or_default();
        raw.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// The subject, decoded.
    pub fn subject(&self) -> String {
        let mail = MessageParser::default().parse_headers(&self.text);
        mail.as_ref().and_then(Message::subject).unwrap_or_default().to_owned()
    }

    /// The text/plain part, decoded, with `\n` at the line ends and without those at its end.
    pub fn body(&self) -> String {
        let body = self.part(|mail| mail.text_bodies().find_map(plain));
        body.unwrap_or_default().trim_end().to_owned()
    }

    /// The text/html part, decoded, with `\n` at the line ends.
    pub fn html(&self) -> Option<String> {
        self.part(|mail| mail.html_bodies().find_map(html))
    }

    /// The Message-ID as it was sent, with its angle brackets.
    pub fn message_id(&self) -> String {
        self.header("Message-ID")
    }

    fn part(&self, find: impl Fn(&Message<'_>) -> Option<String>) -> Option<String> {
        let mail = MessageParser::default().parse(&self.text)?;
        find(&mail).map(|text| text.replace("\r\n", "\n"))
    }
}

fn plain(part: &MessagePart<'_>) -> Option<String> {
    match &part.body {
        PartType::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

fn html(part: &MessagePart<'_>) -> Option<String> {
    match &part.body {
        PartType::Html(text) => Some(text.to_string()),
        _ => None,
    }
}
