use common::db::{self, migrations};
use common::testing::databases;
use common::trace::Trace;
use serde_json::json;

use super::*;
use crate::MIGRATIONS;

fn mail() -> Mail {
    let letter = json!({ "id": "a", "email": "ada@example.com", "subject": "s", "body": "b" });
    Mail { letter: serde_json::from_value(letter).unwrap(), trace: Trace::start(), origin: "t/0/0".into() }
}

/// Two replicas find the same mail due. By its turn at the second one, the first has tried it, or buried it.
#[tokio::test]
async fn a_parked_mail_is_tried_by_one_replica_each_time_that_it_is_due() {
    for test in databases("notifier_system::store").await {
        let db = db::open(&test.url, &migrations(MIGRATIONS)).await.unwrap();
        let [one, two] = ["one", "two"].map(|holder| Store::new(db.clone(), holder, Vec::new()));
        let (mail, name) = (mail(), test.name);
        one.park(&mail).await.unwrap();
        test.execute("UPDATE parked SET due_at = 0").await;
        assert_eq!(two.due().await.unwrap().len(), 1, "{name}");
        assert_eq!(one.begin(&mail, Source::Parking).await.unwrap(), Leave::Send, "{name}");
        assert!(
            matches!(one.postpone(&mail, Duration::from_secs(60)).await.unwrap(), Postponed::For(_)),
            "{name}"
        );
        assert_eq!(two.begin(&mail, Source::Parking).await.unwrap(), Leave::Parked, "{name}: not due");

        test.execute("UPDATE parked SET due_at = 0").await;
        assert_eq!(one.begin(&mail, Source::Parking).await.unwrap(), Leave::Send, "{name}");
        one.unpark(&mail).await.unwrap();
        assert_eq!(two.begin(&mail, Source::Parking).await.unwrap(), Leave::Parked, "{name}: it is dead");
        assert_eq!(test.number("SELECT COUNT(*) FROM sending").await, 0, "{name}");
    }
}
