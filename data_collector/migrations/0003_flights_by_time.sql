-- Flights in the order of time: those of a window lie together, so that storing one touches few pages however many
-- flights there are, and the oldest are found without an index of their own.
CREATE TABLE flight_by_time (
    icao24 TEXT NOT NULL,
    first_seen BIGINT NOT NULL,
    last_seen BIGINT NOT NULL,
    departure_airport TEXT,
    arrival_airport TEXT,
    callsign TEXT,
    PRIMARY KEY (first_seen, icao24)
);
INSERT INTO flight_by_time (icao24, first_seen, last_seen, departure_airport, arrival_airport, callsign)
    SELECT icao24, first_seen, last_seen, departure_airport, arrival_airport, callsign FROM flight
    ORDER BY first_seen, icao24;
DROP TABLE flight;
ALTER TABLE flight_by_time RENAME TO flight;
CREATE INDEX flight_arrival ON flight (arrival_airport, last_seen, icao24, first_seen);
CREATE INDEX flight_departure ON flight (departure_airport, first_seen, icao24);

-- What is asked of an airport's windows again and again, found without passing over all that were ever stored.
CREATE INDEX airport_window_with_flights ON airport_window (airport, window_begin)
    WHERE state = 'stored' AND arrivals + departures > 0;
CREATE INDEX airport_window_waiting ON airport_window (airport, window_begin) WHERE state = 'due';
CREATE INDEX airport_window_given_up ON airport_window (airport, window_begin) WHERE state = 'missing';
CREATE INDEX airport_window_not_announced ON airport_window (airport, window_begin) WHERE NOT announced;
