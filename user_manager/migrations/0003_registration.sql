-- An account may have no password (AUTH=off), and its address may not be confirmed yet.
CREATE TABLE account_user (
    account TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    surname TEXT NOT NULL,
    password_hash TEXT,
    tokens_not_before BIGINT NOT NULL,
    -- NULL: not yet. Should an earlier version run beside this one, it names no value, and its accounts are confirmed.
    confirmed_at BIGINT DEFAULT 0,
    -- Made with AUTH=off, by whoever named the address.
    classroom BOOLEAN NOT NULL DEFAULT FALSE,
    created_at BIGINT NOT NULL
);
INSERT INTO account_user (account, email, name, surname, password_hash, tokens_not_before, confirmed_at, created_at)
    SELECT account, email, name, surname, password_hash, tokens_not_before, created_at, created_at FROM users;
DROP TABLE users;
ALTER TABLE account_user RENAME TO users;
CREATE INDEX users_unconfirmed ON users (created_at) WHERE confirmed_at IS NULL;

-- Registrations that succeeded lately, by the key that the client gave them (its SHA-256: it may be any text), with the
-- answer and the password that it was given to.
CREATE TABLE registration (
    email TEXT NOT NULL,
    key TEXT NOT NULL,
    account TEXT NOT NULL REFERENCES users (account) ON DELETE CASCADE,
    answer TEXT NOT NULL,
    password_hash TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (email, key)
);
CREATE INDEX registration_account ON registration (account);
CREATE INDEX registration_age ON registration (created_at);

-- Addresses that were registered lately: the row at which the registrations of an address queue, and how many mails went
-- to it since a time.
CREATE TABLE address (
    email TEXT PRIMARY KEY,
    mails BIGINT NOT NULL,
    mails_since BIGINT NOT NULL
);
CREATE INDEX address_age ON address (mails_since);

-- Secrets of our own that are no signing keys, by purpose.
CREATE TABLE secret (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
);
