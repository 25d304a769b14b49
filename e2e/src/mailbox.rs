//! The mail folder.

use std::path::{Path, PathBuf};

use mail_parser::MessageParser;

use crate::eventually;

#[derive(Clone, Debug)]
pub struct Mail {
    pub to: String,
    pub subject: String,
    pub message_id: String,
    pub request_id: String,
    pub body: String,
}

#[derive(Clone, Debug)]
pub struct Mailbox(pub PathBuf);

impl Mailbox {
    /// The mails that lie there, in no order.
    pub fn mails(&self) -> Vec<Mail> {
        let Ok(folder) = std::fs::read_dir(&self.0) else { return Vec::new() };
        let files = folder.map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|e| e == "eml")).map(|path| read(&path)).collect()
    }

    /// The mails to one address.
    pub fn to(&self, address: &str) -> Vec<Mail> {
        self.mails().into_iter().filter(|mail| mail.to == address).collect()
    }

    /// Waits until that many mails to an address are there.
    pub async fn wait_for(&self, address: &str, count: usize) -> Vec<Mail> {
        eventually(&format!("{count} mails to {address}"), async || {
            Some(self.to(address)).filter(|mails| mails.len() >= count)
        })
        .await
    }
}

fn read(path: &Path) -> Mail {
    let text = std::fs::read(path).unwrap();
    let mail = MessageParser::default().parse(&text).unwrap();
    let raw = |name: &str| mail.header_raw(name).unwrap_or_default().trim().to_owned();
    Mail {
        to: mail.to().unwrap().first().unwrap().address().unwrap().to_owned(),
        subject: mail.subject().unwrap().to_owned(),
        message_id: mail.message_id().unwrap().to_owned(),
        request_id: raw("X-Request-ID"),
        body: mail.body_text(0).unwrap().into_owned(),
    }
}
