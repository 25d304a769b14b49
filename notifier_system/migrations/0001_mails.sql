-- Times are Unix seconds.

-- Mails that the server has taken.
CREATE TABLE sent (
    id TEXT PRIMARY KEY,
    sent_at BIGINT NOT NULL
);
CREATE INDEX sent_age ON sent (sent_at);

-- Mails on their way: nobody else sends them until then, by the database's clock.
CREATE TABLE sending (
    id TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    held_until BIGINT NOT NULL
);

-- Accounts that were deleted: they get no more mails.
CREATE TABLE forgotten (
    account TEXT PRIMARY KEY,
    forgotten_at BIGINT NOT NULL
);
