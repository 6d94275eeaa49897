"""All emoji of three styles, skin tones included, at 32x32 in one image, and a table of them with a split by concept.

    .venv/bin/python scripts/emoji-base/atlas.py target/emoji-base/packages data/emoji-32      # writes .webp and .tsv

Each image is put on white and averaged over boxes (of 2x2 for Noto and Twemoji, 8x8 for Fluent). Left out: what equals an earlier image
byte for byte, and what is one colour only (deme's reader of atlases takes that for an unused tile).

A concept is one motif in every style, skin tone, hair, gender and direction; concepts with nearly coinciding images (`NEAR`) are one, so
a held-out image has no twin in training. About a tenth of the images, whole concepts drawn at random, is held out, and the tiles are so
ordered that these are exactly the ones with index % 10 == 9: deme's `--holdout 10`. Its halves `holdout-even` and `holdout-odd`, one to
search on and one to judge on, have no concept in common either.
"""

import csv
import json
import pathlib
import random
import re
import sys
from collections import Counter

import numpy as np
import torch
from PIL import Image

SIDE, COLUMNS, HOLDOUT, SEED = 32, 96, 10, 1
# Root mean square difference, in steps of 1/255, below which two images are of one concept.
NEAR = 12.0
TONES = {"1f3fb": "light", "1f3fc": "medium-light", "1f3fd": "medium", "1f3fe": "medium-dark", "1f3ff": "dark"}
# Code points that change who is shown, or how, but not what: variation selector, joiner, gender signs, arrows, hair.
VARIANTS = {"fe0f", "200d", "2640", "2642", "27a1", "2194", "2195", "1f9b0", "1f9b1", "1f9b2", "1f9b3"} | set(TONES)
PERSONS = {"1f468": "1f9d1", "1f469": "1f9d1", "1f466": "1f9d2", "1f467": "1f9d2", "1f474": "1f9d3", "1f475": "1f9d3",
           "1f385": "1f9d1-1f384", "1f936": "1f9d1-1f384", "1f478": "1fac5", "1f934": "1fac5"}
COLUMN_NAMES = ["index", "short_name", "category", "subcategory", "style", "concept", "held"]


def points(unified):
    """Lower-case code points without leading zeros: the packages write them in several ways."""
    return [p.lstrip("0") for p in re.split("[-_]", unified.lower())]


def same(unified):
    """A key under which the packages agree: without variation selectors."""
    return "-".join(p for p in points(unified) if p != "fe0f")


def concept_key(entry):
    """What an emoji is of. Families, couples and clock faces are one concept each: they differ in who, or in a hand's angle."""
    if entry["subcategory"] == "family" or entry["short_name"].startswith("clock"):
        return re.sub("[0-9]", "", entry["short_name"].split("-")[0]) if entry["subcategory"] != "family" else "family"
    kept = [PERSONS.get(p, p) for p in points(entry["unified"]) if p not in VARIANTS]
    return "-".join(kept) or same(entry["unified"])


def table(path):
    """{key: (short name with tone, category, subcategory, concept key, image file)} in the order of the emoji standard."""
    found = {}
    for entry in sorted(json.loads(path.read_text()), key=lambda e: e["sort_order"]):
        facts = (entry["category"], entry["subcategory"], concept_key(entry))
        found[same(entry["unified"])] = (entry["short_name"], *facts, entry["image"])
        for tones, variant in entry.get("skin_variations", {}).items():
            name = "-".join([entry["short_name"]] + [TONES[t] for t in points(tones)])
            found[same(variant["unified"])] = (name, *facts, variant["image"])
    return found


def shrink(path):
    """[32, 32, 3] bytes, on white; images that are not square are centred in one."""
    image = Image.open(path).convert("RGBA")
    side = max(image.size)
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return np.asarray(ground.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX))


def read(packages):
    """Rows (dicts), images [n, 32, 32, 3] and pairs of concepts that share an image; prints what was left out."""
    emoji = table(packages / "noto" / "emoji.json")
    files = {style: {key: packages / style / "img" / folder / "64" / facts[-1] for key, facts in emoji.items()}
             for style, folder in (("noto", "google"), ("twemoji", "twitter"))}
    files["fluent"] = {same(path.stem): path for path in sorted((packages / "fluent" / "assets").iterdir())}
    rows, images, seen, shared = [], [], {}, []
    for style, of in files.items():
        counts = {"kept": 0, "one colour": 0, "double": 0, "without a name": len(of.keys() - emoji.keys())}
        for key, (name, category, subcategory, concept, _) in emoji.items():
            if key not in of or not of[key].exists():
                continue
            image = shrink(of[key])
            first = seen.setdefault(image.tobytes(), concept) if (image != image[0, 0]).any() else None
            if first is None:
                counts["one colour"] += 1
            elif len(seen) == len(rows):
                counts["double"] += 1
                shared.append((first, concept))
            else:
                counts["kept"] += 1
                rows.append({"short_name": name, "category": category, "subcategory": subcategory, "style": style, "concept": concept})
                images.append(image)
        print(style, counts, flush=True)
    return rows, np.stack(images), shared


def near_pairs(images, concepts):
    """Pairs of different concepts with images less than NEAR apart, also mirrored ones: training flips at random."""
    pairs = set()
    plain, mirrored = (torch.from_numpy(np.ascontiguousarray(i)).flatten(1).float() for i in (images, images[:, :, ::-1]))
    square = plain.square().sum(1)
    for start in range(0, len(plain), 1024):
        part = slice(start, start + 1024)
        for other in (plain, mirrored):
            distance = square[part, None] + square - 2 * plain[part] @ other.T
            for i, j in (distance < NEAR**2 * plain.shape[1]).nonzero().tolist():
                if concepts[start + i] != concepts[j]:
                    pairs.add(tuple(sorted((concepts[start + i], concepts[j]))))
    return sorted(pairs)


def joined(concepts, pairs):
    """Each concept's name after joining: that of the first one of its set."""
    order = {concept: i for i, concept in enumerate(dict.fromkeys([*concepts, *(c for pair in pairs for c in pair)]))}
    parent = {concept: concept for concept in order}

    def root(concept):
        while parent[concept] != concept:
            concept = parent[concept]
        return concept

    for a, b in pairs:
        first, second = sorted((root(a), root(b)), key=order.get)
        parent[second] = first
    return [root(concept) for concept in concepts]


def draw(concepts, count):
    """Whole concepts, at random, of exactly `count` images together."""
    sizes = Counter(concepts)
    drawn, left = set(), count
    for concept in random.Random(SEED).sample(sorted(sizes), len(sizes)):
        if sizes[concept] <= left:
            drawn.add(concept)
            left -= sizes[concept]
    assert left == 0, f"{left} more images should be drawn, and no concept is that small"
    return drawn


def main(packages, target):
    rows, images, shared = read(pathlib.Path(packages))
    keys = [row["concept"] for row in rows]
    near = near_pairs(images, keys)
    keys = joined(keys, shared + near)
    drawn = draw(keys, len(keys) // HOLDOUT)
    odd = draw([key for key in keys if key in drawn], len(keys) // HOLDOUT // 2)
    names = {}
    for row, key in zip(rows, keys):
        names.setdefault(key, row["short_name"])
        row |= {"concept": names[key], "held": int(key in drawn)}
    parts = [[], [], []]
    for i, key in enumerate(keys):
        parts[(key in drawn) + (key in odd)].append(i)
    trained, held_even, held_odd = map(iter, parts)
    order = [next(trained if at % HOLDOUT != HOLDOUT - 1 else held_odd if at // HOLDOUT % 2 else held_even) for at in range(len(rows))]

    atlas = np.full((-(-len(rows) // COLUMNS) * SIDE, COLUMNS * SIDE, 3), 255, np.uint8)
    for at, i in enumerate(order):
        y, x = at // COLUMNS * SIDE, at % COLUMNS * SIDE
        atlas[y:y + SIDE, x:x + SIDE] = images[i]
    # Lossless; an eighth smaller than the PNG.
    Image.fromarray(atlas).save(f"{target}.webp", lossless=True, quality=100, method=6)
    with open(f"{target}.tsv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMN_NAMES, delimiter="\t", lineterminator="\n")
        writer.writeheader()
        writer.writerows({"index": at} | rows[i] for at, i in enumerate(order))
    sizes = Counter(row["concept"] for row in rows)
    print(f"{len(rows)} images, {len(sizes)} concepts ({len(near)} near pairs joined), the largest {sizes.most_common(8)}; "
          f"held out {sum(row['held'] for row in rows)} images of {len(drawn)} concepts, "
          f"by style {dict(Counter(row['style'] for row in rows if row['held']))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
