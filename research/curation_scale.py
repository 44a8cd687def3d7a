"""Time and memory of `editreward curate` on many triples: simulated images, used again in many rows, in shards.

python -m research.curation_scale --edits 46000 --images 400 --work out/scale --scorer pixels
"""

import editreward.scripts

import argparse
import io
import json
import random
import resource
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from editreward.simulation import simulate_group

ROWS_PER_SHARD = 5_000
SIZE = 112


def images(groups: int) -> tuple[list[bytes], list[bytes], list[str]]:
    """Sources, edits and instructions of simulated groups, images as PNG."""
    sources, edits, instructions = [], [], []
    for seed in range(groups):
        group = simulate_group(seed, "test", size=SIZE)
        sources.append(_png(group.source))
        edits += [_png(candidate.image) for candidate in group.candidates]
        instructions.append(group.instruction)
    return sources, edits, instructions


def _png(image: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "PNG")  # type: ignore[attr-defined]
    return out.getvalue()


def members(number: int, sources: list[bytes], edits: list[bytes], texts: list[str]) -> Iterator[tuple[str, bytes]]:
    """The files of a row: a source, any edit and any instruction; a tenth of the rows is one that was there before."""
    rng = random.Random(number if number % 10 else number // 2)
    told = {"instruction": f"{rng.choice(texts)} ({rng.randrange(1000)})", "category": f"c{rng.randrange(12)}"}
    yield f"{number:06d}.source.png", rng.choice(sources)
    yield f"{number:06d}.edited.png", rng.choice(edits)
    yield f"{number:06d}.json", json.dumps(told).encode()


def write_shards(folder: Path, rows: int, groups: int) -> None:
    """Write the rows as WebDataset shards."""
    folder.mkdir(parents=True, exist_ok=True)
    pool = images(groups)
    for start in range(0, rows, ROWS_PER_SHARD):
        with tarfile.open(folder / f"{start // ROWS_PER_SHARD:05d}.tar", "w") as shard:
            for number in range(start, min(rows, start + ROWS_PER_SHARD)):
                for name, data in members(number, *pool):
                    information = tarfile.TarInfo(name)
                    information.size = len(data)
                    shard.addfile(information, io.BytesIO(data))


def main() -> None:
    """Write shards, curate them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edits", type=int, default=46_000)
    parser.add_argument("--images", type=int, default=400, help="distinct simulated groups that the images are of")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--scorer", default="editreward")
    args = parser.parse_args()
    shards, output = args.work / "shards", args.work / "kept"
    if not shards.exists():
        write_shards(shards, args.edits, args.images)
    words = ["curate", str(shards), "--output", str(output), "--scorer", args.scorer, "--deduplicate"]
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "editreward.cli", *words, "--top-k", "20000"], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{args.edits} edits: {time.monotonic() - start:.0f} s, {used.ru_utime + used.ru_stime:.0f} s of computing, "
        f"{used.ru_maxrss / 1024:.0f} MB at most"
    )


if __name__ == "__main__":
    main()
