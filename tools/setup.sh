#!/bin/sh
# Make this machine ready: Debian packages that are missing, then .venv with pinned packages.
# Says what it does before it does it; when nothing is missing it ends at once.
set -eu
cd "$(dirname "$0")/.."

missing_packages() {
  grep -v '^#' requirements/debian.txt | while read -r name; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null) || status=absent
    [ "$status" = installed ] || printf '%s ' "$name"
  done
}

install_packages() {
  if ! command -v apt-get >/dev/null; then
    echo "setup: this is not Debian; it needs what requirements/debian.txt names" >&2
    return
  fi
  missing=$(missing_packages)
  [ -n "$missing" ] || return 0
  echo "setup: installing Debian packages: $missing"
  if [ "$(id -u)" -ne 0 ]; then
    echo "setup: that needs root; run: sudo apt-get install --no-install-recommends $missing" >&2
    exit 3
  fi
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  # shellcheck disable=SC2086 # a list of names
  apt-get -qq install --yes --no-install-recommends $missing >.cache/apt.log 2>&1 || {
    tail -n 20 .cache/apt.log >&2
    echo "setup: apt-get failed; all it said is in .cache/apt.log" >&2
    exit 3
  }
}

find_python() {
  for python in ${PYTHON:-} /usr/bin/python3.11 /usr/bin/python3 python3; do
    if "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
    then
      echo "$python"
      return
    fi
  done
  echo "setup: no Python 3.11 or later with venv; name one: make setup PYTHON=..." >&2
  exit 3
}

# What .venv was made from; a clone that moved needs it made anew, since its programs name its path.
inputs_digest() {
  { pwd; "$1" -c 'import sys; print(sys.version)'; cat requirements/*.txt pyproject.toml "$0"; } |
    sha256sum | cut -d ' ' -f 1
}

make_venv() {
  python=$(find_python)
  digest=$(inputs_digest "$python")
  if [ "$(cat .venv/made-from 2>/dev/null)" = "$digest" ]; then
    return
  fi
  echo "setup: making .venv with $("$python" --version) and the packages of requirements/dev.txt"
  rm -rf .venv
  "$python" -m venv .venv
  pip=".venv/bin/pip -qq --disable-pip-version-check install"
  $pip --require-hashes -r requirements/build.txt
  echo "setup: building tpm2-pytss from source takes a minute or two"
  $pip --require-hashes --no-build-isolation -r requirements/dev.txt
  $pip --no-deps --no-build-isolation --editable .
  echo "$digest" >.venv/made-from
}

mkdir -p .cache
install_packages
make_venv
