"""Any image to RGB: forms, formats, modes, orientation, transparency, colours; and what is refused."""

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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
