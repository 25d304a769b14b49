"""A straightforward notifier, to compare ours with.

Reads mails from to-notifier and hands each to the mail server over one connection that stays open: one after the other, one
commit a message.

usage: mails.py BROKER_HOST:PORT MAIL_HOST:PORT
"""

import json
import signal
import smtplib
import sys
import time
from email.mime.text import MIMEText
from email.utils import formatdate

from confluent_kafka import Consumer

SENDER = "vedetta@localhost"
GATEWAY = "https://localhost:8443"


class MailServer:
    """A connection that is made when it is needed, and made again when it is lost."""

    def __init__(self, address: str) -> None:
        host, port = address.rsplit(":", 1)
        self.host, self.port = host, int(port)
        self.connection: smtplib.SMTP | None = None

    def send(self, recipient: str, mail: MIMEText) -> None:
        """Returns when the server has the mail."""
        while True:
            try:
                if self.connection is None:
                    self.connection = smtplib.SMTP(self.host, self.port, timeout=30)
                self.connection.sendmail(SENDER, [recipient], mail.as_string())
                return
            except (ConnectionError, TimeoutError, smtplib.SMTPConnectError, smtplib.SMTPServerDisconnected) as error:
                print(f"the mail server: {error}", flush=True)
                self.connection = None
                time.sleep(1)


def compose(letter: dict) -> MIMEText:
    mail = MIMEText(letter["body"], "plain", "utf-8")
    mail["From"] = SENDER
    mail["To"] = letter["email"]
    mail["Subject"] = letter["subject"]
    mail["Date"] = formatdate()
    if "unsubscribe" in letter:
        link = f"{GATEWAY}/data_collector/unsubscribe?token={letter['unsubscribe']}"
        mail["List-Unsubscribe"] = f"<{link}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return mail


def main() -> None:
    broker, server = sys.argv[1], MailServer(sys.argv[2])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    consumer = Consumer({
        "bootstrap.servers": broker,
        "group.id": "notifier_group",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    })
    consumer.subscribe(["to-notifier"])
    print(json.dumps({"ready": "mails.py"}), flush=True)
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if message.error():
                print(message.error(), flush=True)
                continue
            letter = json.loads(message.value())
            server.send(letter["email"], compose(letter))
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
