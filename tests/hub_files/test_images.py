"""Any image to RGB: forms, formats, modes, orientation, transparency, colours; and what is refused."""

import base64
import io
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
import weakref
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pytest
import torch
from PIL import BmpImagePlugin, EpsImagePlugin, Image, ImageCms, ImageOps

import images_editreward
from images_editreward import ImageError, load_image
from processing_editreward import EditRewardProcessor
from tests.helpers.backbones import build_processor, make_image


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(image: Any, **options: Any) -> np.ndarray:
    loaded = load_image(image, **options)
    assert loaded.mode == "RGB"
    return np.asarray(loaded).astype(int)


RGB = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)
ALPHA = np.random.default_rng(1).integers(0, 256, (6, 9), dtype=np.uint8)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a web server on this machine: /image.png is one, all else is missing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = self.path == "/image.png"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(encoded(Image.fromarray(RGB)) if found else b"")

        def log_message(self, *args: Any) -> None:
            pass

    web = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "127.0.0.1")
        yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    web.server_close()


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path, server):
    path = tmp_path / "image.png"
    path.write_bytes(encoded(Image.fromarray(RGB)))
    data = path.read_bytes()
    tensor = torch.from_numpy(RGB)
    forms = {
        "PIL": Image.fromarray(RGB),
        "path": path,
        "str": str(path),
        "url": f"{server}/image.png",
        "bytes": data,
        "bytearray": bytearray(data),
        "memoryview": memoryview(data),
        "bytes of datasets": {"bytes": data, "path": "gone.png"},
        "uint8": RGB,
        "int64": RGB.astype(np.int64),
        "uint16": RGB.astype(np.uint16) * 257,
        "float64": RGB / 255,
        "float16": (RGB / 255).astype(np.float16),
        "not contiguous": np.ascontiguousarray(RGB[:, ::-1])[:, ::-1],
        "tensor": tensor,
        "channels first": tensor.permute(2, 0, 1),
        "float32 tensor": (tensor / 255).permute(2, 0, 1).requires_grad_(),
    }
    for name, form in forms.items():
        assert np.array_equal(pixels(form), RGB), name
    # bfloat16 holds 8 bits of mantissa.
    assert np.abs(pixels((tensor / 255).to(torch.bfloat16)) - RGB).max() <= 1


def test_grey_and_transparent_arrays_are_read_as_such():
    grey, alpha = RGB[..., 0], np.dstack([RGB, ALPHA])
    expected = np.repeat(grey[..., None], 3, axis=-1)
    for form in (grey, grey[..., None], torch.from_numpy(grey), torch.from_numpy(grey)[None], grey / 255):
        assert np.array_equal(pixels(form), expected)
    assert np.array_equal(pixels(grey > 100), np.where(expected > 100, 255, 0))
    for form in (alpha, torch.from_numpy(alpha).permute(2, 0, 1), alpha / 255):
        assert np.abs(pixels(form) - on_white(RGB, ALPHA)).max() <= 1


UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_images_are_turned_upright_by_their_exif_orientation(format, orientation):
    options = {"lossless": True} if format == "WEBP" else {}
    stored = pixels(encoded(Image.fromarray(RGB), format, **options))
    assert format == "JPEG" or np.array_equal(stored, RGB)
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = encoded(Image.fromarray(RGB), format, exif=exif, **options)
    assert np.array_equal(pixels(turned), UPRIGHT[orientation](stored))
    if format != "TIFF":  # which Pillow turns by itself
        assert np.array_equal(pixels(turned, image_mode="reference"), stored)


def transparent_images() -> dict[str, tuple[bytes, np.ndarray]]:
    """Encoded images with what they look like on white."""
    rgb, alpha = Image.fromarray(RGB), Image.fromarray(ALPHA)
    grey = Image.fromarray(RGB[..., 0])
    grey_as_rgb = np.repeat(RGB[..., :1], 3, axis=-1)
    colours = np.array([[200, 10, 30], [5, 250, 60], [90, 80, 255]], dtype=np.uint8)
    indices = np.random.default_rng(2).integers(0, 3, (6, 9))
    palette = Image.new("P", (9, 6))
    palette.putdata(indices.ravel().tolist())
    palette.putpalette(colours.ravel().tolist())
    two_colours = np.where(indices[..., None] > 0, [1, 2, 3], [250, 100, 0]).astype(np.uint8)
    return {
        "RGBA": (encoded(Image.merge("RGBA", [*rgb.split(), alpha])), on_white(RGB, ALPHA)),
        "LA": (encoded(Image.merge("LA", [grey, alpha])), on_white(grey_as_rgb, ALPHA)),
        "palette with one transparent entry": (
            encoded(palette, transparency=1),
            on_white(colours[indices], np.where(indices == 1, 0, 255)),
        ),
        "palette with alpha": (
            encoded(palette, transparency=bytes([10, 128, 255])),
            on_white(colours[indices], np.array([10, 128, 255])[indices]),
        ),
        "GIF": (
            encoded(palette, "GIF", transparency=2),
            on_white(colours[indices], np.where(indices == 2, 0, 255)),
        ),
        "RGB with a transparent colour": (
            encoded(Image.fromarray(two_colours), transparency=(1, 2, 3)),
            on_white(two_colours, np.where(indices > 0, 0, 255)),
        ),
        "grey with a transparent level": (
            encoded(Image.fromarray(two_colours[..., 0]), transparency=250),
            on_white(np.repeat(two_colours[..., :1], 3, axis=-1), np.where(indices > 0, 255, 0)),
        ),
        "WebP": (
            encoded(Image.merge("RGBA", [*rgb.split(), alpha]), "WEBP", lossless=True, exact=True),
            on_white(RGB, ALPHA),
        ),
    }


@pytest.mark.parametrize("name", transparent_images())
def test_transparency_is_composited_on_white(name):
    data, expected = transparent_images()[name]
    assert np.abs(pixels(data) - expected).max() <= 1
    as_it_is = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(pixels(data, image_mode="reference"), as_it_is)


@pytest.mark.parametrize("most", [255, 4000, 65535])
@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(format, most):
    levels = np.random.default_rng(3).integers(0, most + 1, (6, 9)).astype(np.uint16)
    expected = np.repeat((levels / 257)[..., None], 3, axis=-1)
    assert np.abs(pixels(encoded(Image.fromarray(levels), format)) - expected).max() <= 0.5
    assert np.abs(pixels(levels) - expected).max() <= 0.5


def test_wide_and_float_images_are_scaled_to_eight_bits():
    levels = np.linspace(0, 65535, 54).reshape(6, 9)
    expected = np.repeat((levels / 257)[..., None], 3, axis=-1)
    assert np.abs(pixels(Image.fromarray(levels.astype(np.int32))) - expected).max() <= 1
    assert np.abs(pixels(Image.fromarray((levels / 65535).astype(np.float32))) - expected).max() <= 1


def test_print_colours_and_grey_become_rgb():
    cmyk = np.random.default_rng(4).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    inks = cmyk.astype(float)
    expected = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
    assert np.abs(pixels(encoded(Image.fromarray(cmyk, "CMYK"), "TIFF")) - expected).max() <= 1
    grey = encoded(Image.fromarray(RGB[..., 0]))
    assert np.array_equal(pixels(grey), np.repeat(RGB[..., :1], 3, axis=-1))
    black_and_white = encoded(Image.fromarray(RGB[..., 0] > 127))
    assert np.array_equal(pixels(black_and_white), np.where(RGB[..., :1] > 127, 255, 0).repeat(3, axis=-1))


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(format):
    frames = [Image.new("RGB", (9, 6), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
    red = np.broadcast_to([255, 0, 0], (6, 9, 3))
    assert np.array_equal(pixels(data), red)
    opened = Image.open(io.BytesIO(data))
    for frame, colour in ((2, [0, 0, 255]), (1, [0, 255, 0])):  # of a caller's own object the frame it is set to
        opened.seek(frame)
        assert np.array_equal(pixels(opened), np.broadcast_to(colour, (6, 9, 3)))
        assert np.array_equal(pixels(opened, image_mode="reference"), np.broadcast_to(colour, (6, 9, 3)))
        assert opened.tell() == frame


def test_the_callers_image_is_left_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(io.BytesIO(encoded(Image.fromarray(np.dstack([RGB, ALPHA])), exif=exif)))
    before = np.asarray(image).copy()
    load_image(image)
    assert image.mode == "RGBA" and image.getexif()[0x0112] == 6
    assert np.array_equal(np.asarray(image), before)


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and breaks off."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\5IDAT"
    )


BAD_IMAGES: dict[str, tuple[Any, str]] = {
    "truncated PNG": (encoded(make_image(0))[:-200], "cannot be read as an image"),
    "truncated JPEG": (encoded(make_image(0, (200, 200)), "JPEG")[:-500], "cannot be read as an image"),
    "damaged AVIF header": (b"\0\0\0\x1cftypavif" + b"\0" * 40, "cannot be read as an image|is not an image"),
    "text": (b"GET / HTTP/1.1", "is not an image, or not in a format"),
    "no bytes": (b"", "is not an image, or not in a format"),
    "no pixels": (np.zeros((0, 5, 3), np.uint8), "is empty: its size is 5 x 0"),
    "no pixels across": (Image.new("RGB", (0, 5)), "is empty: its size is 0 x 5"),
    "too long": (Image.new("RGB", (2010, 10)), "one side is over 200 times the other"),
    "too tall": (np.zeros((201, 1), np.uint8), "one side is over 200 times the other"),
    "over 134 megapixels": (png_header(11_600, 11_600), "has 11600 x 11600 pixels; at most 134,217,728"),
    "bomb": (png_header(60_000, 60_000), "has too many pixels; at most 134,217,728"),
    "missing": ("no/such/image.png", r"\('no/such/image.png'\) does not exist. Check the path"),
    "missing Path": (Path("no/such/image.png"), r"\('no/such/image.png'\) does not exist"),
    "folder": (Path(__file__).parent, "is a folder, not an image file"),
    "a NUL in the path": ("a\0b.png", "cannot be read as an image"),
    "over-long path": ("x" * 5000, "cannot be read as an image"),
    "None": (None, "is of type NoneType; pass a PIL image"),
    "number": (3, "is of type int"),
    "empty dict": ({"bytes": None, "path": None}, "is a row.s path or URL without the image"),
    "other dict": ({"url": "x"}, "is of type dict"),
    "tuple": ((1, 2, 3), "is of type tuple"),
    "video": (np.zeros((2, 5, 5, 3), np.uint8), r"has shape \(2, 5, 5, 3\)"),
    "two channels": (np.zeros((5, 5, 2), np.uint8), r"has shape \(5, 5, 2\)"),
    "channels first in numpy": (np.zeros((3, 5, 5), np.uint8), r"has shape \(3, 5, 5\)"),
    "floats over 1": (RGB.astype(np.float32), "holds floats from 0 to 249; 0 to 1 are expected"),
    "floats below 0": (torch.randn(3, 6, 9), "holds floats from -"),
    "integers over 255": (np.full((5, 5), 256), "holds integers from 256 to 256"),
    "negative integers": (np.full((5, 5), -1), "holds integers from -1 to -1"),
    "NaN": (np.full((5, 5), np.nan), "holds NaN"),
    "infinity": (torch.full((3, 5, 5), torch.inf), "holds NaN or infinite"),
    "objects": (np.full((5, 5), None), "holds values of type object"),
    "strings": (np.full((5, 5), "red"), "holds values of type <U3"),
    "complex": (np.zeros((5, 5), complex), "holds values of type complex"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
@pytest.mark.parametrize("image_mode", ["upright", "reference"])
def test_an_unusable_image_is_an_error_that_names_it_and_says_why(name, image_mode):
    image, message = BAD_IMAGES[name]
    with pytest.raises(ImageError, match=message) as error, warnings.catch_warnings():
        warnings.simplefilter("error")
        load_image(image, name="edited[3]", image_mode=image_mode)
    assert str(error.value).startswith("edited[3] ")
    assert " at 0x" not in str(error.value)


def test_images_at_the_limits_are_accepted(monkeypatch):
    assert load_image(Image.new("RGB", (2000, 10))).size == (2000, 10)
    assert load_image(Image.new("RGB", (1, 1))).size == (1, 1)
    monkeypatch.setattr(images_editreward, "MAX_IMAGE_PIXELS", 100)
    assert load_image(Image.new("RGB", (10, 10))).size == (10, 10)
    with pytest.raises(ImageError, match="has 11 x 10 pixels"):
        load_image(Image.new("RGB", (11, 10)))


def test_a_url_that_is_missing_or_sends_too_much_is_refused(server, monkeypatch):
    with pytest.raises(ImageError, match="404"):
        load_image(f"{server}/missing.png")
    monkeypatch.setattr(images_editreward, "MAX_DOWNLOAD_BYTES", 10)
    with pytest.raises(ImageError, match="is longer than 10 bytes"):
        load_image(f"{server}/image.png")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "AVIF"])
def test_damaged_files_are_read_or_refused_and_raise_nothing_else(format):
    data = encoded(make_image(0), format)
    random = np.random.default_rng(0)
    for trial in range(60):
        damaged = bytearray(data)
        for place in random.integers(0, min(len(data), 400), random.integers(1, 20)):
            damaged[place] = random.integers(0, 256)
        if trial % 3 == 0:
            del damaged[random.integers(1, len(damaged)) :]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                assert load_image(bytes(damaged)).mode == "RGB"
            except ImageError:
                pass


def test_large_jpeg_files_are_decoded_at_a_reduced_size_where_asked(tmp_path):
    colours = np.random.default_rng(0).integers(60, 200, (20, 30, 3), dtype=np.uint8)
    smooth = Image.fromarray(colours).resize((1200, 800), Image.Resampling.BICUBIC)
    file = tmp_path / "large.jpg"
    smooth.save(file, quality=95, subsampling=0)
    whole, draft = load_image(file), load_image(file, draft_pixels=300 * 200)
    assert (whole.size, draft.size) == ((1200, 800), (300, 200))
    small = whole.resize((300, 200), Image.Resampling.BOX)
    assert np.abs(np.asarray(draft, dtype=int) - np.asarray(small, dtype=int)).max() <= 4
    assert load_image(file, draft_pixels=300 * 201).size == (600, 400)  # never fewer pixels than asked for
    with Image.open(file) as opened:
        assert load_image(opened, draft_pixels=100).size == (1200, 800)
    processor = build_processor(pixels=(4 * 28) ** 2)
    plain = processor.pack(file, [file], "blur").pixel_values
    processor.jpeg_draft = True
    drafted = processor.pack(file, [file], "blur").pixel_values
    assert 0 < (drafted - plain).abs().max() < 0.2
    processor.save_pretrained(tmp_path)
    assert EditRewardProcessor.from_pretrained(tmp_path, trust_remote_code=False).jpeg_draft


# The same pixels for every reader


def levels(seed: int = 5) -> np.ndarray:
    """A ramp of 16 bits from dark to bright, another one for every seed, shape (24, 40)."""
    y, x = np.mgrid[0:24, 0:40]
    return (300 + 1500 * x + 97 * ((y + seed) % 6)).astype(np.uint16)


def tiff(planes: list[np.ndarray], kind: int, planar: bool = False) -> bytes:
    """An uncompressed TIFF, by hand: grey or RGB; kind 1: unsigned, 2: signed, 3: float."""
    height, width = planes[0].shape
    strips = [plane.tobytes() for plane in planes] if planar else [np.dstack(planes).tobytes()]
    count, bits = len(planes), planes[0].dtype.itemsize * 8
    start = 8 + 2 + 12 * 11 + 4
    extra, entries = b"", []

    def entry(tag: int, form: str, values: list[int]) -> None:
        nonlocal extra
        value = struct.pack(f"<{len(values)}{form}", *values)
        if len(value) > 4:
            extra += value
            value = struct.pack("<I", start + len(extra) - len(value))
        entries.append(struct.pack("<HHI", tag, {"H": 3, "I": 4}[form], len(values)) + value.ljust(4, b"\0"))

    sizes = [2 * count if count > 2 else 0, 4 * len(strips) if len(strips) > 1 else 0]
    data_start = start + 2 * sizes[0] + 2 * sizes[1]
    offsets = [data_start + sum(map(len, strips[:index])) for index in range(len(strips))]
    entry(256, "H", [width])
    entry(257, "H", [height])
    entry(258, "H", [bits] * count)
    entry(259, "H", [1])
    entry(262, "H", [1 if count == 1 else 2])
    entry(273, "I", offsets)
    entry(277, "H", [count])
    entry(278, "H", [height])
    entry(279, "I", [len(strip) for strip in strips])
    entry(284, "H", [2 if planar else 1])
    entry(339, "H", [kind] * count)
    return b"II*\0" + struct.pack("<IH", 8, 11) + b"".join(entries) + bytes(4) + extra + b"".join(strips)


def three(grey: np.ndarray) -> np.ndarray:
    return np.repeat(np.asarray(grey)[..., None], 3, axis=-1)


def with_exif(image: Image.Image, format: str, orientation: int, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, format, exif=exif, **options)


def matrix() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files of many modes and formats, with the pixels that everybody must see, computed without Pillow's modes."""
    grey, colour = levels(), np.dstack([levels(1), levels(2)[::-1], 65535 - levels(3)])
    eight, rgb = (grey / 257).round(), (colour >> 8).astype(np.uint8)
    picture = Image.fromarray(rgb)
    hidden = np.where(grey[..., None] == grey[3, 4], 255, three(eight))
    alpha = (grey >> 8).astype(np.uint8)
    mpo = with_exif(picture, "MPO", 6, save_all=True, append_images=[picture.resize((20, 12))], quality=95)
    jpeg = np.asarray(Image.open(io.BytesIO(encoded(picture, "JPEG", quality=95))))
    first = {"save_all": True, "append_images": [Image.new("RGB", picture.size)]}
    small = b"P5 40 24 65535\n" + (grey % 256).astype(">u2").tobytes()
    return {
        "16-bit PNG": (encoded(Image.fromarray(grey)), three(eight)),
        "16-bit PNG with a transparent level": (
            encoded(Image.fromarray(grey), transparency=int(grey[3, 4])),
            hidden,
        ),
        "16-bit TIFF": (tiff([grey], 1), three(eight)),
        "16-bit TIFF, dark": (tiff([grey % 256], 1), three((grey % 256 / 257).round())),
        "16-bit PGM, dark": (small, three((grey % 256 / 257).round())),
        "16-bit RGB TIFF": (tiff(list(np.moveaxis(colour, -1, 0)), 1), rgb),
        "16-bit RGB TIFF in planes": (tiff(list(np.moveaxis(colour, -1, 0)), 1, planar=True), rgb),
        "32-bit TIFF of 16 bits": (tiff([grey.astype(np.int32)], 2), three(eight)),
        "float TIFF": (tiff([(grey / 65535).astype(np.float32)], 3), three((grey / 65535 * 255).round())),
        "float TIFF, a hair outside": (
            tiff([(grey / 65535 * 1.03 - 0.01).astype(np.float32)], 3),
            three(((grey / 65535 * 1.03 - 0.01).clip(0, 1) * 255).round()),
        ),
        "RGBA": (encoded(Image.fromarray(np.dstack([rgb, alpha]))), on_white(rgb, alpha)),
        "RGB with a transparent colour": (
            encoded(picture, transparency=tuple(map(int, rgb[3, 4]))),
            np.where((rgb == rgb[3, 4]).all(-1, keepdims=True), 255, rgb),
        ),
        "turned PNG": (with_exif(picture, "PNG", 6), np.rot90(rgb, -1)),
        "turned TIFF": (with_exif(picture, "TIFF", 6), np.rot90(rgb, -1)),
        "turned WebP": (with_exif(picture, "WEBP", 6, lossless=True), np.rot90(rgb, -1)),
        "turned JPEG": (with_exif(picture, "JPEG", 6, quality=95), np.rot90(jpeg, -1)),
        "turned MPO": (mpo, np.rot90(jpeg, -1)),
        "turned 16-bit PNG": (with_exif(Image.fromarray(grey), "PNG", 3), three(eight)[::-1, ::-1]),
        "animated PNG": (encoded(picture, "PNG", **first), rgb),
        "animated WebP": (encoded(picture, "WEBP", lossless=True, **first), rgb),
        "BMP": (encoded(picture, "BMP"), rgb),
    }


MATRIX = matrix()


def shown_to_annotators(data: bytes) -> np.ndarray:
    """What a browser shows of what the annotation app sends: upright by EXIF, the first frame."""
    from datasets import Dataset

    from editreward.annotation.store import GroupStore
    from editreward.data.schema import encode_group, group_features

    row = {
        **dict.fromkeys(("origin", "category", "language"), "x"),
        **{"group_id": "g", "instruction": "x", "source_images": [{"bytes": data, "path": None}], "preferences": []},
        "candidates": [
            {"image": {"bytes": data, "path": None}, "editor": "e", "seed": 0, "scores": None, "annotations": []}
            | {"rationale": None}
        ]
        * 2,
    }
    features = group_features()
    store = GroupStore()
    store.add(Dataset.from_list([encode_group(row, features)], features=features), "work", "groups")
    content, media = store.image("g", "candidate", 1)
    assert media in ("image/png", "image/jpeg", "image/webp", "image/avif")
    with Image.open(io.BytesIO(content)) as image:
        assert image.mode in ("L", "RGB") and getattr(image, "n_frames", 1) == 1
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", MATRIX)
def test_every_reader_sees_the_same_pixels(name):
    from editreward.data.images import pixel_digest, read_image
    from editreward.scorers.baselines import decode

    data, expected = MATRIX[name]
    seen = pixels(data)
    assert np.abs(seen - expected).max() <= 1
    image = Image.fromarray(seen.astype(np.uint8))
    record = {"bytes": data, "path": None}
    assert pixel_digest(read_image(record)) == pixel_digest(image)
    if "planes" not in name:  # which Pillow reads wrong, if it is asked directly
        assert pixel_digest(Image.open(io.BytesIO(data))) == pixel_digest(image)
    assert decode(data).tobytes() == decode(record).tobytes() == image.tobytes()
    assert np.abs(shown_to_annotators(data) - seen).max() <= 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0.0, 1.021), "holds floats from 0 to 1.021; 0 to 1 are expected"),
        ((-0.0201, 1.0), "holds floats from -0.0201 to 1; 0 to 1"),
        ((0.0, np.inf), "NaN or infinite"),
        ((0.5, np.nan), "NaN or infinite"),
    ],
)
def test_floats_beyond_the_range_are_refused_alike_in_every_form(values, message):
    array = np.full((6, 9), values[0], np.float32)
    array[2, 3] = values[1]
    for form in (array, three(array), torch.from_numpy(array), Image.fromarray(array), tiff([array], 3)):
        with pytest.raises(ImageError, match=message):
            load_image(form)


def test_integers_beyond_16_bits_are_refused_with_their_range():
    for array in (levels().astype(np.int32) - 400, levels().astype(np.int32) * 2):
        for form in (Image.fromarray(array), tiff([array], 2)):
            with pytest.raises(ImageError, match=f"integers from {array.min()} to {array.max()}; 0 to 65535"):
                load_image(form)


# Colour profiles


def scaled_profile() -> bytes:
    """An ICC profile of sRGB with the red and blue colorants exchanged."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red + 4 : red + 8], profile[blue + 4 : blue + 8] = (
        profile[blue + 4 : blue + 8],
        profile[red + 4 : red + 8],
    )
    return bytes(profile)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_colours_become_those_of_srgb_by_the_files_profile(format):
    options = (
        {"lossless": True} if format == "WEBP" else {"quality": 100, "subsampling": 0} if format == "JPEG" else {}
    )
    picture = make_image(3, (40, 24))
    plain = pixels(encoded(picture, format, **options))
    exchanged = encoded(picture, format, icc_profile=scaled_profile(), **options)
    assert np.abs(pixels(exchanged) - plain[..., ::-1]).max() <= 2
    assert np.array_equal(pixels(exchanged, image_mode="reference"), plain)
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"no profile", srgb[:200], bytes(3_000_000)):
        assert np.array_equal(pixels(encoded(picture, format, icc_profile=profile, **options)), plain)


# Decoration


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def decorated() -> dict[str, bytes]:
    """The files of one picture with decoration that is broken, odd or large."""
    picture = make_image(4, (40, 24))
    png, jpeg = encoded(picture), encoded(picture, "JPEG", quality=100, subsampling=0)
    head, rest = png[:33], png[33:]
    text = b"x" * 1_500_000

    def segment(marker: int, data: bytes) -> bytes:
        return jpeg[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data + jpeg[2:]

    exif = b"Exif\0\0II*\0\x08\0\0\0\x28\0" + struct.pack("<HHIHH", 274, 3, 1, 1, 0)  # says 40 entries, has one
    return {
        "zTXt": head + chunk(b"zTXt", b"w\0\0" + zlib.compress(text)) + rest,
        "iTXt": head + chunk(b"iTXt", b"w\0\1\0\0\0" + zlib.compress(text)) + rest,
        "tEXt": head + chunk(b"tEXt", b"w\0" + text) + rest,
        "text behind the pixels": png[:-12] + chunk(b"zTXt", b"w\0\0" + zlib.compress(text)) + png[-12:],
        "text with a wrong checksum": head + chunk(b"tEXt", b"w\0hello")[:-1] + b"?" + rest,
        "iCCP": head + chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(2_000_000))) + rest,
        "eXIf": head + chunk(b"eXIf", b"garbage") + rest,
        "cut EXIF in JPEG": segment(0xE1, exif),
        "empty EXIF in JPEG": segment(0xE1, b"Exif\0\0"),
        "ICC of no length in JPEG": segment(0xE2, b"ICC_PROFILE\0"),
        "broken MPF in JPEG": segment(0xE2, b"MPF\0garbage"),
        "EXIF in WebP": encoded(picture, "WEBP", lossless=True, exif=b"garbage"),
        "EXIF pointer in TIFF": encoded(picture, "TIFF", tiffinfo={0x8769: 4_000_000_000}),
    }


DECORATED = decorated()


@pytest.mark.parametrize("name", DECORATED)
def test_pixels_are_taken_whatever_decorates_them(name):
    expected = np.asarray(make_image(4, (40, 24))).astype(int)
    tolerance = 6 if "JPEG" in name else 0
    assert np.abs(pixels(DECORATED[name]) - expected).max() <= tolerance
    assert images_editreward.image_size(DECORATED[name]) == (24, 40)


def test_an_orientation_is_kept_where_other_decoration_is_broken():
    picture = make_image(4, (40, 24))
    data = with_exif(picture, "PNG", 6)
    text = chunk(b"zTXt", b"w\0\0" + zlib.compress(b"x" * 1_500_000))
    assert np.array_equal(pixels(data[:33] + text + data[33:]), np.rot90(np.asarray(picture), -1))


def test_postscript_never_reaches_ghostscript(monkeypatch):
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("Ghostscript was asked"))
    eps = encoded(make_image(0), "EPS")
    iptc = b"\x1c\x03\x3c\0\2\1\1" + b"\x1c\x03\x14\0\2\0\x10" + b"\x1c\x03\x1e\0\2\0\x10" + b"\x1c\x03\x78\0\1\1"
    iptc += b"\x1c\x08\x0a" + struct.pack(">H", min(len(eps), 32000)) + eps[:32000]
    for data in (eps, iptc, Image.open(io.BytesIO(eps))):
        with pytest.raises(ImageError):
            load_image(data)


@pytest.mark.parametrize(
    "error", [AssertionError, ZeroDivisionError, IndexError, SystemError, MemoryError, KeyError, RecursionError]
)
def test_whatever_a_decoder_raises_concerns_that_image_only(error, monkeypatch):
    def load(self):
        raise error("odd")

    monkeypatch.setattr(BmpImagePlugin.BmpImageFile, "load", load)
    with pytest.raises(ImageError, match=f"edited.3. cannot be read as an image: {error.__name__}"):
        load_image(encoded(make_image(0), "BMP"), "edited[3]")


# Waiting


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("path", ["pipe", "/dev/zero"])
def test_pipes_and_devices_are_refused_at_once(tmp_path, path):
    os.mkfifo(tmp_path / "pipe")
    for read in (load_image, images_editreward.image_size):
        with pytest.raises(ImageError, match="is a pipe or a device"):
            read(tmp_path / path)


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nX-Slow: ", b"HTTP/1.1 200 OK\r\n\r\n"])
def test_a_server_that_drips_is_given_up_after_the_deadline_of_the_image(start, monkeypatch):
    monkeypatch.setattr(images_editreward, "MAX_DOWNLOAD_SECONDS", 0.6)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.sendall(start)
                while not stop.wait(0.05):
                    try:
                        connection.sendall(b"x" if start else b"")
                    except OSError:
                        return

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(ImageError, match="did not arrive within 0.6 seconds"):
            load_image(f"http://127.0.0.1:{listening.getsockname()[1]}/a.png")
        assert time.monotonic() - begin < 5
        stop.set()
        thread.join()


def test_a_data_url_is_an_image():
    data = encoded(Image.fromarray(RGB))
    assert np.array_equal(pixels("data:image/png;base64," + base64.b64encode(data).decode()), RGB)
    assert np.array_equal(pixels("data:," + quote_from_bytes(data)), RGB)
    for url in ("data:image/png;base64", "data:image/png;base64,***", "data:image/png;base64,aGVsbG8="):
        with pytest.raises(ImageError, match="^image .'data:image/png;base64"):
            load_image(url)


# Memory


def test_wide_images_are_converted_in_strips(monkeypatch):
    monkeypatch.setattr(images_editreward, "_STRIP_PIXELS", 64)
    for data, expected in MATRIX.values():
        assert np.abs(pixels(data) - expected).max() <= 1
    monkeypatch.undo()
    data = encoded(Image.fromarray(np.full((3000, 2000), 40000, np.uint16)))
    tracemalloc.start()
    load_image(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 6 * 8 * images_editreward._STRIP_PIXELS < 9 * 6_000_000, (
        "numpy's part; 8 bytes a pixel at once: 48 MB"
    )


def test_the_images_of_a_group_are_large_one_at_a_time(monkeypatch):
    processor = build_processor()
    large: list[weakref.ref] = []

    def watched(*args: Any, **options: Any) -> Image.Image:
        assert [one for one in large if one() is not None] == []
        loaded = load_image(*args, **options)
        large.append(weakref.ref(loaded))
        return loaded

    monkeypatch.setattr(sys.modules[EditRewardProcessor.__module__], "load_image", watched)
    files = [encoded(make_image(seed, (300, 200))) for seed in range(4)]
    processor.pack(files[0], files[1:], "blur")
    assert len(large) == 4


PEAK = """
import resource, sys
from images_editreward import load_image
from PIL import Image
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
load_image(sys.argv[2])
before = most()
for _ in range(int(sys.argv[1])):
    load_image(sys.argv[3], image_mode=sys.argv[4]).resize((448, 448))
print(most() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "most"), [("RGB", 4.6), ("I;16", 6.9), ("RGBA", 8.9)])
@pytest.mark.parametrize("image_mode", ["upright", "reference"])
def test_memory_is_that_of_one_image_in_few_copies(tmp_path, mode, most, image_mode):
    side, small = 5000, tmp_path / "small.png"
    make_image(0).save(small)
    large = Image.effect_noise((side, side), 40).convert(mode)  # Pillow keeps 4 bytes a pixel, 2 of 16-bit grey
    large.save(tmp_path / "large.png", compress_level=1)
    words = [sys.executable, "-c", PEAK, "4", str(small), str(tmp_path / "large.png"), image_mode]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(ended.stdout) < most * side**2


# Fuzz: files with changes at random


@pytest.mark.parametrize("trials", [12, pytest.param(120, marks=pytest.mark.slow)])
def test_any_change_of_a_file_is_read_or_refused(trials):
    random = np.random.default_rng(trials)
    files = [data for data, _ in MATRIX.values()] + list(DECORATED.values())
    files = [data for data in files if len(data) < 100_000]
    files += [encoded(make_image(0), name) for name in ("GIF", "AVIF", "ICO", "JPEG2000", "TGA", "PCX", "SGI", "DDS")]
    outcomes = {True: 0, False: 0}
    for data in files:
        for trial in range(trials):
            damaged = bytearray(data)
            for place in random.integers(0, min(len(data), 600), random.integers(1, 12)):
                damaged[place] = random.integers(0, 256)
            if trial % 3 == 0:
                del damaged[random.integers(1, len(damaged)) :]
            mode = "reference" if trial % 4 == 3 else "upright"
            try:
                loaded = load_image(bytes(damaged), "edited[0]", image_mode=mode)
                assert loaded.mode == "RGB" and loaded.width * loaded.height <= images_editreward.MAX_IMAGE_PIXELS
                outcomes[True] += 1
            except ImageError as error:
                assert str(error).startswith("edited[0] ") and " at 0x" not in str(error)
                outcomes[False] += 1
    assert min(outcomes.values()) > len(files), outcomes
