-- Mails that the server does not take now, and behind each the later ones to the same address, in the order of `place`. The
-- first of an address is tried again when it is due.
CREATE TABLE parked (
    email TEXT NOT NULL,
    place BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    account TEXT NOT NULL,
    letter TEXT NOT NULL,
    trace TEXT NOT NULL,
    origin TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    parked_at BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    PRIMARY KEY (email, place)
);
CREATE INDEX parked_due ON parked (due_at);
CREATE INDEX parked_account ON parked (account);

-- One row, which those who count mails against the limits lock: one after another.
CREATE TABLE allowance (
    name TEXT PRIMARY KEY,
    counted BIGINT NOT NULL
);
INSERT INTO allowance (name, counted) VALUES ('mails', 0);
