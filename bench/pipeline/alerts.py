"""A straightforward alert system, to compare ours with.

Reads counted windows from to-alert-system, compares them with every user's thresholds, and puts a mail for each crossing
into to-notifier: one message after the other, its mails acknowledged by the broker, then one commit a message.

usage: alerts.py HOST:PORT
"""

import json
import signal
import sys
from datetime import datetime, timezone

from confluent_kafka import Consumer, KafkaException, Producer

GATEWAY = "https://localhost:8443"


def count(window: dict, metric: str) -> int:
    arrivals, departures = window["arrival_count"], window["departure_count"]
    return {"total": arrivals + departures, "arrivals": arrivals, "departures": departures}[metric]


def crossing(value: int, user: dict) -> tuple[str, int] | None:
    """The side on which a count is out of a user's range, and the threshold there."""
    high, low = user.get("high_value"), user.get("low_value")
    if high is not None and value > high:
        return "high", high
    if low is not None and value < low:
        return "low", low
    return None


def judge(window: dict, user: dict) -> dict | None:
    """The mail to a user, if there is a reason for one."""
    metric = user.get("metric", "total")
    value = count(window, metric)
    crossed = crossing(value, user)
    if crossed is None:
        return None
    previous = window.get("previous")
    if user.get("notify") == "on_change" and previous is not None:
        before = crossing(count(previous, metric), user)
        if before is not None and before[0] == crossed[0]:
            return None
    return letter(window, user, metric, value, *crossed)


def letter(window: dict, user: dict, metric: str, value: int, condition: str, threshold: int) -> dict:
    airport, begin, end = window["airport"], window["window_begin"], window["window_end"]
    flights = "flights" if metric == "total" else metric
    side = "above your high" if condition == "high" else "below your low"
    crossed = f"{value} {flights}, {side} threshold of {threshold}"
    body = (
        f"{window.get('airport_name', airport)} ({airport}) had {crossed}.\n\n"
        f"Window:      {moment(begin):%Y-%m-%d %H:%M} to {moment(end):%Y-%m-%d %H:%M} UTC\n"
        f"Arrivals:    {window['arrival_count']}\n"
        f"Departures:  {window['departure_count']}\n"
        f"Total:       {count(window, 'total')}\n\n"
        f"Change your thresholds: PATCH {GATEWAY}/data_collector/interests/{airport}\n"
        f"No more of these mails: {GATEWAY}/data_collector/unsubscribe?token={user['unsubscribe']}\n"
    )
    return {
        "id": f"{user['account']}/{airport}/{metric}/{moment(begin):%Y-%m-%dT%H:%M:%SZ}/{end - begin}/{condition}",
        "account": user["account"],
        "email": user["email"],
        "subject": f"{airport}: {crossed}",
        "body": body,
        "airport": airport,
        "condition": condition,
        "metric": metric,
        "value": value,
        "threshold": threshold,
        "window_begin": begin,
        "window_end": end,
        "history": window.get("history", []),
        "unsubscribe": user["unsubscribe"],
    }


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


def send(producer: Producer, mails: list[dict]) -> None:
    """Returns when the broker has all of them."""
    failures = []

    def delivered(error, _message) -> None:
        if error is not None:
            failures.append(error)

    for mail in mails:
        producer.produce("to-notifier", key=mail["email"], value=json.dumps(mail), on_delivery=delivered)
    producer.flush()
    if failures:
        raise KafkaException(failures[0])


def main() -> None:
    broker = sys.argv[1]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    producer = Producer({"bootstrap.servers": broker, "acks": "all", "linger.ms": 0})
    consumer = Consumer({
        "bootstrap.servers": broker,
        "group.id": "alert_group",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe(["to-alert-system"])
    print(json.dumps({"ready": "alerts.py"}), flush=True)
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                print(message.error(), flush=True)
                continue
            window = json.loads(message.value())
            judged = (judge(window, user) for user in window["users"])
            send(producer, [mail for mail in judged if mail is not None])
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
