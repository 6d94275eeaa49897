"""How well weights denoise images that training never saw, beside as many that it did; called by train.py. By itself:

    .venv/bin/python scripts/emoji-base/evaluate.py data/emoji-32 target/emoji-base/run

prints a run's evaluations and, for each, how much the held-out loss then differs from the last one's: paired, image by image. Where these
differences are within two standard errors of 0, training has stopped helping.

Images, timesteps (one an image and range) and noise are the same in every evaluation. Each held-out image has a partner from training,
of its style and subcategory where there is one, with the same timesteps and noise. Standard errors take a concept's images
(styles, skin tones) as one observation: they are alike.
"""

import csv
import json
import pathlib
import random
import sys

import numpy as np
import torch
from PIL import Image

SIDE, RANGES, SEED, BATCH = 32, 4, 2, 64


def read(atlas):
    """Images [n, 3, 32, 32] in [-1, 1] and the table's rows."""
    with open(f"{atlas}.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    tiles = np.asarray(Image.open(f"{atlas}.webp").convert("RGB"))
    tiles = tiles.reshape(tiles.shape[0] // SIDE, SIDE, -1, SIDE, 3).transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)[:len(rows)]
    return torch.from_numpy(tiles.copy()).float() / 127.5 - 1, rows


def partners(rows, held):
    """For each held-out image a training image, none twice."""
    rng = random.Random(SEED)
    free = [i for i, row in enumerate(rows) if row["held"] == "0"]
    rng.shuffle(free)
    alike, found = {}, []
    for i in free:
        for key in ((rows[i]["style"], rows[i]["subcategory"]), (rows[i]["style"],)):
            alike.setdefault(key, []).append(i)
    taken = set()
    for i in held:
        wanted = ((rows[i]["style"], rows[i]["subcategory"]), (rows[i]["style"],))
        partner = next(j for key in wanted for j in alike.get(key, ()) if j not in taken)
        taken.add(partner)
        found.append(partner)
    return found


def mean_and_error(values, concepts):
    """Mean over the last axis and its standard error, [R] each, of values [R, n]; each concept is one observation."""
    _, group = np.unique(concepts, return_inverse=True)
    mean = values.mean(-1)
    sums = np.stack([np.bincount(group, row) for row in values - mean[:, None]])
    count = sums.shape[1]
    return mean, np.sqrt((sums**2).sum(-1) * count / (count - 1)) / values.shape[-1]


class Judge:
    """Fixed images, timesteps and noise."""

    def __init__(self, images, rows, scheduler, threads):
        held = [i for i, row in enumerate(rows) if row["held"] == "1"]
        self.concepts = [rows[i]["concept"] for i in held]
        own = torch.Generator().manual_seed(SEED)
        width = scheduler.config.num_train_timesteps // RANGES
        self.t = torch.stack([torch.randint(r * width, (r + 1) * width, (len(held),), generator=own) for r in range(RANGES)])
        self.noise = torch.randn(len(held), 3, SIDE, SIDE, generator=own)
        self.images = [images[held], images[partners(rows, held)]]
        self.scheduler, self.threads = scheduler, threads

    def losses(self, model, path):
        """Mean squared error of each image in each range, f32 [held-out or partner, RANGES, n]; kept in `path`."""
        model.eval()

        def part(of):
            x_0, t, noise = of
            with torch.no_grad():
                return (model(self.scheduler.add_noise(x_0, noise, t), t).sample - noise).square().mean((1, 2, 3))

        work = [(x_0, t, noise) for images in self.images for row in self.t
                for x_0, t, noise in zip(images.split(BATCH), row.split(BATCH), self.noise.split(BATCH))]
        found = torch.cat(list(self.threads.map(part, work))).reshape(2, RANGES, -1).numpy()
        np.save(path, found)
        return found

    def summary(self, single):
        """Held-out and partners' mean loss by range, and the first less the second with its standard error."""
        held, train = single.astype(np.float64)
        gap, error = mean_and_error(held - train, self.concepts)
        named = {"held": held.mean(-1), "held_se": mean_and_error(held, self.concepts)[1], "train": train.mean(-1),
                 "gap": gap, "gap_se": error}
        return {name: [float(f"{v:.6g}") for v in values] for name, values in named.items()}


def table(atlas, folder):
    """Prints what the top says."""
    concepts = [row["concept"] for row in read(atlas)[1] if row["held"] == "1"]
    folder = pathlib.Path(folder)
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text().splitlines()]
    singles = {line["update"]: np.load(folder / "eval" / f"{line['update']:06}.npy").astype(np.float64) for line in lines}
    last = singles[lines[-1]["update"]][0]

    def row(name, cells):
        print(f"{name:>7}" + "".join(f"{cell:>19}" for cell in cells))

    print("Held-out loss by range of timesteps; gap: held-out less training, %; last: held-out less the last one, % (two standard errors)")
    row("update", [f"{1000 // RANGES * r}..{1000 // RANGES * (r + 1)}" for r in range(RANGES)])
    for line in lines:
        change, error = mean_and_error(singles[line["update"]][0] - last, concepts)
        row(line["update"], [f"{h:.6f}" for h in line["held"]])
        row("gap", [f"{100 * g / t:+.1f} ({200 * e / t:.1f})" for g, e, t in zip(line["gap"], line["gap_se"], line["train"])])
        row("last", [f"{100 * c / h:+.2f} ({200 * e / h:.2f})" for c, e, h in zip(change, error, last.mean(-1))])


if __name__ == "__main__":
    table(*sys.argv[1:])
