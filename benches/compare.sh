#!/bin/bash
# Times deme and its peers, whatever is present, one after the other on this machine, and prints the ratios.
#   benches/compare.sh [--device cpu|gpu] [--cases FILTER] [--heavy] [--time S] [--threads N] [--build] [--out DIR]
# --device   gpu: PyTorch on CUDA and everybody's default adapter; cpu: PyTorch on the CPU and a software adapter for burn
#            (by default gpu where PyTorch sees CUDA or nvidia-smi is there)
# --cases    only cases whose id contains FILTER, e.g. conv2d or unet/ddpm-cifar10
# --heavy    on a CPU, the heavy cases too
# --time     seconds a row                     --build    builds deme and the peers first (burn alone takes an hour on two cores)
# --threads  PyTorch's on the CPU: where other programs run too, two threads wait for each other at every step, and one is faster
# --out      where the results go, by default out/bench: one JSON file an engine, each with device, driver, version and command
# Present means: target/release/deme (or $DEME), a python with torch ($PYTHON, .venv/bin/python or python3; benches/pytorch/requirements.txt),
# benches/peers/target/release/{burn-wgpu,burn-vulkan} (or that folder elsewhere: $PEERS). What is missing is said and left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

device='' cases='' seconds='' threads='' out=out/bench heavy=() build=
while [ $# -gt 0 ]; do
  case "$1" in
    --heavy) heavy=(--heavy) ;;
    --build) build=1 ;;
    --device | --cases | --time | --threads | --out)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --device) device=$2 ;; --cases) cases=$2 ;; --time) seconds=$2 ;; --threads) threads=$2 ;; --out) out=$2 ;;
      esac
      shift
      ;;
    *) sed -n '2,13s/^# \?//p' "$0" >&2; exit 2 ;;
  esac
  shift
done

deme=${DEME:-target/release/deme}
peers=${PEERS:-benches/peers/target/release}
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
torch() { "$python" -c "import sys, torch; sys.exit(not ($1))" 2>/dev/null; }
if [ -z "$device" ]; then
  device=cpu
  if torch 'torch.cuda.is_available()' || have nvidia-smi; then device=gpu; fi
fi
case "$device" in
  cpu) torch_device=cpu adapter=cpu ;;
  gpu) torch_device=cuda adapter=default ;;
  *) fail "--device $device: cpu or gpu" ;;
esac

if [ -n "$build" ]; then
  say "building deme and the peers"
  cargo build --release
  # With burn's vulkan feature its plain wgpu device takes SPIR-V too, so there are two builds of one program.
  target=$(cd benches/peers && cargo metadata --format-version 1 --no-deps | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
  peers=$target
  (cd benches/peers && cargo build --release --locked --bin burn) && cp "$target/burn" "$target/burn-wgpu"
  (cd benches/peers && cargo build --release --locked --bin burn --features vulkan) && cp "$target/burn" "$target/burn-vulkan"
fi

# The ids of the whole networks that are wanted, a line each.
networks() {
  local left_out='"heavy": true'
  if [ $device = gpu ] || [ ${#heavy[@]} != 0 ]; then left_out='^$'; fi
  grep '"unet"' benches/cases.json | grep -v "$left_out" | sed 's/.*"id": "\([^"]*\)".*/\1/' | grep -F -- "$cases" || true
}

mkdir -p "$out"
files=()
# engine NAME COMMAND...: its results go to $out/NAME.json; a command that fails costs its own rows, not the others'.
engine() {
  local file=$out/$1.json status=0
  say "$1"
  rm -f "$file"
  "${@:2}" --out "$file" ${seconds:+--time "$seconds"} || status=$?
  if [ $status = 3 ]; then say "$1 has no such case"
  elif [ $status != 0 ]; then say "$1 ended with status $status; going on with what it had measured"
  fi
  [ ! -e "$file" ] || files+=("$file")
}

if [ -x "$deme" ]; then
  engine deme-kernels "$deme" bench kernels ${cases:+--filter "$cases"} "${heavy[@]}"
  # Each configuration with its batch sizes, of the cases that are wanted.
  for config in $(networks | cut -d/ -f2 | sort -u); do
    batch=$(networks | sed -n "s|^unet/$config/b||p" | paste -sd,)
    engine "deme-unet-$config" "$deme" bench unet --config "$config" --batch "$batch"
  done
else
  say "deme is missing: no $deme (cargo build --release, or --build)"
fi

if ! torch True; then
  say "PyTorch is missing: $python imports no torch (pip install -r benches/pytorch/requirements.txt)"
elif [ $torch_device = cuda ] && ! torch 'torch.cuda.is_available()'; then
  say "PyTorch is left out: it sees no CUDA device (--device cpu times it on the CPU)"
else
  for script in kernels merge unet; do
    engine "pytorch-$script" "$python" "benches/pytorch/$script.py" --device $torch_device ${cases:+--cases "$cases"} \
      ${threads:+--threads "$threads"} "${heavy[@]}"
  done
fi

for peer in burn-wgpu burn-vulkan; do
  if [ -x "$peers/$peer" ]; then
    engine "$peer" "$peers/$peer" --adapter $adapter ${cases:+--cases "$cases"} "${heavy[@]}"
  else
    say "$peer is missing: no $peers/$peer (--build makes it)"
  fi
done

[ ${#files[@]} != 0 ] || fail "nothing was measured"
if [ -x "$deme" ]; then
  "$deme" bench compare "${files[@]}"
else
  say "no table without deme; the results: ${files[*]}"
fi
