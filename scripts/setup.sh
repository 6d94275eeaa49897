#!/bin/bash
# Installs what building and running deme needs and this machine lacks: a C compiler, and, where no Vulkan device answers,
# the Vulkan loader with Mesa's software driver (version 25 or newer where the release or its backports offer it; older ones
# work, four times slower). For Debian, Ubuntu and their relatives, as root or with sudo; does nothing the second time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

have cargo || fail "no Rust here: install it first (see README.md), then run this again"
if [ "$(uname)" = Darwin ]; then
  say "macOS: Metal is there, nothing to set up"
  exit 0
fi

have cc || apt_install cc build-essential

# What Vulkan offers, one line a device: type, driver's name, driver's version.
devices() {
  have vulkaninfo || return 0
  { vulkaninfo --summary 2>/dev/null || true; } | awk -F' *= *' '
    /deviceType/ { type = $2 } /driverName/ { name = $2 } /driverInfo/ { print type, name, $2 }'
}

# A GPU, or a software driver that is not an old Mesa.
good_device() {
  local type name rest
  while read -r type name rest; do
    [[ $type != *_CPU ]] && return 0
    [[ $rest =~ ^Mesa\ ([0-9]+) ]] && [ "${BASH_REMATCH[1]}" -lt 25 ] && continue
    return 0
  done < <(devices)
  return 1
}

# The version of mesa-vulkan-drivers that apt would install, from SUITE if given: its first number.
offered() {
  { apt-cache ${1:+-t "$1"} policy mesa-vulkan-drivers 2>/dev/null || true; } |
    sed -nE 's/^ *Candidate: ([0-9]+:)?([0-9]+)\..*/\2/p'
}

install_mesa() {
  local from=() version
  # shellcheck source=/dev/null
  source /etc/os-release
  version=$(offered)
  if [ -n "$(devices)" ] && [ "${ID:-}" != debian ] && [ -n "$version" ] && [ "$version" -lt 25 ]; then
    say "an old Mesa, but the newest of this release: it works, slowly"
    return 0
  fi
  apt_update mesa-vulkan-drivers
  version=$(offered)
  if [ "${version:-0}" -lt 25 ] && [ "${ID:-}" = debian ]; then
    local backports=$VERSION_CODENAME-backports
    if ! apt-get indextargets --format '$(CODENAME)' | grep -qx "$backports"; then
      say "adding the suite $backports (/etc/apt/sources.list.d/deme-backports.sources)"
      suite_source "$backports" | as_root tee /etc/apt/sources.list.d/deme-backports.sources >/dev/null
      apt_get update
    fi
    from=(-t "$backports")
    version=$(offered "$backports")
  fi
  [ -n "$version" ] || fail "this release offers no mesa-vulkan-drivers: install a Vulkan driver by hand"
  [ "$version" -ge 25 ] || say "this release offers only Mesa $version: it works, but slowly"
  say "apt-get install mesa-vulkan-drivers (Mesa $version, a software Vulkan device)"
  apt_get install -y --no-install-recommends "${from[@]}" mesa-vulkan-drivers
}

if ! good_device; then
  # A GPU's own driver may be there and lack the loader only.
  apt_install vulkaninfo libvulkan1 vulkan-tools
  good_device || install_mesa
fi

[ -n "$(devices)" ] || fail "still no Vulkan device; \`vulkaninfo --summary\` may say why"
say "set up. Vulkan devices:"
devices | sed 's/^/      /'
