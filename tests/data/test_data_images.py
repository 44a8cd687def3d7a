"""Reading stored images, and telling which are the same or nearly so."""

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from editreward.data.images import near_groups, perceptual_hash, pixel_digest, read_image
from editreward.simulation import simulate_groups


def record_of(image: Image.Image, form: str = "PNG", **options) -> dict:
    file = io.BytesIO()
    image.save(file, form, **options)
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [group.source for group in simulate_groups(12, size=112, candidates=1)]


def test_the_digest_tells_pixels_apart_and_nothing_else(pictures):
    image = pictures[0]
    digest = pixel_digest(image)
    for form in ("PNG", "BMP", "TIFF"):
        assert pixel_digest(read_image(record_of(image, form))) == digest
    assert pixel_digest(image.convert("RGBA")) == digest
    changed = image.copy()
    changed.putpixel((3, 4), tuple(255 - value for value in image.getpixel((3, 4))))
    assert pixel_digest(changed) != digest
    wide, high = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    assert pixel_digest(wide) != pixel_digest(high)


def test_transparent_pixels_are_white_and_exif_turns_an_image(pictures):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert pixel_digest(clear) == pixel_digest(Image.new("RGB", (8, 8), "white"))
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = read_image(record_of(pictures[0], "PNG", exif=exif))
    assert pixel_digest(turned) == pixel_digest(pictures[0].transpose(Image.Transpose.ROTATE_270))


def test_a_hash_survives_compression_and_scaling_and_differs_between_pictures(pictures):
    hashes = [perceptual_hash(image) for image in pictures]
    assert all(0 <= value < 2**64 for value in hashes)
    changed = [
        [perceptual_hash(read_image(record_of(image, "JPEG", quality=80))) for image in pictures],
        [perceptual_hash(image.resize((300, 300), Image.Resampling.BICUBIC)) for image in pictures],
        [perceptual_hash(ImageEnhance.Brightness(image).enhance(0.9)) for image in pictures],
    ]
    for variants in changed:
        keys = near_groups(hashes + variants)
        assert keys[: len(hashes)] == keys[len(hashes) :]
    assert len(set(near_groups(hashes))) == len(pictures)


bits = st.integers(0, 63)
families = st.lists(
    st.tuples(st.integers(0, 2**64 - 1), st.lists(st.sets(bits, max_size=4), max_size=4)), min_size=1, max_size=6
)


@given(families, st.sampled_from([0, 1, 4, 7]))
@settings(max_examples=60, deadline=None)
def test_near_groups_are_the_connected_components(families, near_bits):
    hashes = [base ^ sum(1 << bit for bit in flips) for base, variants in families for flips in [set(), *variants]]
    component = list(range(len(hashes)))
    for _ in hashes:  # labels spread until nothing changes
        for i, j in itertools.product(range(len(hashes)), repeat=2):
            if (hashes[i] ^ hashes[j]).bit_count() <= near_bits:
                component[i] = component[j] = min(component[i], component[j])
    expected = [min(h for h, c in zip(hashes, component, strict=True) if c == own) for own in component]
    assert near_groups(hashes, near_bits) == expected


def test_near_bits_out_of_range_is_an_error():
    for near_bits in (-1, 16):
        with pytest.raises(ValueError, match="near_bits"):
            near_groups([1, 2], near_bits)


@pytest.mark.parametrize(
    ("record", "error", "message"),
    [
        (None, FileNotFoundError, "no image"),
        ({"bytes": None, "path": None}, FileNotFoundError, "no image"),
        ({"bytes": None, "path": "nowhere.png"}, FileNotFoundError, "not followed.*nowhere.png"),
        ({"bytes": None, "path": __file__}, FileNotFoundError, "not followed"),
        ({"path": "http://127.0.0.1/a.png"}, FileNotFoundError, "not followed"),
        ({"bytes": b"no image", "path": None}, ValueError, "not an image"),
        ({"bytes": b"", "path": None}, ValueError, "not an image"),
        ("cut off", ValueError, "truncated"),
    ],
)
def test_what_cannot_be_read_is_told(record, error, message):
    if record == "cut off":
        whole = record_of(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)))
        record = {"bytes": whole["bytes"][:3000], "path": None}
    with pytest.raises(error, match=message):
        read_image(record)
