# Sourced: makes $scratch, a folder that is removed when the script ends. PostgreSQL's own user can reach it.
scratch=$(mktemp -d "${TMPDIR:-/tmp}/asobi.XXXXXX")
chmod 755 "$scratch"
trap 'rm -rf "$scratch"' EXIT
