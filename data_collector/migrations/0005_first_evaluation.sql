-- From when on anybody wants to hear of an airport is found without passing over all who watch it.
CREATE INDEX user_interest_first ON user_interest (airport, evaluate_from);
DROP INDEX user_interest_airport;
