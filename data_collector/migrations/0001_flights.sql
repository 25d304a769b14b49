-- Times are Unix seconds, UTC.

-- Accounts that were ever seen. The row is locked while an interest of the account is made or the account is
-- forgotten, so that the one sees the other.
CREATE TABLE account (
    account TEXT PRIMARY KEY,
    forgotten_at BIGINT,
    -- Counts the changes of the account's interests. It goes on when an interest ends and is made again, so that no two
    -- messages have the same name.
    revision BIGINT NOT NULL DEFAULT 0,
    collect_asked_at BIGINT NOT NULL DEFAULT 0
);

CREATE TABLE user_interest (
    account TEXT NOT NULL,
    email TEXT NOT NULL,
    airport TEXT NOT NULL,
    low_value BIGINT,
    high_value BIGINT,
    metric TEXT NOT NULL,
    notify TEXT NOT NULL,
    -- The account's revision at the last change.
    revision BIGINT NOT NULL,
    -- The first window this interest is evaluated on: the latest closed one when it was made or changed.
    evaluate_from BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (account, airport),
    CHECK (low_value >= 0),
    CHECK (high_value >= 0),
    CHECK (high_value > low_value)
);
CREATE INDEX user_interest_airport ON user_interest (airport);

-- Airports that somebody watches. The row is locked while a window of the airport is stored and while an interest in it
-- changes, so that nobody is forgotten in between.
CREATE TABLE watched_airport (
    airport TEXT PRIMARY KEY,
    -- Up to here windows have been planned.
    planned_until BIGINT NOT NULL
);

-- Windows that are wanted (due), collected (stored) or given up (missing).
CREATE TABLE airport_window (
    airport TEXT NOT NULL,
    window_begin BIGINT NOT NULL,
    window_end BIGINT NOT NULL,
    state TEXT NOT NULL,
    -- When the window was both closed and wanted, in flight time.
    due_since BIGINT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    -- The next attempt after a failed one, by the database's clock.
    retry_at BIGINT NOT NULL DEFAULT 0,
    -- No flights in a direction: asked again at this flight time, when it can no longer be a gap in the data.
    provisional_until BIGINT NOT NULL DEFAULT 0,
    claimed_by TEXT,
    claimed_until BIGINT NOT NULL DEFAULT 0,
    arrivals BIGINT,
    departures BIGINT,
    -- Whether its messages are in the outbox, or it is known that it has none.
    announced BOOLEAN NOT NULL DEFAULT FALSE,
    -- JSON: the request that made the window wanted.
    trace TEXT NOT NULL,
    PRIMARY KEY (airport, window_begin)
);
CREATE INDEX airport_window_due ON airport_window (due_since) WHERE state = 'due';

CREATE TABLE flight (
    icao24 TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    departure_airport TEXT,
    arrival_airport TEXT,
    callsign TEXT,
    PRIMARY KEY (icao24, first_seen)
);
CREATE INDEX flight_arrival ON flight (arrival_airport, last_seen, icao24, first_seen);
CREATE INDEX flight_departure ON flight (departure_airport, first_seen, icao24);
CREATE INDEX flight_age ON flight (last_seen);

-- What is left of the day's credits with OpenSky; one row.
CREATE TABLE credit (
    name TEXT PRIMARY KEY,
    day BIGINT NOT NULL,
    remaining BIGINT NOT NULL
);

-- Keys that this service signs with.
CREATE TABLE signing_key (
    name TEXT PRIMARY KEY,
    secret TEXT NOT NULL
);
