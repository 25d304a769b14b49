-- The outbox of common::outbox, the same text in every service that has one.
CREATE TABLE outbox (
    topic TEXT NOT NULL,
    key TEXT NOT NULL,
    window_begin BIGINT NOT NULL,
    part TEXT NOT NULL,
    payload TEXT NOT NULL,
    headers TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    published_at BIGINT,
    PRIMARY KEY (topic, key, window_begin, part)
);
CREATE INDEX outbox_waiting ON outbox (topic, key, window_begin) WHERE published_at IS NULL;
CREATE INDEX outbox_published ON outbox (published_at);
CREATE TABLE outbox_lease (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    held_until BIGINT NOT NULL
);
