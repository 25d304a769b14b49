-- Until when nobody asks OpenSky, because it answered 429; by the database's clock, so that it holds for all replicas and
-- over restarts.
ALTER TABLE credit ADD COLUMN paused_until BIGINT NOT NULL DEFAULT 0;
