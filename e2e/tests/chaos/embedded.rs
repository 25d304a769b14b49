//! The standalone: all services in one process, over SQLite and the embedded log.

use std::sync::Arc;

use crate::bus::Bus;
use crate::ledger::Ledger;
use crate::load::Entrance;
use crate::mail_server::MailServer;
use crate::path::Path;
use crate::plan::Plan;
use crate::port;
use crate::service::Service;
use crate::world::{Databases, World};

pub(crate) async fn world(plan: &Plan) -> World {
    common::tls::install();
    let folder = tempfile::tempdir().unwrap().keep();
    let data = folder.join("data");
    let mail_server = MailServer::start(plan.latency()).await;
    let to_mail_server = Path::to("way to the mail server", mail_server.addr()).await.of_mails();
    let gateway = port::address().await;
    let environment = vec![
        ("DATA_DIR", data.display().to_string()),
        ("LISTEN", gateway.to_string()),
        ("ADMIN_PORT", "0".to_owned()),
        ("REPLAY_LISTEN", "127.0.0.1:0".to_owned()),
        ("AUTH", "off".to_owned()),
        ("CONFIRM_EMAIL", "off".to_owned()),
        ("MAIL_URL", format!("smtp://{}", to_mail_server.addr())),
        ("COLLECT_BACKFILL", "1d".to_owned()),
        ("BREAKER_TIMEOUT", "1s".to_owned()),
        ("OPENSKY_DAILY_CREDITS", "1000000".to_owned()),
    ];
    let database = |name: &str| format!("sqlite:{}", data.join(name).display()).into();
    World {
        name: "the standalone",
        entrance: Arc::new(Entrance {
            user_manager: format!("https://{gateway}/user_manager"),
            data_collector: format!("https://{gateway}/data_collector"),
        }),
        services: vec![Service::start("standalone", "standalone", true, environment, &folder)],
        paths: vec![to_mail_server],
        mail_server,
        databases: Databases {
            user_manager: database("user.db"),
            data_collector: database("data.db"),
            notifier_system: database("notifier.db"),
        },
        bus: Bus::Log(data.join("bus.db")),
        servers: None,
        letters_wait: false,
        ledger: Ledger::default(),
        folder,
        _beside: None,
    }
}
