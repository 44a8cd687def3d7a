"""Make the examples again: `python space/examples/make.py`, in the repository, with scikit-image installed."""

import csv
import io
import itertools
import zipfile
from pathlib import Path

from PIL import Image

from editreward.cli.demo_groups import PHOTO_INSTRUCTION, load_photo, recolour
from editreward.simulation import SimulatedGroup, simulate_groups

FOLDER = Path(__file__).parent
BATCH_GROUPS = 5


def main() -> None:
    """Write a simulated scene, edits of a photograph, and a batch with one bad row."""
    groups = (group for group in simulate_groups(1000, split="test", seed=0) if group.language == "en")
    shown = next(group for group in groups if is_varied(group))
    scene = [("0-source.png", shown.source)]
    scene += [(f"edit-{letter}.png", c.image) for letter, c in zip("abcde", shown.candidates, strict=False)]
    write_folder("scene", shown.instruction, scene)

    photo = load_photo()
    asked = recolour(photo, hue=150)
    edits = {"as-asked": asked, "wrong-colour": recolour(photo, hue=80), "untouched": photo}
    edits["as-asked-coarse"] = asked.resize((60, 40)).resize(asked.size)
    photographs = [("0-source.jpg", photo), *((f"{name}.jpg", image) for name, image in edits.items())]
    write_folder("photograph", PHOTO_INSTRUCTION, photographs)

    with zipfile.ZipFile(FOLDER / "batch.zip", "w") as archive, open(FOLDER / "batch.csv", "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "instruction", "source", "edited", "edited_2", "edited_3"])
        for number, group in enumerate(itertools.islice(groups, BATCH_GROUPS)):
            names = [f"{number}/source.png", *(f"{number}/edit-{letter}.png" for letter in "abc")]
            for name, image in zip(names, [group.source, *(c.image for c in group.candidates)], strict=False):
                archive.writestr(zipfile.ZipInfo(name), png(image))  # ZipInfo: without the time of writing
            table.writerow([group.group_id, group.instruction, *names])
        table.writerow(["bad-row", "make it blue", "no-such-file.png", "0/edit-a.png"])


def is_varied(group: SimulatedGroup) -> bool:
    """Whether the true overall scores of the edits that are shown all differ, and one has full marks."""
    overall = [sum(candidate.scores.values()) for candidate in group.candidates[:5]]
    return len(set(overall)) == 5 and max(overall) == 8


def write_folder(name: str, instruction: str, images: list[tuple[str, Image.Image]]) -> None:
    """One group: its images and its instruction."""
    folder = FOLDER / name
    folder.mkdir(exist_ok=True)
    (folder / "instruction.txt").write_text(instruction + "\n", encoding="utf-8")
    for file, image in images:
        image.save(folder / file, quality=88)


def png(image: Image.Image) -> bytes:
    """The image as a PNG file."""
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


if __name__ == "__main__":
    main()
