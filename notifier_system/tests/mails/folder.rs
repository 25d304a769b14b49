use std::path::Path;

use common::testing::temp_path;
use mail_parser::MessageParser;

use crate::service::{Service, databases, letter};
use common::testing::eventually;

fn names(folder: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[tokio::test]
async fn each_letter_is_one_file_and_nothing_else_is_left() {
    for db in databases().await {
        let folder = temp_path("mail").join("deeper");
        let url = format!("file:{}", folder.display());
        let service = Service::start(&db, &url).await;
        for id in ["a", "b", "a"] {
            service.post(&letter(id, "ada@example.com")).await;
        }
        service.settled().await;
        let before = names(&folder);
        assert_eq!(before.len(), 2);
        assert!(before.iter().all(|name| name.ends_with(".eml")), "{before:?}");
        let text = std::fs::read(folder.join(&before[0])).unwrap();
        let mail = MessageParser::default().parse(&text).unwrap();
        assert_eq!(mail.subject(), Some("KJFK: 351 flights, above your high threshold of 200"));
        assert_eq!(mail.from().unwrap().first().unwrap().address(), Some("vedetta@localhost"));
        assert_eq!(mail.header_raw("X-Request-ID").unwrap().trim(), "r-1");
        let link = mail.header_raw("List-Unsubscribe").unwrap().trim().to_owned();
        assert_eq!(link, "<https://localhost:8443/data_collector/unsubscribe?token=a.KJFK.s>");
        // Read by a person and removed, a mail does not come back with a second delivery.
        std::fs::remove_file(folder.join(&before[0])).unwrap();
        service.stop().await;
        let service = Service::start(&db, &url).await;
        for id in ["a", "b"] {
            service.post(&letter(id, "ada@example.com")).await;
        }
        service.settled().await;
        assert_eq!(names(&folder), before[1..]);
    }
}

#[tokio::test]
async fn a_folder_that_is_away_for_a_while_loses_no_mail() {
    for db in databases().await {
        let folder = temp_path("mail");
        let service = Service::start(&db, &format!("file:{}", folder.display())).await;
        std::fs::remove_dir(&folder).unwrap();
        service.post(&letter("a", "ada@example.com")).await;
        eventually("an attempt has failed", async || {
            (service.metric("failed_attempts_total").await > 0).then_some(())
        })
        .await;
        std::fs::create_dir(&folder).unwrap();
        service.settled().await;
        assert_eq!(names(&folder).len(), 1);
        assert!(service.dead().await.is_empty());
    }
}
