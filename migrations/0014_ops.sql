-- What operators look players up by: how a name begins, whatever its case. In the order of bytes, so that the index serves a range whatever
-- the database's collation is.
CREATE INDEX players_username_bytes ON players (lower(username) COLLATE "C");
