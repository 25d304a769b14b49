//! Everything that alerts pass, and what befalls it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use common::testing::TestDb;
use secrecy::SecretString;

use crate::bus::{Bus, READERS};
use crate::fault::{Fault, Kind, Mood, Target, What};
use crate::ledger::Ledger;
use crate::load::Entrance;
use crate::mail_server::MailServer;
use crate::path::Path;
use crate::servers::{Server, Servers};
use crate::service::Service;

pub(crate) struct World {
    pub(crate) name: &'static str,
    pub(crate) entrance: Arc<Entrance>,
    pub(crate) services: Vec<Service>,
    pub(crate) paths: Vec<Path>,
    pub(crate) mail_server: MailServer,
    pub(crate) databases: Databases,
    pub(crate) bus: Bus,
    /// Where PostgreSQL and Kafka are servers.
    pub(crate) servers: Option<Servers>,
    /// Whether letters wait for some time after the start of who sends them.
    pub(crate) letters_wait: bool,
    pub(crate) ledger: Ledger,
    /// Where the services' logs are, and what they keep in files.
    pub(crate) folder: PathBuf,
    /// What runs beside and is not befallen.
    pub(crate) _beside: Option<e2e::process::Process>,
}

/// The databases themselves, whatever stands before them.
pub(crate) struct Databases {
    pub(crate) user_manager: SecretString,
    pub(crate) data_collector: SecretString,
    pub(crate) notifier_system: SecretString,
}

impl World {
    /// Who can be befallen. The standalone is there three times: it is everything but the mail server.
    pub(crate) fn targets(&self) -> Vec<Target> {
        let lives = if self.services.len() == 1 { 3 } else { 1 };
        let services = self.services.iter().enumerate();
        let services = services.map(|(place, service)| (What::Service(place), service.sends));
        let servers = self.servers.iter().flat_map(|_| [Server::Postgres, Server::Kafka]);
        let servers = servers.map(|server| (What::Server(server), false));
        let paths = self.paths.iter().enumerate();
        let paths = paths.map(|(place, path)| (What::Path(place), path.is_of_mails));
        let moods = [Mood::TakesAndCuts, Mood::Slow, Mood::Refuses].map(|mood| (What::Mood(mood), true));
        services
            .flat_map(|service| std::iter::repeat_n(service, lives))
            .chain(servers)
            .chain(paths)
            .chain([(What::MailServer, true)])
            .chain(moods)
            .map(|(what, has_to_do_with_mails)| Target { what, has_to_do_with_mails })
            .collect()
    }

    /// Lets something go wrong, until it is well again.
    pub(crate) async fn suffers(self: Arc<World>, fault: Fault) {
        let Fault { kind, lasts, .. } = fault;
        self.ledger.count(self.name_of(kind));
        match kind {
            Kind::ServiceKilled(place) => self.services[place].killed(lasts, &self.ledger).await,
            Kind::ServerKilled(server) => {
                let servers = self.servers.as_ref().expect("it was drawn from those that are there");
                servers.killed(server, lasts).await;
            }
            Kind::Path(place, fault) => self.paths[place].disturbed(fault, lasts, &self.ledger).await,
            Kind::MailServerAway => self.mail_server.away(lasts, &self.ledger).await,
            Kind::Mood(mood, amount) => self.mail_server.moody(mood, amount, lasts).await,
        }
    }

    fn name_of(&self, kind: Kind) -> String {
        match kind {
            Kind::ServiceKilled(place) => format!("{} killed", self.services[place].node),
            Kind::ServerKilled(server) => format!("{} killed", server.name()),
            Kind::Path(place, _) => format!("{} disturbed", self.paths[place].name),
            Kind::MailServerAway => "mail server away".to_owned(),
            Kind::Mood(Mood::TakesAndCuts, _) => "mail server takes and cuts".to_owned(),
            Kind::Mood(Mood::Slow, _) => "mail server slow".to_owned(),
            Kind::Mood(Mood::Refuses, _) => "mail server refuses for now".to_owned(),
        }
    }

    /// Watches over the services for as long as it is polled.
    pub(crate) async fn supervised(&self) {
        loop {
            for service in &self.services {
                service.revived(&self.ledger).await;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// What is still on its way, if anything is. Asked in the order in which alerts pass.
    pub(crate) async fn unfinished(&self) -> Option<String> {
        for url in [&self.databases.user_manager, &self.databases.data_collector] {
            let waiting = "SELECT COUNT(*) FROM outbox WHERE published_at IS NULL";
            let waiting = number(url, waiting).await;
            if waiting > 0 {
                return Some(format!("{waiting} messages in an outbox"));
            }
        }
        for reader in &READERS {
            match self.bus.lag(reader).await {
                Ok(0) => {}
                Ok(lag) => return Some(format!("{lag} records of {} for {}", reader.topic, reader.group)),
                Err(error) => return Some(format!("the bus's answer: {error}")),
            }
        }
        let parked = number(&self.databases.notifier_system, "SELECT COUNT(*) FROM parked").await;
        (parked > 0).then(|| format!("{parked} mails that the server did not take"))
    }

    /// Every mail is written down as sent, once, and nobody holds one.
    pub(crate) async fn is_written_down(&self, mails: usize) {
        let url = &self.databases.notifier_system;
        assert_eq!(number(url, "SELECT COUNT(*) FROM sent").await, mails as i64, "mails known as sent");
        assert_eq!(number(url, "SELECT COUNT(*) FROM sending").await, 0, "mails that somebody holds");
    }
}

async fn number(url: &SecretString, query: &'static str) -> i64 {
    TestDb { name: "chaos", url: url.clone() }.number(query).await
}
