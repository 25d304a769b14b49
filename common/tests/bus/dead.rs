//! What cannot be handled is seen, and put back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use common::bus::{DeadLetters, Delivery, Failure, Record};
use common::messages::{Letter, Message, Origin};
use common::testing::eventually;
use common::trace::Headers;
use common::types::Email;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::stage::{Note, Seen, Topic, group, on_every_bus, soon, topic};

#[tokio::test(flavor = "multi_thread")]
async fn dead_messages_are_listed_and_put_back_once_in_their_order() {
    topic!(Buried, "test-buried");
    on_every_bus::<Buried>(async |stage| {
        if !stage.can_remove_records() {
            return;
        }
        let group = group();
        let (seen, works) = (Seen::default(), Arc::new(AtomicBool::new(false)));
        let reading = stage.consume(group, {
            let (seen, works) = (seen.clone(), works.clone());
            move |delivery: Delivery<Note<Buried>>| {
                let poison = delivery.message.key == "poison";
                let outcome = if works.load(SeqCst) && !poison {
                    seen.add(&delivery.message);
                    Ok(())
                } else {
                    Err(Failure::Reject(format!("no {}", delivery.message.n)))
                };
                std::future::ready(outcome)
            }
        });
        stage.publish::<Buried>(&[("ada@example.com", 0), ("poison", 1), ("ada@example.com", 2)]).await;
        stage.dead(Buried::NAME, 3).await;

        let dead = DeadLetters::new::<Note<Buried>>(stage.bus.clone());
        let listed = dead.list(10).await.unwrap();
        let mut reasons: Vec<&str> = listed.iter().map(|letter| letter.reason.as_str()).collect();
        reasons.sort_unstable();
        assert_eq!(reasons, ["no 0", "no 1", "no 2"], "{stage}");
        let letter = listed.iter().find(|letter| letter.reason == "no 0").unwrap();
        let masked = "ada@example.com".parse::<Email>().unwrap().masked();
        assert_eq!((&letter.key, &letter.id), (&masked, &None), "{stage}");
        assert!(letter.place.starts_with("test-buried.dead/0/"), "{stage}: {letter:?}");
        assert!(letter.origin.starts_with("test-buried/0/"), "{stage}: {letter:?}");
        assert_eq!(dead.list(1).await.unwrap(), listed[..1], "{stage}");

        works.store(true, SeqCst);
        assert_eq!(dead.replay(usize::MAX).await.unwrap(), 3, "{stage}");
        seen.reaches(2).await;
        assert_eq!(seen.of("ada@example.com"), [0, 2], "{stage}");
        // What failed again lies there again, and remembers where it was first.
        let again = eventually("it failed again", async || {
            Some(dead.list(10).await.unwrap()).filter(|again| !again.is_empty())
        })
        .await;
        assert_eq!(again.len(), 1, "{stage}: {again:?}");
        let first = listed.iter().find(|letter| letter.reason == "no 1").unwrap();
        assert_eq!((&again[0].reason, &again[0].origin), (&first.reason, &first.origin), "{stage}");
        reading.stop().await;
        assert_eq!(dead.replay(1).await.unwrap(), 1, "{stage}");
        assert_eq!(dead.list(10).await.unwrap(), [], "{stage}: what was put back is gone");
        assert_eq!(dead.replay(usize::MAX).await.unwrap(), 0, "{stage}");
    })
    .await;
}

/// The real message, in a topic of its own.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Replayed(Letter);

impl Message for Replayed {
    const TOPIC: &'static str = "test-replayed";

    fn key(&self) -> String {
        self.0.key()
    }

    fn adopt(&mut self, origin: &Origin) {
        self.0.adopt(origin);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_made_of_a_place_outlives_the_dead_topic() {
    topic!(Place, "test-replayed");
    on_every_bus::<Place>(async |stage| {
        if !stage.can_remove_records() {
            return;
        }
        let group = group();
        let (tell, mut told) = mpsc::unbounded_channel();
        let reading = stage.consume(group, move |delivery: Delivery<Replayed>| {
            tell.send(delivery.message.0.id).unwrap();
            std::future::ready(Err(Failure::Reject("no".into())))
        });
        let payload = r#"{"email": "ada@example.com", "subject": "s", "body": "b"}"#.into();
        let (topic, key) = (Replayed::TOPIC.into(), "ada@example.com".into());
        let record = Record { topic, key, payload, headers: Headers::new() };
        stage.bus.publish(vec![record]).await.remove(0).unwrap();
        let first = soon("the message", told.recv()).await.unwrap();
        stage.dead(Replayed::TOPIC, 1).await;
        let dead = DeadLetters::new::<Replayed>(stage.bus.clone());
        assert_eq!(dead.replay(usize::MAX).await.unwrap(), 1, "{stage}");
        assert_eq!(soon("the message again", told.recv()).await.unwrap(), first, "{stage}");
        reading.stop().await;
    })
    .await;
}
