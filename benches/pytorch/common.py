"""What kernels.py, unet.py and merge.py share: options, the cases, modes, timing, and the results file. Runs nothing itself.

A mode is words joined by '+', and is the row's variant: `eager`, `compiled` (torch.compile), `graphs` (compiled, with CUDA
graph replay), `tf32`, `channels_last`, `fp16`. Without `tf32` every float32 product is strict float32, cuDNN's too (its own
default is TF32).
"""

import argparse
import datetime
import gc
import json
import math
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch

WORDS = {"eager", "compiled", "graphs", "tf32", "channels_last", "fp16"}
DEFAULT_MODES = {
    "cpu": "eager,channels_last,compiled,compiled+channels_last",
    "cuda": "eager,tf32,channels_last,channels_last+tf32,compiled,compiled+channels_last+tf32,graphs,graphs+channels_last+tf32,"
    "channels_last+fp16,compiled+channels_last+fp16,graphs+channels_last+fp16",
}
CASES = Path(__file__).resolve().parents[1] / "cases.json"


def options(what, more=lambda parser: None):
    """The command line; `more` adds a script's own options."""
    parser = argparse.ArgumentParser(description=what, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--modes", help=f"a comma-separated list; by default {DEFAULT_MODES}")
    parser.add_argument("--cases", default="", metavar="FILTER", help="only cases whose id contains this")
    parser.add_argument("--heavy", action="store_true", help="the heavy cases too (on CUDA they always run)")
    parser.add_argument("--time", type=float, default=1.0, metavar="S", help="seconds to measure a row for, at least")
    parser.add_argument("--threads", type=int, help="CPU threads (by default PyTorch's own choice)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.json")
    more(parser)
    chosen = parser.parse_args()
    if chosen.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch sees no CUDA device: take --device cpu, or install a CUDA build of torch")
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    chosen.modes = [mode.split("+") for mode in (chosen.modes or DEFAULT_MODES[chosen.device]).split(",")]
    for mode in chosen.modes:
        if unknown := set(mode) - WORDS:
            parser.error(f"mode {'+'.join(mode)}: {unknown.pop()} is none of {', '.join(sorted(WORDS))}")
        if "graphs" in mode and chosen.device == "cpu":
            parser.error(f"mode {'+'.join(mode)}: graphs are CUDA's, take compiled")
    return chosen


def cases(chosen, kinds):
    """The cases of these kinds that the options ask for."""
    found = [c for c in json.loads(CASES.read_text())["cases"] if c["kind"] in kinds and chosen.cases in c["id"]]
    return [c for c in found if chosen.device == "cuda" or chosen.heavy or not c.get("heavy")]


def modes(chosen, meaningful):
    """The modes, without the words that change nothing for this kind of case, each once."""
    kept = [tuple(word for word in mode if word in meaningful) or ("eager",) for mode in chosen.modes]
    return list(dict.fromkeys(kept))


def apply(mode):
    """Sets PyTorch's switches for a mode, and forgets the last one's graphs and memory. Call before the tensors are made."""
    precision = "tf32" if "tf32" in mode else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision
    torch.backends.cudnn.benchmark = True  # cuDNN measures its algorithms in the warm-up
    torch.compiler.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def compiled(function, mode):
    if "graphs" in mode:
        return torch.compile(function, mode="reduce-overhead")
    return torch.compile(function) if "compiled" in mode else function


class Timer:
    """Times a function on one device: warm-up, then samples of enough calls that the clock's grain does not count."""

    def __init__(self, device, seconds):
        self.cuda, self.seconds = device == "cuda", seconds

    def sample(self, function, calls):
        """Seconds a call. On CUDA between two events of the stream, so that the gaps of a slow host count and its queue does not."""
        if self.cuda:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                function()
            end.record()
            end.synchronize()
            return start.elapsed_time(end) / 1e3 / calls
        start = time.perf_counter()
        for _ in range(calls):
            function()
        return (time.perf_counter() - start) / calls

    def measure(self, function):
        """{median_s, best_s, spread, runs, memory_bytes on CUDA}; five samples at least, or three where a call is slow."""
        for _ in range(3):
            function()
        once = self.sample(function, 1)
        calls = max(1, min(200, math.ceil(2e-3 / once)))
        self.sample(function, calls)
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        samples, begun = [], time.perf_counter()
        while True:
            samples.append(self.sample(function, calls))
            spent = time.perf_counter() - begun
            enough = len(samples) >= (5 if spent < 10 * self.seconds else 3)
            if len(samples) >= 200 or (enough and spent >= self.seconds):
                break
        lower, median, upper = statistics.quantiles(samples, n=4, method="inclusive")
        row = {"median_s": median, "best_s": min(samples), "spread": (upper - lower) / median, "runs": len(samples) * calls}
        return row | ({"memory_bytes": torch.cuda.max_memory_allocated()} if self.cuda else {})


class Report:
    """The results file, written anew after every row: what was measured before a crash is kept."""

    def __init__(self, chosen):
        self.path, self.timer = chosen.out, Timer(chosen.device, chosen.time)
        cuda = chosen.device == "cuda"
        settings = {
            "python": platform.python_version(), "os": platform.platform(), "threads": torch.get_num_threads(),
            "cpu_capability": torch.backends.cpu.get_cpu_capability(), "mkldnn": torch.backends.mkldnn.is_available(),
            "cudnn_benchmark": True, "sdp_flash": torch.backends.cuda.flash_sdp_enabled(),
            "sdp_mem_efficient": torch.backends.cuda.mem_efficient_sdp_enabled(), "sdp_cudnn": torch.backends.cuda.cudnn_sdp_enabled(),
            "strict_f32": "cuda.matmul and cudnn.conv fp32_precision=ieee; with tf32 in the variant, tf32",
            "seconds_per_row": chosen.time, "heavy": chosen.heavy or cuda, "load_average": os.getloadavg()[0],
        }
        for module in ("diffusers", "triton"):
            try:
                settings[module] = __import__(module).__version__
            except ImportError:
                settings[module] = None
        if cuda:
            settings |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
        self.result = {
            "engine": "pytorch", "version": torch.__version__, "device": torch.cuda.get_device_name() if cuda else processor(),
            "driver": driver() if cuda else f"CPU, {torch.get_num_threads()} threads, {settings['cpu_capability']}",
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join(["python", *sys.argv]), "settings": settings, "rows": [],
        }
        print(f"{self.result['device']}, {self.result['driver']}, torch {torch.__version__}", flush=True)

    def time(self, case, step, variant, function, flop=0, byte=0, note="", images=0):
        """One row; a mode that this device or version refuses is said so and left out."""
        try:
            row = self.timer.measure(function)
        except Exception as error:  # whatever PyTorch, a compiler or the driver raises: the other rows still count
            print(f"{case['id']} {step} {variant}: left out: {str(error).strip().splitlines()[:1]}", file=sys.stderr, flush=True)
            return
        rates = {"gflop_s": flop / row["median_s"] / 1e9} if flop else {}
        rates |= {"gb_s": byte / row["median_s"] / 1e9} if byte else {}
        rates |= {"images_s": images / row["median_s"]} if images else {}
        self.result["rows"].append({"case": case["id"], "pass": step, "variant": variant} | row | rates | {"note": note})
        shown = "  ".join(f"{value:10.2f} {name}" for name, value in rates.items())
        print(f"{case['id']:<36} {step:<17} {variant:<28} {row['median_s'] * 1e3:10.3f} ms  ±{row['spread']:4.0%}  {shown}", flush=True)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(self.result, indent=1) + "\n")

    def done(self):
        if not self.result["rows"]:
            print("error: no row was measured: does --cases fit an id of benches/cases.json, and is it heavy (--heavy)?", file=sys.stderr)
            sys.exit(3)
        print(f"{len(self.result['rows'])} rows in {self.path}")


def processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")) + f" ({os.cpu_count()} CPUs)"
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def driver():
    asked = ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"]
    try:
        answer = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        return f"NVIDIA {answer} (driver, highest SM clock, power limit), CUDA {torch.version.cuda}"
    except (OSError, subprocess.CalledProcessError, IndexError):
        return f"CUDA {torch.version.cuda}"
