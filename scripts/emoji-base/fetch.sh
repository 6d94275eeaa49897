#!/bin/bash
# Fetches the three emoji packages that atlas.py reads, by npm, with versions and hashes pinned; does nothing the second time.
#   scripts/emoji-base/fetch.sh [FOLDER]      (target/emoji-base/packages; 152 MB fetched, 84 MB kept)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/lib.sh

folder=${1:-target/emoji-base/packages}
have npm || fail "npm fetches the packages: install it first"
mkdir -p "$folder"

# fetch STYLE PACKAGE VERSION SHA256 FILES...: unpacks those files of the package into FOLDER/STYLE, all or nothing.
fetch() {
  local style=$1 package=$2 version=$3 sum=$4 work
  shift 4
  [ ! -d "$folder/$style" ] || return 0
  say "$package $version"
  work=$(mktemp -d "$folder/.fetch-XXXXXX")
  (cd "$work" && npm pack --silent "$package@$version" >/dev/null)
  mv "$work"/*.tgz "$work/package.tgz"
  echo "$sum  $work/package.tgz" | sha256sum --check --quiet || fail "$package $version is not the one that was pinned"
  mkdir "$work/unpacked"
  tar -xzf "$work/package.tgz" -C "$work/unpacked" --strip-components=1 --wildcards "$@"
  mv "$work/unpacked" "$folder/$style"
  rm -r "$work"
}

fetch noto emoji-datasource-google 16.0.0 fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438 \
  'package/img/google/64/*.png' package/emoji.json
fetch twemoji emoji-datasource-twitter 16.0.0 f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877 \
  'package/img/twitter/64/*.png'
fetch fluent @lobehub/fluent-emoji-3d 1.1.0 c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58 \
  'package/assets/*.webp'
say "the packages are in $folder"
