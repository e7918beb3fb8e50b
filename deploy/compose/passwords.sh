#!/bin/sh
# Gives the roles of roles.sql their passwords, when the database of deploy/compose.yaml is made. Run by PostgreSQL's image.
set -eu
psql -q -v ON_ERROR_STOP=1 -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-asobi}" \
    -v migrator="$MIGRATOR_PASSWORD" -v service="$SERVICE_PASSWORD" -v readonly="$READONLY_PASSWORD" <<'SQL'
ALTER ROLE asobi_migrator PASSWORD :'migrator';
ALTER ROLE asobi_service PASSWORD :'service';
ALTER ROLE asobi_readonly PASSWORD :'readonly';
SQL
