"""Pictures are told apart by their colours and where these are, whatever file format they come in."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

from airflow_provider_modelstudio.sandbox.pictures import look
from tests.sandbox.loopback import MEDIA, infer
from tests.sandbox.test_answers import vectors

Image = pytest.importorskip("PIL.Image")


def picture(colour, kind="PNG", side=64, spot=None):
    image = Image.new("RGB", (side, side), colour)
    if spot:
        image.paste(spot, (0, 0, side // 2, side // 2))
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def alike(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_the_same_picture_in_another_format_looks_the_same(kind):
    """What counts are pixels, not bytes, and not how many there are."""
    png, other = look(picture("red")), look(picture("red", kind, side=200))
    assert alike(png, other) > 0.98
    assert alike(png, look(picture("blue", kind))) < 0.9


def test_layout_counts_beside_colour():
    """A spot in a corner is seen, and is nearer to the same picture without it than to one of another colour."""
    plain, spotted, green = look(picture("red")), look(picture("red", spot="white")), look(picture("green"))
    assert 1 > alike(plain, spotted) > alike(plain, green)


@pytest.mark.parametrize("raw", [b"", b"no picture", picture("red")[:60], b"GIF89a" + bytes(10)])
def test_what_is_no_picture_is_not_looked_at(raw):
    """Damaged files are no error here: they fall back to the count of their bytes."""
    assert look(raw) is None


def test_a_picture_too_large_is_not_unpacked():
    """Some kilobytes must not become gigabytes."""
    assert look(picture("red", side=6400)) is None


def test_endpoints_see_pictures_that_are_sent(sandbox):
    """Through the whole server: two reds are nearer than red and blue, whatever their bytes are."""
    sources = [picture("red"), picture("#f01010", "JPEG", side=90), picture("blue")]
    uris = [f"data:image/png;base64,{base64.b64encode(raw).decode()}" for raw in sources]
    found = vectors(
        infer(sandbox, MEDIA, ",".join(json.dumps({"image": uri}) for uri in uris)), "multi_modal_embedding"
    )
    assert found[0] @ found[1] > found[0] @ found[2] + 0.1
