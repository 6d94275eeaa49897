"""Trains a small DDPM on an atlas of 32x32 tiles, on a CPU, for hours, in as many sittings as it takes.

    .venv/bin/python scripts/emoji-base/train.py data/emoji-32 target/emoji-base/run                   # starts, or goes on
    .venv/bin/python scripts/emoji-base/train.py data/emoji-32 target/emoji-base/run --export FOLDER   # what there is now, for diffusers

Everything random in update k is drawn from (SEED, k), so a run that was killed goes on exactly as if it had not been: same images,
noise and weights. A batch is cut in `PARTS`, each with a thread of its own: beside other work this is much faster than two threads that
wait for each other in every layer, and the result does not depend on the number of cores.

In the run's folder: `state.pt` (every five minutes, replaced in one step), `log.jsonl` (training loss, rate, seconds), and for each
evaluation a line of `eval.jsonl` and the single losses in `eval/UPDATE.npy` (see evaluate.py).

The rate: warm-up, constant, falling, and a tail at a low constant rate in which it can be seen whether training still helps. `--updates`
is the planned end; the phases are fractions of it, and it may be changed between sittings as long as the rate has not begun to fall.
`--more` lengthens the tail beyond it.
"""

import argparse
import json
import os
import pathlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

import evaluate

SEED, BATCH, PARTS, STEPS = 1, 64, 2, 1000
RATE, TAIL_RATE, WARM_UP, CONSTANT, FALL = 5e-4, 3e-5, 300, 0.55, 0.25
EMA, WEIGHT_DECAY, CLIP = 0.9995, 1e-4, 1.0
SAVE_SECONDS, LOG_UPDATES, EVAL_UPDATES = 300, 100, 1000
CONFIG = {
    "sample_size": 32, "in_channels": 3, "out_channels": 3, "layers_per_block": 1, "block_out_channels": (32, 64, 128),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None, "norm_num_groups": 16, "norm_eps": 1e-6, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}


def generator(*key):
    """A generator of its own for each purpose and update; the key is mixed, so that neighbours have nothing in common."""
    mixed = 0
    for part in (SEED, *key):
        mixed = (mixed ^ part) * 0x9E3779B97F4A7C15 % 2**64
        mixed ^= mixed >> 29
    return torch.Generator().manual_seed(mixed % 2**63)


def draw(update, count):
    """Update's image numbers [B] in 0..count (a permutation an epoch), flips [B], timesteps [B], noise [B, 3, 32, 32]."""
    numbers, first = [], update * BATCH
    for epoch in range(first // count, (first + BATCH - 1) // count + 1):
        order = torch.randperm(count, generator=generator(0, epoch))
        numbers.append(order[max(first - epoch * count, 0):max(first + BATCH - epoch * count, 0)])
    own = generator(1, update)
    return (torch.cat(numbers), torch.rand(BATCH, generator=own) < 0.5, torch.randint(0, STEPS, (BATCH,), generator=own),
            torch.randn(BATCH, 3, 32, 32, generator=own))


def rate(update, updates):
    """The learning rate of an update (from 0), see the top."""
    fallen = min(max((update / updates - CONSTANT) / FALL, 0.0), 1.0)
    return min(1.0, (update + 1) / WARM_UP) * (RATE + (TAIL_RATE - RATE) * fallen)


def ema_decay(update):
    """Rises to EMA: the first weights are forgotten at once."""
    return min(EMA, (1 + update) / (10 + update))


class Run:
    """Model, averaged weights and optimizer, and where they are kept."""

    def __init__(self, folder, threads):
        self.threads = threads
        self.folder = pathlib.Path(folder)
        (self.folder / "eval").mkdir(parents=True, exist_ok=True)
        torch.manual_seed(SEED)
        self.model = UNet2DModel(**CONFIG)
        self.average = UNet2DModel(**CONFIG).requires_grad_(False)
        self.average.load_state_dict(self.model.state_dict())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY, fused=True)
        self.scheduler = DDPMScheduler(num_train_timesteps=STEPS, beta_schedule="linear", beta_start=1e-4, beta_end=0.02,
                                       variance_type="fixed_large")
        # Losses since the last line of the log.
        self.update, self.seconds, self.losses, self.planned = 0, 0.0, [], None
        if (self.folder / "state.pt").exists():
            state = torch.load(self.folder / "state.pt")
            for name in ("model", "average", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.update, self.seconds, self.losses, self.planned = (state[name] for name in ("update", "seconds", "losses", "planned"))

    def save(self):
        state = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        state |= {name: getattr(self, name) for name in ("update", "seconds", "losses", "planned")}
        torch.save(state, self.folder / "state.new")
        os.replace(self.folder / "state.new", self.folder / "state.pt")

    def forget_later_lines(self):
        """Drops the lines of updates after the saved state: they will be written again, the same."""
        for name in ("log.jsonl", "eval.jsonl"):
            path = self.folder / name
            if path.exists():
                kept = [line for line in path.read_text().splitlines(True) if json.loads(line)["update"] <= self.update]
                path.with_suffix(".new").write_text("".join(kept))
                os.replace(path.with_suffix(".new"), path)

    def write(self, name, line):
        with open(self.folder / name, "a") as file:
            file.write(json.dumps(line) + "\n")

    def step(self, images):
        """One update on `images` [n, 3, 32, 32] in [-1, 1]; returns its loss."""
        numbers, flips, t, noise = draw(self.update, len(images))
        x_0 = images[numbers]
        x_0 = torch.where(flips[:, None, None, None], x_0.flip(-1), x_0)
        x_t = self.scheduler.add_noise(x_0, noise, t)
        parameters = list(self.model.parameters())

        def part(of):
            with torch.autocast("cpu", torch.bfloat16):
                predicted = self.model(x_t[of], t[of]).sample
            loss = F.mse_loss(predicted.float(), noise[of]) / PARTS
            return loss.item(), torch.autograd.grad(loss, parameters)

        losses, gradients = zip(*self.threads.map(part, torch.arange(BATCH).chunk(PARTS)))
        for parameter, *of_parts in zip(parameters, *gradients):
            parameter.grad = sum(of_parts)
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        for group in self.optimizer.param_groups:
            group["lr"] = rate(self.update, self.planned)
        self.optimizer.step()
        torch._foreach_lerp_(list(self.average.parameters()), parameters, 1 - ema_decay(self.update))
        self.update += 1
        return sum(losses)

    def plan(self, updates):
        """Sets the planned end; errors where that would change a rate that has begun to fall."""
        if self.planned not in (None, updates) and self.update > CONSTANT * min(self.planned, updates):
            raise SystemExit(f"update {self.update} of {self.planned}: too late for --updates {updates}; --more lengthens the tail")
        self.planned = updates

    def train(self, images, judge, end):
        """Until update `end` or a signal (SIGTERM, SIGINT); saves in either case."""
        stop = []
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda number, frame: stop.append(number))
        self.forget_later_lines()
        saved = began = time.monotonic()
        before = self.seconds
        while self.update < end and not stop:
            self.losses.append(self.step(images))
            self.seconds = before + time.monotonic() - began
            if self.update % LOG_UPDATES == 0:
                self.write("log.jsonl", {"update": self.update, "loss": sum(self.losses) / len(self.losses),
                                         "rate": rate(self.update - 1, self.planned), "s": round(self.seconds, 1)})
                self.losses = []
            if self.update % EVAL_UPDATES == 0 or self.update == end:
                single = judge.losses(self.average, self.folder / "eval" / f"{self.update:06}.npy")
                self.write("eval.jsonl", {"update": self.update} | judge.summary(single))
            if time.monotonic() - saved > SAVE_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()

    def export(self, folder):
        """The averaged weights and the scheduler in diffusers' layout."""
        DDPMPipeline(self.average, self.scheduler).save_pretrained(folder)
        print(f"{folder}: the average at update {self.update} ({self.update * BATCH} images, {self.seconds / 3600:.2f} h)")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("atlas", help="data/emoji-32: that name with .webp and .tsv is read")
    parser.add_argument("folder", help="the run's folder")
    parser.add_argument("--updates", type=int, default=25_000, help=f"planned end, {BATCH} images each")
    parser.add_argument("--more", type=int, default=0, help="updates beyond it, at the tail's rate")
    parser.add_argument("--export", metavar="FOLDER", help="trains nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    threads = ThreadPoolExecutor(PARTS, initializer=torch.set_num_threads, initargs=(1,))
    run = Run(options.folder, threads)
    if options.export:
        return run.export(options.export)
    run.plan(options.updates)
    images, rows = evaluate.read(options.atlas)
    judge = evaluate.Judge(images, rows, run.scheduler, threads)
    run.train(images[[i for i, row in enumerate(rows) if row["held"] == "0"]], judge, options.updates + options.more)


if __name__ == "__main__":
    main()
