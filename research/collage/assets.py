r"""Builds `editreward/simulation/collage.zip`: drawings, photographs, names and licences of the collage world.

It installs nothing: it unpacks registry packages into a folder and reads them there. It needs npm, apt-get, dpkg-deb
and, beside the package, `pip install resvg_py==0.5.0`.

    python -m research.collage.assets --work runs/collage
"""

import argparse
import io
import json
import re
import subprocess
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from editreward.simulation.collage.assets import ASSETS, COLUMNS, SPRITE, STYLES
from editreward.simulation.collage.drawing import near_colours
from editreward.simulation.collage.effects import weak_effects
from research.collage.licences import Licence, read_licences
from research.collage.qt_resources import read_resources

HERE = Path(__file__).parent
NPM = (
    "@iconify-json/noto@1.2.9",
    "@iconify-json/fluent-emoji@1.2.7",
    "@lobehub/fluent-emoji-3d@1.1.0",
    "@iconify-json/twemoji@1.2.5",
    "emojibase-data@17.0.0",
)
DEBIAN = "gcompris-qt-data"
RENDERED = 160
"""Side at which a drawing is rendered before it is trimmed."""
PHOTOGRAPH = 224
"""Short side of a bundled photograph; the long one is at most 1.4 times as long."""
LONGEST = 1.4
DATE = (1980, 1, 1, 0, 0, 0)

LICENCES = """# Licences of collage.zip

Drawings, cut out and made smaller; each is used under the licence of its set.

| in this file | set | licence |
|---|---|---|
| `drawings/noto.webp` | Noto Emoji, Google Inc, https://github.com/googlefonts/noto-emoji | Apache-2.0 |
| `drawings/fluent.webp` | Fluent Emoji, Microsoft Corporation, https://github.com/microsoft/fluentui-emoji | MIT |
| `drawings/fluent-3d.webp` | the same in 3D, packed by LobeHub | MIT |
| `drawings/twemoji.webp` | Twemoji, Twitter, Inc and others, https://github.com/jdecked/twemoji | CC-BY-4.0 |
| labels in `names.json` | emojibase, Miles Johnson, from CLDR, Unicode, Inc | MIT; Unicode License v3 |

Apache-2.0: https://www.apache.org/licenses/LICENSE-2.0, CC-BY-4.0: https://creativecommons.org/licenses/by/4.0/,
Unicode: https://www.unicode.org/license.txt. MIT, for Fluent Emoji (Copyright (c) Microsoft Corporation; Copyright (c)
LobeHub) and emojibase (Copyright (c) Miles Johnson):

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions: The above copyright notice and
this permission notice shall be included in all copies or substantial portions of the Software. THE SOFTWARE IS
PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT
HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE,
ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.

Photographs, made smaller, as the Debian package gcompris-qt-data (GCompris, https://gcompris.net) has them:

| in this file | author | source | licence |
|---|---|---|---|
"""


def unpack(work: Path) -> tuple[dict[str, Path], Path]:
    """The folders of the npm packages, by name, and that of the files of the Debian package."""
    packages = {}
    for wanted in NPM:
        name = wanted.rsplit("@", 1)[0]
        folder = work / name.replace("/", "-")
        if not folder.exists():
            command = ["npm", "pack", "--silent", "--pack-destination", str(work), wanted]
            archive = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
            folder.mkdir()
            subprocess.run(["tar", "-xzf", work / archive, "-C", folder, "--strip-components=1"], check=True)
        packages[name] = folder
    files = work / DEBIAN
    if not files.exists():
        subprocess.run(["apt-get", "download", DEBIAN], cwd=work, check=True)
        (package,) = work.glob(f"{DEBIAN}_*.deb")
        subprocess.run(["dpkg-deb", "-x", package, work / "debian"], check=True)
        for path in sorted((work / "debian").rglob("*.rcc")):
            for name, content in read_resources(path):
                if name.endswith((".webp", "README")):
                    target = files / name.split("src/activities/")[-1].lstrip("/")
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
    return packages, files


def read_names() -> list[dict[str, Any]]:
    """The names that are drawn, from names.txt."""
    names: list[dict[str, Any]] = []
    kind = ""
    for line in (HERE / "names.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            code, english, chinese, *cluster = line.split()
            english = english.replace("_", " ")
            names.append(
                {"name": english, "zh": chinese, "code": code, "kind": kind, "cluster": (*cluster, english)[0]}
            )
    return names


@cache
def _labels(folder: Path) -> dict[str, dict[str, str]]:
    """Language to code point to label."""
    found = {}
    for path in sorted(folder.glob("*/compact.json")):
        entries = json.loads(path.read_text(encoding="utf-8"))
        found[path.parent.name] = {entry["hexcode"].removesuffix("-FE0F"): entry["label"] for entry in entries}
    return found


def labels(code: str, folder: Path) -> dict[str, str]:
    """The labels of an emoji in every language of emojibase; the first where there are several."""
    by_language = _labels(folder)
    return {
        language: entries[code.upper()].split(",")[0].strip()
        for language, entries in by_language.items()
        if code.upper() in entries
    }


@cache
def _icons(folder: Path) -> dict[str, Any]:
    icons: dict[str, Any] = json.loads((folder / "icons.json").read_text(encoding="utf-8"))
    return icons


def _vector(folder: Path, key: str) -> Image.Image:
    """A drawing of an Iconify set."""
    import resvg_py  # type: ignore[import-not-found]

    icons = _icons(folder)
    icon = icons["icons"][icons.get("aliases", {}).get(key, {}).get("parent", key)]
    width, height = icon.get("width", icons.get("width", 16)), icon.get("height", icons.get("height", 16))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=RENDERED, height=RENDERED)
    return Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")


def _trimmed(drawing: Image.Image) -> Image.Image:
    """The drawing without its margins, in the middle of the bottom of a square of the side `SPRITE`."""
    solid = drawing.getchannel("A").point([255 if value > 24 else 0 for value in range(256)])
    cut = drawing.crop(solid.getbbox())
    scale = SPRITE / max(cut.size)
    cut = cut.resize((max(1, round(cut.width * scale)), max(1, round(cut.height * scale))), Image.Resampling.LANCZOS)
    square = Image.new("RGBA", (SPRITE, SPRITE))
    square.paste(cut, ((SPRITE - cut.width) // 2, SPRITE - cut.height))
    return square


def drawings(names: list[dict[str, Any]], packages: dict[str, Path]) -> dict[str, list[Image.Image]]:
    """By style, the drawings of all names."""
    characters = json.loads((packages["@iconify-json/noto"] / "chars.json").read_text(encoding="utf-8"))
    twitter = json.loads((packages["@iconify-json/twemoji"] / "chars.json").read_text(encoding="utf-8"))
    fluent = packages["@iconify-json/fluent-emoji"]
    rendered = packages["@lobehub/fluent-emoji-3d"] / "assets"
    drawn: dict[str, list[Image.Image]] = {style: [] for style in STYLES}
    for entry in names:
        code = entry["code"]
        key, other = (found.get(code) or found[f"{code}-fe0f"] for found in (characters, twitter))
        file = next(path for suffix in ("", "-fe0f") if (path := rendered / f"{code}{suffix}.webp").exists())
        pictures = {
            "noto": _vector(packages["@iconify-json/noto"], key),
            "fluent": _vector(fluent, entry["fluent"]),
            "fluent-3d": Image.open(file).convert("RGBA"),
            "twemoji": _vector(packages["@iconify-json/twemoji"], other),
        }
        for style, picture in pictures.items():
            drawn[style].append(_trimmed(picture))
    return drawn


def photographs(files: Path) -> list[tuple[dict[str, str], Image.Image]]:
    """The photographs of photographs.txt, made smaller, with kind, author, source and licence."""
    taken = []
    kind = ""
    for line in (HERE / "photographs.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            kind = line.strip("[]")
        elif line and not line.startswith("#"):
            folder, names = line.split(": ")
            for name in names.split():
                path = files / folder / f"{name}.webp"
                said = _licence(path)
                if not said.is_free:
                    raise ValueError(f"{path}: {said.licence} is not free of conditions.")
                about = {"kind": kind, "subject": name, "author": said.author, "source": said.source}
                taken.append(({**about, "licence": said.licence}, _smaller(Image.open(path).convert("RGB"))))
    return taken


def _licence(path: Path) -> Licence:
    """What the nearest README above says of a file."""
    for folder in path.parents:
        if (folder / "README").exists():
            return read_licences(folder / "README")[path.name]
    raise FileNotFoundError(f"no README above {path}")


def _smaller(image: Image.Image) -> Image.Image:
    """The middle of an image, at most `LONGEST` times as long as wide, its short side `PHOTOGRAPH`."""
    short = min(image.size)
    width, height = (min(side, round(LONGEST * short)) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    cut = image.crop((left, top, left + width, top + height))
    scale = min(1.0, PHOTOGRAPH / short)
    return cut.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)


def _webp(image: Image.Image, quality: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, alpha_quality=90, method=4)
    return buffer.getvalue()


def _atlas(pictures: list[Image.Image]) -> Image.Image:
    """All drawings of a style in one picture, row by row."""
    rows = -(-len(pictures) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * SPRITE, rows * SPRITE))
    for index, picture in enumerate(pictures):
        atlas.paste(picture, (index % COLUMNS * SPRITE, index // COLUMNS * SPRITE))
    return atlas


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/collage"), help="where packages are unpacked")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    packages, files = unpack(args.work.resolve())
    names = read_names()
    fluent = _icons(packages["@iconify-json/fluent-emoji"])
    for entry in names:
        entry["labels"] = labels(entry["code"], packages["emojibase-data"])
        entry["fluent"] = re.sub(r"[^a-z0-9]+", "-", entry["labels"]["en"].lower().replace("’", ""))
    missing = [entry["fluent"] for entry in names if entry["fluent"] not in fluent["icons"]]
    if missing:
        raise ValueError(f"Fluent Emoji has other names for {', '.join(missing)}.")
    drawn = drawings(names, packages)
    for index, entry in enumerate(names):
        entry["avoid"] = near_colours([drawn[style][index] for style in STYLES])
        del entry["fluent"]
    contents: dict[str, bytes] = {}
    about = []
    rows = LICENCES
    for index, (said, image) in enumerate(photographs(files)):
        file = f"photographs/{index:03d}.webp"
        contents[file] = _webp(image, 72)
        about.append({"kind": said["kind"], "subject": said["subject"], "weak": weak_effects(image)})
        rows += f"| `{file}` | {said['author']} | {said['source']} | {said['licence']} |\n"
    contents |= {f"drawings/{style}.webp": _webp(_atlas(drawn[style]), 86) for style in STYLES}
    contents["names.json"] = json.dumps(names, ensure_ascii=False, separators=(",", ":")).encode()
    contents["photographs.json"] = json.dumps(about, ensure_ascii=False, separators=(",", ":")).encode()
    contents["LICENCES.md"] = rows.encode()
    with zipfile.ZipFile(ASSETS, "w") as archive:
        for name in sorted(contents):
            kind = zipfile.ZIP_DEFLATED if name.endswith((".json", ".md")) else zipfile.ZIP_STORED
            archive.writestr(zipfile.ZipInfo(name, DATE), contents[name], kind)
    print(f"{ASSETS}: {ASSETS.stat().st_size / 1e6:.2f} MB, {len(names)} names, {len(about)} photographs")


if __name__ == "__main__":
    main()
