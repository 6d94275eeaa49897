#!/bin/bash
# Runs the conformance tests and `deme doctor` under several Vulkan drivers, one after the other:
#   stock        the release's own Mesa (22.3 on Debian 12), unpacked beside the installed one
#   host         the installed driver
#   swiftshader  SwiftShader, unpacked from Debian's chromium-common: no f16, 256 invocations, subgroups of 4
#   mesa26       Mesa 26 in a Debian 13 tree: cooperative matrices on a CPU (needs root, for chroot)
# Usage: scripts/conformance.sh [DRIVER...] [-- ARGUMENTS OF THE TEST BINARY]      (all four by default)
# Nothing is installed but debootstrap; drivers are kept in $DEME_TOOLS, by default ~/.cache/deme. For Debian.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
# shellcheck source=/dev/null
source /etc/os-release

drivers=()
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  case "$1" in
    stock | host | swiftshader | mesa26) drivers+=("$1") ;;
    *) sed -n '2,8s/^# \?//p' "$0" >&2; exit 2 ;;
  esac
  shift
done
[ "${1:-}" = -- ] && shift
[ ${#drivers[@]} -gt 0 ] || drivers=(stock host swiftshader mesa26)
tools=$(tools_dir)
mkdir -p "$tools"

# unpack DIR PACKAGE[=VERSION]...: the files of Debian packages, without installing them.
unpack() {
  local dir=$1
  [ ! -e "$dir/done" ] || return 0
  rm -rf "$dir"
  mkdir -p "$dir"
  apt_update
  (cd "$dir" && apt-get download -qq -o APT::Sandbox::User=root "${@:2}" && for deb in ./*.deb; do dpkg-deb -x "$deb" . && rm "$deb"; done)
  touch "$dir/done"
}

# The oldest Mesa that apt knows: the release's own, where backports are configured as well.
stock_icd() {
  local version icd
  version=$(apt-cache madison mesa-vulkan-drivers | awk -F' *[|] *' '{ print $2 }' | sort -V | head -n 1)
  unpack "$tools/stock" "mesa-vulkan-drivers=$version" >&2
  icd=$tools/stock/icd.json
  printf '{ "file_format_version": "1.0.0", "ICD": { "library_path": "%s", "api_version": "1.3.0" } }\n' \
    "$(find "$tools/stock" -name libvulkan_lvp.so)" > "$icd"
  echo "$icd"
}

swiftshader_icd() {
  unpack "$tools/swiftshader" chromium-common >&2
  find "$tools/swiftshader" -name vk_swiftshader_icd.json
}

# A Debian 13 tree with Mesa 26, made once.
mesa26_tree() {
  local tree=$tools/mesa26
  [ ! -e "$tree/done" ] || return 0
  [ "$(id -u)" = 0 ] || fail "mesa26 needs root"
  apt_install debootstrap debootstrap
  say "a Debian 13 tree in $tree (takes some minutes)"
  rm -rf "$tree"
  local mirror
  mirror=$(suite_source trixie | sed -n 's/^URIs: //p')
  debootstrap --variant=minbase --include=libvulkan1,ca-certificates trixie "$tree" "$mirror" >/dev/null
  suite_source trixie-backports > "$tree/etc/apt/sources.list.d/backports.sources"
  cp /etc/apt/apt.conf.d/* "$tree/etc/apt/apt.conf.d/" 2>/dev/null || true
  cp /etc/resolv.conf "$tree/etc/"
  in_tree "apt-get update -qq && apt-get install -y -qq -t trixie-backports mesa-vulkan-drivers >/dev/null"
  touch "$tree/done"
}

# in_tree COMMAND...: a shell command line with arguments, in the tree; this folder and the built binaries lie where they
# lie outside. The mounts are private to the command, so nothing can stay mounted.
in_tree() {
  unshare --mount bash -euc '
    tree=$1 here=$2 target=$3
    shift 3
    for dir in "$here" "$target"; do mkdir -p "$tree$dir"; mount --rbind "$dir" "$tree$dir"; done
    mount -t proc proc "$tree/proc"
    mount --rbind /dev "$tree/dev"
    mkdir -p "$tree/tmp/run"
    exec chroot "$tree" env XDG_RUNTIME_DIR=/tmp/run DEBIAN_FRONTEND=noninteractive bash -euc "cd \"$here\"; $1" "$@"
  ' in_tree "$tools/mesa26" "$PWD" "$target" "$@"
}

say "building"
target=$(cargo metadata --format-version 1 --no-deps | sed -nE 's/.*"target_directory":"([^"]*)".*/\1/p')
mkdir -p "$target"
tests=$(cargo test --release --locked --test conformance --no-run --message-format=json |
  sed -nE 's/.*"executable":"([^"]*conformance-[^"]*)".*/\1/p')
cargo build --release --locked --bin deme
deme=$target/release/deme

failed=()
for driver in "${drivers[@]}"; do
  say "driver: $driver"
  case $driver in
    host) "$deme" doctor && "$tests" "$@" || failed+=("$driver") ;;
    mesa26)
      mesa26_tree
      # shellcheck disable=SC2016
      in_tree '"$1" doctor && shift && "$@"' "$deme" "$tests" "$@" || failed+=("$driver") ;;
    *)
      icd=$("${driver}_icd")
      [ -f "$icd" ] || fail "$driver: no driver was found in what was unpacked"
      # Both names: loaders before 1.3.207 know the second only.
      (export VK_DRIVER_FILES="$icd" VK_ICD_FILENAMES="$icd"; "$deme" doctor && "$tests" "$@") || failed+=("$driver") ;;
  esac
done

say "$((${#drivers[@]} - ${#failed[@]})) of ${#drivers[@]} drivers passed${failed[*]:+; failed: ${failed[*]}}"
[ ${#failed[@]} -eq 0 ]
