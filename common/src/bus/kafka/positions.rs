//! Where topics end, and how far groups have got in them.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};
use tokio_util::sync::CancellationToken;

use super::{Kafka, REQUEST, as_record, list_of};
use crate::bus::{Envelope, Error, Position};

impl Kafka {
    pub(in crate::bus) async fn ends(&self, topic: &str) -> Result<Vec<Position>, Error> {
        let (producer, topic) = (self.0.producer.load_full(), topic.to_owned());
        let fetched = tokio::task::spawn_blocking(move || {
            let client = producer.client();
            let metadata = client.fetch_metadata(Some(&topic), REQUEST)?;
            // A broker that has just started may not know the topic yet; that is not a topic without partitions.
            let known =
                metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none());
            let known = known.filter(|known| !known.partitions().is_empty());
            let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
            let partitions = known.ok_or(unknown)?.partitions().iter();
            let end = |partition: i32| {
                let (_, next) = client.fetch_watermarks(&topic, partition, REQUEST)?;
                Ok(Position { partition, next })
            };
            partitions.map(|partition| end(partition.id())).collect()
        });
        fetched.await.map_err(|_| Error::Stopped)?
    }

    pub(in crate::bus) async fn has_reached(
        &self,
        group: &str,
        topic: &str,
        ends: &[Position],
    ) -> Result<bool, Error> {
        // It only asks: without a subscription it is no member of the group.
        let asking: BaseConsumer = self.consumer_config(group).create()?;
        let (topic, ends) = (topic.to_owned(), ends.to_vec());
        let asked = tokio::task::spawn_blocking(move || {
            let mut list = TopicPartitionList::new();
            for end in &ends {
                list.add_partition(&topic, end.partition);
            }
            let committed = asking.committed_offsets(list, REQUEST)?;
            for end in ends {
                let committed = committed.find_partition(&topic, end.partition);
                let committed = committed
                    .is_some_and(|found| matches!(found.offset(), Offset::Offset(next) if next >= end.next));
                if committed {
                    continue;
                }
                // What is there no more, or was never in the topic as it is now, needs nobody to read it.
                let (low, high) = asking.fetch_watermarks(&topic, end.partition, REQUEST)?;
                if low < end.next && high >= end.next {
                    return Ok(false);
                }
            }
            Ok(true)
        });
        asked.await.map_err(|_| Error::Stopped)?
    }

    /// The records that a group has not committed yet, at most `most`, without joining it.
    pub(in crate::bus) async fn pending(
        &self,
        group: &str,
        topic: &str,
        most: usize,
    ) -> Result<Vec<Envelope>, Error> {
        let ends = self.ends(topic).await?;
        let asking: BaseConsumer = self.consumer_config(group).create()?;
        let topic = topic.to_owned();
        tokio::task::spawn_blocking(move || read_pending(&asking, &topic, &ends, most))
            .await
            .map_err(|_| Error::Stopped)?
    }

    /// Stores how far a group has got that nobody is a member of.
    pub(in crate::bus) async fn commit(
        &self,
        group: &str,
        topic: &str,
        positions: &[Position],
    ) -> Result<(), Error> {
        let asking: BaseConsumer = self.consumer_config(group).create()?;
        let list = list_of(topic, positions)?;
        let committed = tokio::task::spawn_blocking(move || asking.commit(&list, CommitMode::Sync));
        Ok(committed.await.map_err(|_| Error::Stopped)??)
    }
}

/// Reads from what the group has committed up to `ends`, partition after partition in turn as they come.
fn read_pending(
    asking: &BaseConsumer,
    topic: &str,
    ends: &[Position],
    most: usize,
) -> Result<Vec<Envelope>, Error> {
    let mut list = TopicPartitionList::new();
    for end in ends {
        list.add_partition(topic, end.partition);
    }
    let committed = asking.committed_offsets(list, REQUEST)?;
    let mut left = Vec::new();
    for end in ends {
        let (low, _) = asking.fetch_watermarks(topic, end.partition, REQUEST)?;
        let begin = match committed.find_partition(topic, end.partition).map(|found| found.offset()) {
            Some(Offset::Offset(next)) => next.max(low),
            _ => low,
        };
        if begin < end.next {
            left.push((Position { partition: end.partition, next: begin }, end.next));
        }
    }
    let begins: Vec<Position> = left.iter().map(|(begin, _)| *begin).collect();
    asking.assign(&list_of(topic, &begins)?)?;
    let mut found = Vec::new();
    let mut patience = Instant::now() + REQUEST;
    while found.len() < most && left.iter().any(|(begin, end)| begin.next < *end) {
        match asking.poll(Duration::from_millis(100)).transpose()? {
            Some(message) => {
                patience = Instant::now() + REQUEST;
                let (partition, offset) = (message.partition(), message.offset());
                let place =
                    left.iter_mut().find(|(begin, end)| begin.partition == partition && offset < *end);
                if let Some((begin, _)) = place {
                    begin.next = offset + 1;
                    let (record, held) = (as_record(&message), CancellationToken::new());
                    found.push(Envelope { partition, offset, record, held });
                }
            }
            None if Instant::now() > patience => {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut).into());
            }
            None => {}
        }
    }
    Ok(found)
}
