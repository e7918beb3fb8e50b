# What ./dev, ./test and .ci/run need on a machine: a C++ compiler (for Luau), PostgreSQL's server programs, and what the
# script that sources this one asks for with need_programs. Sourced, from the root of the project. Says what is missing and
# installs it where the package manager is known.

# Checked SQL is compiled from .sqlx/, without a database.
export SQLX_OFFLINE=true

# Where cargo builds.
target=${CARGO_TARGET_DIR:-$PWD/target}

# The folder of an installed server's programs, the newest supported release first; empty if there is none.
postgres_bin() {
    local dir
    for dir in "${ASOBI_POSTGRES_BIN:-}" /usr/lib/postgresql/{18,17,16,15}/bin /usr/pgsql-{18,17,16,15}/bin \
        "$(pg_config --bindir 2>/dev/null || true)" "$(dirname "$(command -v initdb || echo /)")"; do
        if [ -n "$dir" ] && [ -x "$dir/initdb" ] && [ -x "$dir/postgres" ]; then
            echo "$dir"
            return
        fi
    done
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

install_packages() {
    echo "installing: $*" >&2
    if command -v apt-get >/dev/null; then
        # Debian makes a cluster of its own when a server is installed, and starts every service, unless told otherwise.
        local told=/etc/postgresql-common/createcluster.d/asobi.conf policy=/usr/sbin/policy-rc.d own_policy=
        as_root mkdir -p "$(dirname "$told")"
        echo 'create_main_cluster = false' | as_root tee "$told" >/dev/null
        if [ ! -e "$policy" ]; then
            own_policy=yes
            printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
            as_root chmod +x "$policy"
        fi
        local status=0
        as_root apt-get update -q >&2 &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 || status=$?
        as_root rm -f "$told" ${own_policy:+"$policy"}
        [ "$status" = 0 ] || { echo "the packages could not be installed; see above, then try again" >&2; exit "$status"; }
    else
        echo "please install them with this system's package manager, then try again" >&2
        exit 1
    fi
}

# need_programs PROGRAM=PACKAGE...: installs the Debian packages of those that are not there.
need_programs() {
    local pair missing=()
    # Where Debian puts servers, which is not on every user's path.
    PATH="$PATH:/usr/sbin:/sbin"
    for pair in "$@"; do
        command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        echo "missing on this machine: ${missing[*]}" >&2
        install_packages "${missing[@]}"
    fi
}

missing=()
# Where rustup puts it, for shells that have not been told.
command -v cargo >/dev/null || PATH="$PATH:${CARGO_HOME:-$HOME/.cargo}/bin"
command -v cargo >/dev/null || { echo "Rust is missing: install it as https://rustup.rs says, then try again" >&2; exit 1; }
command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null || missing+=(g++)
[ -n "$(postgres_bin)" ] || missing+=(postgresql)
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing on this machine: ${missing[*]}" >&2
    install_packages "${missing[@]}"
fi
unset missing
