-- From when on anybody wants to hear of an airport is found without passing over all who watch it, and so is their number.
CREATE INDEX user_interest_first ON user_interest (airport, evaluate_from);
DROP INDEX user_interest_airport;
ALTER TABLE watched_airport ADD COLUMN watchers BIGINT NOT NULL DEFAULT 0;
UPDATE watched_airport SET watchers = (SELECT COUNT(*) FROM user_interest
    WHERE user_interest.airport = watched_airport.airport);

-- How long windows are, from a midnight (UTC) on.
CREATE TABLE window_length (
    effective_from BIGINT PRIMARY KEY,
    -- In seconds; a divisor of a day.
    length BIGINT NOT NULL
);
INSERT INTO window_length (effective_from, length)
    SELECT 0, window_end - window_begin FROM airport_window ORDER BY window_end DESC LIMIT 1;

-- Whether the last attempt cost credits: then the next one waits its time, whatever the breaker wants.
ALTER TABLE airport_window ADD COLUMN charged BOOLEAN NOT NULL DEFAULT FALSE;
