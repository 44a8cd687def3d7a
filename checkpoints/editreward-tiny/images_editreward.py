"""One way to make RGB of an image: models, checks, hashes, reports and annotators all see the same pixels."""

import base64
import functools
import http.client
import io
import math
import os
import re
import socket
import ssl
import stat
import struct
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote_to_bytes

import numpy as np
from PIL import Image, ImageCms, UnidentifiedImageError

MAX_IMAGE_PIXELS = 2**27
"""Larger images (134 megapixels) are refused as decompression bombs."""

MAX_DOWNLOAD_BYTES = 64 * 2**20
"""Longer responses to an image's URL are refused."""

MAX_DOWNLOAD_SECONDS = 30.0
"""An image that has not arrived by then is given up, however slowly its server sends."""

MAX_ASPECT_RATIO = 200
"""Images whose long side exceeds this many short sides are refused (the backbones' own limit)."""

FLOAT_RANGE = (-0.02, 1.02)
"""Floats from as far outside of 0..1 are clamped, since decoders of latents leave some; beyond they are refused."""

FORMATS = (
    *("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "HEIF", "JXL", "JPEG2000", "PPM", "PSD", "ICO", "DDS"),
    *("QOI", "SGI", "PCX", "TGA"),  # TGA last: it has no signature
)
"""Formats that are read, in the order in which they are tried; HEIF and JXL where a plugin of Pillow's is registered.

Not EPS, which Pillow hands to Ghostscript, nor IPTC, which may hold an EPS, nor those that nobody saves edits in.
"""

IMAGE_MODES = ("upright", "reference")

_STRIP_PIXELS = 2**20
"""Wide, transparent and colour-managed images become RGB in strips of so many pixels, so that copies stay small."""

_LARGEST_MENDED = 2**28
"""Bytes of the largest file that is read again without its decoration where that stops Pillow."""

_LARGEST_PROFILE = 2**22
"""Longer colour profiles, in bytes, are passed over."""

_SAME_COLOUR = 2
"""Levels of 0..255 by which a profile of sRGB, and there are many, may differ from Pillow's own."""

_LOADING = threading.Lock()
"""Of a caller's images that are not decoded yet: several threads may score one of them."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image upright, by its EXIF orientation."""


class ImageError(ValueError):
    """An image that cannot be used. The message names it and says why."""


@dataclass(frozen=True)
class ImageHeader:
    """What is known of an image before it is decoded.

    Attributes:
        format: Pillow's name of the format, such as "PNG"; `None` for what is no file.
        width, height: As it is stored, in pixels.
        is_plain: Whether viewers show the file as `load_image` reads it: grey or RGB, opaque, a single frame, and
            upright unless it is a JPEG file.
    """

    format: str | None
    width: int
    height: int
    is_plain: bool


def load_image(
    image: object, name: str = "image", image_mode: str = "upright", draft_pixels: int | None = None
) -> Image.Image:
    """Turn any common form of an image into an upright 8-bit RGB `PIL.Image`.

    Args:
        image: A `PIL.Image`, which stays as it is; of an animation the frame that it is set to is taken. A path; an
            http(s) or `data:` URL; encoded bytes, or an open binary file; a `datasets` image dict with `bytes`; a
            numpy array of shape (height, width[, 1, 3 or 4]); or a tensor of that shape or of shape (1, 3 or
            4, height, width); or a batch of one of these. Arrays hold integers of 0..255 (0..65535 for uint16) or
            floats of 0..1, which are clamped if they are outside by at most 0.02.
        name: What error messages call the image.
        image_mode: `upright` takes the first frame of a file, scales 16 bits and floats of 0..1 to 8 bits, converts
            colours to sRGB by the file's ICC profile, composites transparency on white, and turns the image by its
            EXIF orientation. `reference` is a plain `convert("RGB")`, as the published model was trained.
        draft_pixels: Decode a JPEG file at 1/2, 1/4 or 1/8 of its size where that leaves as many pixels.

    Raises:
        ImageError: If the image is missing, unreadable, truncated, empty, longer than 200:1 or over 134 megapixels, or
            holds values outside of its range. Broken EXIF, texts, colour profiles and layers are passed over.
    """
    with _naming(image, name), _opened(image, draft_pixels) as opened:
        is_own = opened is not image
        if not is_own:
            with _LOADING:
                opened.load()
        if image_mode == "reference":
            return _plain_rgb(opened, is_own)
        turn = _TURNS.get(_orientation(opened))
        upright = _to_rgb(opened, is_own)
        if is_own:
            opened.close()  # its pixels go before those of the next copy come
        if turn is not None:
            upright = upright.transpose(turn)
        upright.info = {}  # no orientation, profile or transparent colour a second time
        return upright


def stored_image(image: object, name: str = "image") -> Image.Image:
    """An image decoded in its own mode, neither turned nor converted; arguments and errors as for `load_image`."""
    with _naming(image, name), _opened(image) as opened:
        opened.load()
        return opened


def image_header(image: object, name: str = "image") -> ImageHeader:
    """Format and size of an image, without decoding it where it is a file.

    Args:
        image, name: As for `load_image`.

    Raises:
        ImageError: As `load_image`, but for what only decoding finds.
    """
    with _naming(image, name), _opened(image, decode=False) as opened:
        is_plain = opened.mode in ("L", "RGB") and "transparency" not in opened.info
        # Other formats count their frames by reading on.
        if opened.format in ("AVIF", "PNG", "WEBP"):
            is_plain = is_plain and getattr(opened, "n_frames", 1) == 1 and _orientation(opened) not in _TURNS
        return ImageHeader(opened.format, *opened.size, is_plain)


def image_size(image: object, name: str = "image") -> tuple[int, int]:
    """Height and width of an image as it is stored, from its header alone where it is a file; see `image_header`."""
    header = image_header(image, name)
    return header.height, header.width


def image_list(images: Any) -> list[Any]:
    """The images of a list or tuple, or of a 4-D array or tensor; a single image becomes a list of one."""
    images = unstacked(images, 4)
    return list(images) if isinstance(images, (list, tuple)) else [images]


def unstacked(values: Any, ndim: int) -> Any:
    """The entries of an array or tensor of so many axes as a list; anything else as it is."""
    return list(values) if getattr(values, "ndim", 0) == ndim else values


# Errors and limits


@contextmanager
def _naming(image: object, name: str) -> Iterator[None]:
    """Have whatever goes wrong with an image become an `ImageError` that names it."""
    if isinstance(image, (str, Path)):
        name = f"{name} ({_shortened(str(image))!r})"
    try:
        with warnings.catch_warnings():
            # Pillow warns at 89 megapixels, where the limit here is MAX_IMAGE_PIXELS, and of odd EXIF.
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    except ImageError as error:
        raise ImageError(f"{name} {error}") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name} does not exist. Check the path.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{name} has too many pixels; at most {MAX_IMAGE_PIXELS:,} are accepted.") from error
    except UnidentifiedImageError as error:
        known = ", ".join(_formats())
        raise ImageError(f"{name} is not an image, or not in a format that is read ({known}).") from error
    except Exception as error:
        # Decoders raise almost anything on broken files: OSError, SyntaxError, struct.error, RuntimeError (AVIF),
        # AssertionError, ZeroDivisionError, IndexError, SystemError, MemoryError ...
        said = str(error) if isinstance(error, (OSError, ValueError)) else f"{type(error).__name__}: {error}"
        raise ImageError(f"{name} cannot be read as an image: {said}.") from error


def _shortened(path: str) -> str:
    """A path or URL as messages show it: the end, which tells files apart; of a `data:` URL the beginning."""
    if path.startswith("data:"):
        return path if len(path) <= 40 else f"{path[:40]}…"
    return path if len(path) <= 200 else f"…{path[-200:]}"


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if width == 0 or height == 0:
        raise ImageError(f"is empty: its size is {width} x {height} pixels.")
    if width * height > MAX_IMAGE_PIXELS:
        raise ImageError(f"has {width} x {height} pixels; at most {MAX_IMAGE_PIXELS:,} are accepted.")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise ImageError(
            f"is {width} x {height} pixels; one side is over {MAX_ASPECT_RATIO} times the other. Crop it."
        )


# From whatever is given to a Pillow image


@contextmanager
def _opened(image: Any, draft_pixels: int | None = None, decode: bool = True) -> Iterator[Image.Image]:
    """An image of any form as Pillow's, within the limits and, where it is not the caller's own, decoded."""
    if isinstance(image, dict) and ("bytes" in image or "path" in image):
        if image.get("bytes") is None:
            # Rows are written by others: following them would open any file and ask any server.
            raise ImageError(
                "is a row's path or URL without the image, which is not followed; embed the file's bytes."
            )
        image = image["bytes"]
    if isinstance(image, str) and re.match(r"https?://", image):
        image = _download(image)
    elif isinstance(image, str) and image.startswith("data:"):
        image = _data_of(image)
    if isinstance(image, Image.Image):
        _check_size(image)
        if image.format == "EPS" and getattr(image, "tile", None):
            raise ImageError("is PostScript, which is not rendered here. Save it as PNG.")
        yield image
    elif isinstance(image, (str, Path)):
        with _regular_file(image) as file:
            yield _open_file(file, draft_pixels, decode)
    elif isinstance(image, (bytes, bytearray, memoryview)):
        yield _open_file(io.BytesIO(image), draft_pixels, decode)
    elif hasattr(image, "seek") and hasattr(image, "read"):
        yield _open_file(image, draft_pixels, decode)
    else:
        opened = Image.fromarray(_to_uint8(_as_array(image)))
        _check_size(opened)
        yield opened


def _as_array(image: Any) -> np.ndarray:
    """An array or tensor as an array, channels last."""
    if hasattr(image, "detach") and hasattr(image, "numpy"):  # a tensor; torch need not be imported for it
        image = image.detach().cpu()
        image = image.float().numpy() if str(image.dtype) == "torch.bfloat16" else image.numpy()
        image = image[0] if image.ndim == 4 and len(image) == 1 else image
        if image.ndim == 3 and image.shape[0] in (1, 3, 4) and image.shape[-1] not in (1, 3, 4):
            image = np.moveaxis(image, 0, -1)
    if isinstance(image, np.ndarray):
        return image[0] if image.ndim == 4 and len(image) == 1 else image
    raise ImageError(
        f"is of type {type(image).__name__}; pass a PIL image, path, URL, bytes, numpy array or torch tensor."
    )


@contextmanager
def _regular_file(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a file for reading. What may have no end or never begin, a named pipe or a device, is refused."""
    if Path(path).is_dir():
        raise ImageError("is a folder, not an image file.")
    # Opened without waiting for a writer, then looked at: a look before could be of another file.
    wait_for_nobody = getattr(os, "O_NONBLOCK", 0)
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | wait_for_nobody)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ImageError("is a pipe or a device, not an image file. Save it to a file, or pass its bytes.")
        yield file


def _data_of(url: str) -> bytes:
    """Content of a `data:` URL (RFC 2397)."""
    kind, comma, data = url.partition(",")
    if not comma:
        raise ImageError("is no complete data: URL; it looks like data:image/png;base64,...")
    content = unquote_to_bytes(data)
    return base64.b64decode(content, validate=True) if kind.endswith(";base64") else content


class _TimedReads(io.RawIOBase):
    """Reads of a socket, which all together end by a deadline (`time.monotonic`)."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: float) -> None:
        self._sock, self._raw, self._deadline = sock, raw, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_seconds_left(self._deadline))
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """A response whose headers and body arrive by a deadline."""

    def __init__(self, sock: socket.socket, *args: Any, deadline: float, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self.fp = io.BufferedReader(_TimedReads(sock, self.fp.detach(), deadline))  # type: ignore[attr-defined]


def _seconds_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _download(url: str) -> bytes:
    """Content of an http(s) URL, by a deadline for all of it: urllib's own timeout is one of each read."""
    deadline = time.monotonic() + MAX_DOWNLOAD_SECONDS

    def connection(kind: Callable[..., http.client.HTTPConnection]) -> Callable[..., http.client.HTTPConnection]:
        def connect(host: str, **options: object) -> http.client.HTTPConnection:
            made = kind(host, **{**options, "timeout": _seconds_left(deadline)})
            made.response_class = functools.partial(_TimedResponse, deadline=deadline)  # type: ignore[assignment]
            return made

        return connect

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(connection(http.client.HTTPConnection), req)  # type: ignore[arg-type]

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            secure = functools.partial(http.client.HTTPSConnection, context=ssl.create_default_context())
            return self.do_open(connection(secure), req)  # type: ignore[arg-type]

    opener = urllib.request.OpenerDirector()  # without urllib's handlers of file: and ftp:, which redirects may name
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.UnknownHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        Http(),
        Https(),
    ):
        opener.add_handler(handler)
    try:
        with opener.open(url) as response:
            content: bytes = response.read(MAX_DOWNLOAD_BYTES + 1)
    except OSError as error:  # urllib's own errors, too
        if isinstance(error, TimeoutError) or isinstance(getattr(error, "reason", None), TimeoutError):
            raise ImageError(f"did not arrive within {MAX_DOWNLOAD_SECONDS:g} seconds.") from error
        raise
    if len(content) > MAX_DOWNLOAD_BYTES:
        raise ImageError(f"is longer than {MAX_DOWNLOAD_BYTES:,} bytes.")
    return content


def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow reads."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open_file(file: IO[bytes], draft_pixels: int | None, decode: bool) -> Image.Image:
    """Open, and decode, an image file; if need be, without what decorates its pixels."""
    try:
        return _open_as_it_is(file, draft_pixels, decode)
    except (ImageError, Image.DecompressionBombError):
        raise
    except Exception:
        for bare in _undecorated(file):
            try:
                return _open_as_it_is(io.BytesIO(bare), draft_pixels, decode)
            except ImageError:
                raise
            except Exception:
                continue
        raise


def _open_as_it_is(file: IO[bytes], draft_pixels: int | None, decode: bool) -> Image.Image:
    file.seek(0)
    opened = Image.open(file, formats=_formats())
    _check_size(opened)
    _mend_tiles(opened)
    if decode:
        if draft_pixels is not None:
            scale = (draft_pixels / (opened.width * opened.height)) ** 0.5
            opened.draft(None, (math.ceil(opened.width * scale), math.ceil(opened.height * scale)))
        opened.load()
        _check_size(opened)  # some formats tell it only now
    return opened


def _mend_tiles(opened: Any) -> None:
    """Have Pillow read 16-bit colour as such where it would not."""
    modes = [tile[3] for tile in opened.tile]
    transparent = opened.info.get("transparency")
    if opened.format == "PNG" and isinstance(transparent, tuple) and modes and "16" in str(modes[0]):
        opened.info["transparency"] = tuple(level >> 8 for level in transparent)  # as the pixels will be
    if opened.format == "TIFF" and opened.mode == "RGB" and opened.tag_v2.get(284) == 2:
        bits, order = opened.tag_v2.get(258, ()), "L" if opened.tag_v2.prefix == b"II" else "B"
        if set(bits) == {16} and all(tile[0] == "raw" and tile[3][0] in "RGB" for tile in opened.tile):
            # Planes of 16 bits: Pillow would take them for planes of 8.
            opened.tile = [
                # Older releases of Pillow have plain tuples.
                getattr(type(tile), "_make", tuple)([*tile[:3], (f"{tile[3][0]};16{order}", *tile[3][1:])])
                for tile in opened.tile
            ]


# Files without what decorates their pixels

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PIXEL_TAGS = {
    *(254, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325),
    *(330, 332, 338, 339, 347, 512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532),
}
"""TIFF's tags that say where pixels are and how to read them."""


def _undecorated(file: IO[bytes]) -> Iterator[bytes]:
    """A file without its texts, previews and layers; then without its colour profile, then its orientation, too."""
    file.seek(0)
    data = bytes(file.read(_LARGEST_MENDED + 1))
    if len(data) > _LARGEST_MENDED:
        return
    tried = {data}
    for bare in _stripped(data):
        if bare not in tried:
            tried.add(bare)
            yield bare


def _stripped(data: bytes) -> Iterator[bytes]:
    try:
        if data.startswith(_PNG_SIGNATURE):
            for extra in ((b"eXIf", b"iCCP"), (b"eXIf",), ()):
                yield _strip_png(data, extra)
        elif data.startswith(b"\xff\xd8"):
            for extra in ((b"Exif\0", b"ICC_PROFILE\0"), (b"Exif\0",), ()):
                yield _strip_jpeg(data, extra)
        elif data[:4] in (b"II*\0", b"MM\0*"):
            yield _strip_tiff(data)
        elif data[4:8] == b"ftyp":
            # Items of AVIF and HEIF that are no pixels get a type that nobody reads.
            yield re.sub(rb"(infe\x02.{3}.{4})(?:Exif|mime)", rb"\1skip", data, flags=re.DOTALL)
    except (struct.error, IndexError):  # cut off
        return


def _strip_png(data: bytes, extra: tuple[bytes, ...]) -> bytes:
    parts, place = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while place + 8 <= len(data):
        (length,), kind = struct.unpack_from(">I", data, place), data[place + 4 : place + 8]
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", *extra):
            parts.append(data[place : place + length + 12])
        place += length + 12
    return b"".join(parts)


def _strip_jpeg(data: bytes, extra: tuple[bytes, ...]) -> bytes:
    parts, place = [data[:2]], 2
    while data[place] == 0xFF and data[place + 1] != 0xDA:  # up to the pixels
        end = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        is_application = 0xE1 <= data[place + 1] <= 0xEF and data[place + 1] != 0xEE  # Adobe's tells the colours
        if not (is_application or data[place + 1] == 0xFE) or data[place + 4 : end].startswith(extra):
            parts.append(data[place:end])
        place = end
    return b"".join([*parts, data[place:]])


def _strip_tiff(data: bytes) -> bytes:
    order = "<" if data.startswith(b"II") else ">"
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    entries = [data[place : place + 12] for place in range(start + 2, start + 2 + 12 * count, 12)]
    kept = [one for one in entries if len(one) == 12 and struct.unpack_from(order + "H", one)[0] in _PIXEL_TAGS]
    directory = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)  # 0: no further image
    return data[:start] + directory + data[start + len(directory) :]


# From a Pillow image to upright RGB


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 (upright) where there is none that can be read."""
    try:
        value = Image.Image.getexif(image).get(0x0112)  # that of PNG files would decode them
        value = value[0] if isinstance(value, tuple) else value
        return int(value or 1)
    except Exception:  # whatever broken EXIF makes Pillow raise
        return 1


def _plain_rgb(image: Image.Image, is_own: bool) -> Image.Image:
    """The image by `convert("RGB")`, which copies: pixels that are RGB and nobody else's are taken over."""
    if is_own and image.mode == "RGB" and "transparency" not in image.info and not getattr(image, "readonly", 0):
        return image._new(image.im)
    return image.convert("RGB")


def _to_rgb(image: Image.Image, is_own: bool) -> Image.Image:
    """The image in 8-bit sRGB, on white."""
    is_wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    colours = "L" if is_wide or image.mode in ("1", "L", "LA", "La") else "CMYK" if image.mode == "CMYK" else "RGB"
    transform = _to_srgb(image.info.get("icc_profile"), colours)
    if not (is_wide or has_alpha or transform):
        return _plain_rgb(image, is_own)
    most = _most(image) if is_wide else 0
    result = Image.new("RGB", image.size)
    for top, bottom in _strips(image.height, image.width):
        strip = image.crop((0, top, image.width, bottom))
        if is_wide:
            strip = _narrowed(strip, most, image.info.get("transparency"))
        elif has_alpha:
            strip = strip.convert("RGBA")
        alpha = strip.getchannel("A") if strip.mode == "RGBA" else None
        if transform is not None:
            strip = transform.apply(strip.convert(colours))
        if alpha is not None:
            strip.putalpha(alpha)
            strip = Image.alpha_composite(Image.new("RGBA", strip.size, "white"), strip)
        result.paste(strip.convert("RGB"), (0, top))
    return result


def _strips(rows: int, row_size: int) -> Iterator[tuple[int, int]]:
    """First row, and row after the last, of strips of about `_STRIP_PIXELS`."""
    step = max(1, _STRIP_PIXELS // max(1, row_size))
    return ((top, min(top + step, rows)) for top in range(0, rows, step))


def _most(image: Image.Image) -> int:
    """The value that is white in a grey image of more than 8 bits."""
    if image.mode.startswith("I;16"):
        return 65535
    strips = (np.asarray(image.crop((0, top, image.width, bottom))) for top, bottom in _strips(*image.size[::-1]))
    ends = [(strip.min(), strip.max()) for strip in strips]
    low, high = min(float(low) for low, _ in ends), max(float(high) for _, high in ends)
    if image.mode == "F":
        _check_floats(*((low, high) if np.isfinite(ends).all() else (math.nan, math.nan)))
        return 1
    if low < 0 or high > 65535:
        raise ImageError(f"holds integers from {low:.0f} to {high:.0f}; 0 to 65535 are expected.")
    return 65535 if image.format == "PPM" or high > 255 else 255  # PPM is scaled to 16 bits by Pillow


def _narrowed(strip: Image.Image, most: int, transparent: object) -> Image.Image:
    """A strip of a wide grey image in 8 bits, its transparent level white."""
    levels = np.asarray(strip)
    grey = _eight_bits(levels, most)
    if isinstance(transparent, int):
        grey[levels == transparent] = 255
    return Image.fromarray(grey)


@functools.lru_cache(maxsize=16)
def _to_srgb(profile: bytes | None, colours: str) -> ImageCms.ImageCmsTransform | None:
    """What converts colours of an ICC profile to sRGB; None where nothing is to convert, or the profile is broken."""
    if not profile or len(profile) > _LARGEST_PROFILE:
        return None
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(given, ImageCms.createProfile("sRGB"), colours, "RGB")
        steps = np.linspace(0, 255, 9).astype(np.uint8)
        cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(27, 27, 3)
        samples = Image.fromarray(cube).convert(colours)
        changed = np.asarray(transform.apply(samples), dtype=int)
    except Exception:  # of little CMS, or a Pillow without it: the pixels are there all the same
        return None
    difference = np.abs(changed - np.asarray(samples.convert("RGB"), dtype=int)).max()
    return transform if difference > _SAME_COLOUR else None


# Arrays


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """An array of shape (height, width[, 1, 3 or 4]) in 8 bits."""
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in (3, 4)):
        raise ImageError(f"has shape {array.shape}; pass (height, width) or (height, width, 1, 3 or 4).")
    if array.dtype.kind not in "biuf":
        raise ImageError(f"holds values of type {array.dtype}; integers or floats are expected.")
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * 255
    low, high = (float(array.min()), float(array.max())) if array.size else (0.0, 0.0)
    most = 255
    if array.dtype.kind == "f":
        _check_floats(low, high)
        most = 1
    elif array.dtype == np.uint16:
        most = 65535
    elif low < 0 or high > 255:
        raise ImageError(f"holds integers from {low:.0f} to {high:.0f}; 0 to 255 are expected.")
    result = np.empty(array.shape, dtype=np.uint8)
    for top, bottom in _strips(array.shape[0], math.prod(array.shape[1:])):
        result[top:bottom] = _eight_bits(array[top:bottom], most)
    return result


def _check_floats(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError("holds NaN or infinite values.")
    if low < FLOAT_RANGE[0] or high > FLOAT_RANGE[1]:
        raise ImageError(f"holds floats from {low:.6g} to {high:.6g}; 0 to 1 are expected.")


def _eight_bits(values: np.ndarray, most: int) -> np.ndarray:
    """Values of 0 to `most`, or a little outside, as levels of 0 to 255."""
    levels = values.clip(0, most) * 255.0
    return (levels / most if most != 1 else levels).round().astype(np.uint8)


__all__ = [
    "FORMATS",
    "ImageError",
    "ImageHeader",
    "image_header",
    "image_list",
    "image_size",
    "load_image",
    "stored_image",
]
