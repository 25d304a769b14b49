#!/usr/bin/env bash
# The tools of Kafka that are here, one link to this script each: the link's name says which it is.
set -euo pipefail

case "${0##*/}" in
kafka-broker-api-versions.sh) class=org.apache.kafka.tools.BrokerApiVersionsCommand ;;
kafka-console-consumer.sh) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
kafka-console-producer.sh) class=org.apache.kafka.tools.ConsoleProducer ;;
kafka-consumer-groups.sh) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
kafka-storage.sh) class=kafka.tools.StorageTool ;;
kafka-topics.sh) class=org.apache.kafka.tools.TopicCommand ;;
*)
    echo "error: no tool of the name ${0##*/} is here" >&2
    exit 1
    ;;
esac
exec /opt/kafka/bin/kafka-run-class.sh "$class" "$@"
