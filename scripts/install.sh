#!/usr/bin/env bash
# Installs missing programs with apt and cargo. The argument names the purpose: `dev`
# runs roomgate, `dev --prometheus` also watches it, `load` loads it, `alerts` makes
# its alerts fire, `test` tests it. Run it as root or with sudo.
set -euo pipefail

purpose=${1:-dev}
# Debian keeps these out of an ordinary user's PATH.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

has() { command -v "$1" >/dev/null 2>&1; }

if ! has cargo; then
    echo "roomgate needs Rust: https://rustup.rs" >&2
    exit 1
fi

# `make lint` checks the crates with cargo-deny. A debug build of it compiles in a
# quarter of the time of a release build.
install_deny() {
    local version=0.20.2
    if [ "$purpose" = test ] && [ "$(cargo deny --version 2>/dev/null)" != "cargo-deny $version" ]; then
        echo "compiling cargo-deny $version"
        cargo install cargo-deny --version "$version" --locked --debug --no-default-features --quiet
    fi
}

missing=()
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || has initdb || missing+=(postgresql)
has redis-server || missing+=(redis-server)
has haproxy || missing+=(haproxy)
has setpriv || missing+=(util-linux)
has cc || missing+=(build-essential)
if [ "$purpose" != dev ]; then
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
fi
if [ "$purpose" = test ] || [ "$purpose" = alerts ] || [ "${2:-}" = --prometheus ]; then
    has prometheus || missing+=(prometheus)
fi
if [ "$purpose" = test ] || [ "$purpose" = alerts ]; then
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null || missing+=(libfaketime)
fi
if [ "$purpose" = test ]; then
    has amtool || missing+=(prometheus-alertmanager)
    has pgbouncer || missing+=(pgbouncer)
    has node || missing+=(nodejs)
    has npm || missing+=(npm)
    has curl || missing+=(curl)
    has jq || missing+=(jq)
    has wsdump || missing+=(python3-websocket)
    has patroni || missing+=(patroni python3-etcd)
    has etcd || missing+=(etcd-server)
    has chromium || has chromium-browser || missing+=(chromium)
fi
if [ ${#missing[@]} -eq 0 ]; then
    install_deny
    exit 0
fi

echo "installing with apt: ${missing[*]}"
if ! has apt-get; then
    echo "there is no apt-get here: install them yourself, please" >&2
    exit 1
fi
sudo=()
if [ "$(id -u)" -ne 0 ]; then
    if ! has sudo; then
        echo "neither root nor sudo: ask somebody to run: apt-get install ${missing[*]}" >&2
        exit 1
    fi
    sudo=(sudo)
fi

# These packages start a server each when they are installed. roomgate starts
# its own, so for the time of the installation nothing may be started.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
    trap '"${sudo[@]}" rm -f "$policy"' EXIT
fi

apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=300)
# The lists may be stale or absent; a fresh look is only worth it then.
"${apt[@]}" install --no-install-recommends "${missing[@]}" ||
    { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; }
install_deny
