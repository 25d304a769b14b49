CREATE TABLE users (
    account TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    surname TEXT NOT NULL,
    password_hash TEXT NOT NULL,
    tokens_not_before BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Ed25519 private keys, PKCS#8 in base64. place counts them; the last one signs.
CREATE TABLE signing_key (
    place BIGINT PRIMARY KEY,
    kid TEXT NOT NULL UNIQUE,
    pkcs8 TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- Tokens of an account issued before not_before are void.
CREATE TABLE revocation (
    account TEXT PRIMARY KEY,
    not_before BIGINT NOT NULL
);
