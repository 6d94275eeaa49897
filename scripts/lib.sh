# Shared by the scripts beside it: `source` it from a bash script with `set -euo pipefail`. Changes nothing by itself, but
# for one thing that Mesa asks for: XDG_RUNTIME_DIR names a folder that exists.

say() { printf '==> %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

if [ ! -d "${XDG_RUNTIME_DIR:-}" ]; then
  export XDG_RUNTIME_DIR="${TMPDIR:-/tmp}/deme-runtime-$(id -u)"
  mkdir -p "$XDG_RUNTIME_DIR" && chmod 700 "$XDG_RUNTIME_DIR"
fi

# Runs a command as root: as it is, or through sudo.
as_root() {
  if [ "$(id -u)" = 0 ]; then env DEBIAN_FRONTEND=noninteractive "$@"
  elif have sudo; then sudo env DEBIAN_FRONTEND=noninteractive "$@"
  else fail "this needs root: $* (run it as root, or install sudo)"
  fi
}

apt_get() { as_root apt-get -qq -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@" </dev/null >/dev/null; }

# The package lists, once a run: a fresh machine has none.
apt_update() {
  [ -z "${apt_updated:-}" ] || return 0
  have apt-get || fail "only Debian, Ubuntu and their relatives are set up by this script: install $* by hand"
  say "apt-get update"
  apt_get update
  apt_updated=1
}

# apt_install COMMAND PACKAGE...: does nothing where the command is there.
apt_install() {
  have "$1" && return 0
  apt_update "${@:2}"
  say "apt-get install ${*:2}"
  apt_get install -y --no-install-recommends "${@:2}"
}

# suite_source SUITE: an apt source for another suite of this Debian, from the mirror this machine already uses.
suite_source() {
  local mirror key=/usr/share/keyrings/debian-archive-keyring.gpg
  mirror=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' |
    awk -v name="$VERSION_CODENAME" '$1 == name { print $2; exit }')
  [ -n "$mirror" ] || fail "apt's configuration names no mirror of $VERSION_CODENAME"
  printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$1" "$key"
}

# Where drivers and tools that only checks need are unpacked; nothing is installed for them.
tools_dir() { printf '%s\n' "${DEME_TOOLS:-${XDG_CACHE_HOME:-$HOME/.cache}/deme}"; }
