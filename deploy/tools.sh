# What the checks in deploy/ share. Sourced after scripts/setup.sh, from the root of the project.

# Where programs of PyPI are, once python_tools was called.
python_tools=$PWD/target/tools/python/bin

# python_tools PACKAGE==VERSION...: installs those that are not there, into a folder of this project.
python_tools() {
    need_programs python3=python3
    # Debian has it apart, and without it a folder is made that has no pip.
    python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages python3-venv
    mkdir -p target/tools
    # Another check may do the same at this time.
    (
        flock 9
        [ -x "$python_tools/pip" ] || python3 -m venv target/tools/python
        local package have
        have=$("$python_tools/pip" freeze --disable-pip-version-check)
        for package in "$@"; do
            grep -qixF "$package" <<<"$have" || "$python_tools/pip" install -q --disable-pip-version-check "$package"
        done
    ) 9>target/tools/python.lock
}
