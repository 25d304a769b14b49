//! Where topics end, and how far groups have got in them.

use std::time::{Duration, Instant};

use rdkafka::admin::AdminOptions;
use rdkafka::consumer::{BaseConsumer, Consumer};
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

    /// Records of a topic from where `from` is on, or its beginning, up to `ends`; oldest first within a partition, at most
    /// `most`.
    pub(in crate::bus) async fn read_between(
        &self,
        topic: &str,
        from: &[Position],
        ends: &[Position],
        most: usize,
    ) -> Result<Vec<Envelope>, Error> {
        // It assigns, and neither joins a group nor commits.
        let asking: BaseConsumer = self.consumer_config("vedetta-looks").create()?;
        let (topic, from, ends) = (topic.to_owned(), from.to_vec(), ends.to_vec());
        tokio::task::spawn_blocking(move || read_up_to(&asking, &topic, &from, &ends, most))
            .await
            .map_err(|_| Error::Stopped)?
    }

    /// Removes what is before these positions.
    pub(in crate::bus) async fn remove_before(
        &self,
        topic: &str,
        positions: &[Position],
    ) -> Result<(), Error> {
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        let removed = self.admin()?.delete_records(&list_of(topic, positions)?, &options).await?;
        for partition in removed.elements() {
            partition.error()?;
        }
        Ok(())
    }
}

/// Reads up to `ends`, partition after partition as they come.
fn read_up_to(
    asking: &BaseConsumer,
    topic: &str,
    from: &[Position],
    ends: &[Position],
    most: usize,
) -> Result<Vec<Envelope>, Error> {
    let mut left = Vec::new();
    for end in ends {
        let (low, _) = asking.fetch_watermarks(topic, end.partition, REQUEST)?;
        let asked = from.iter().find(|position| position.partition == end.partition);
        let next = asked.map_or(low, |position| position.next.max(low));
        if next < end.next {
            left.push((Position { partition: end.partition, next }, end.next));
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
            // What was found before somebody removed the rest is better than nothing.
            None if Instant::now() > patience && !found.is_empty() => break,
            None if Instant::now() > patience => {
                return Err(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut).into());
            }
            None => {}
        }
    }
    Ok(found)
}
