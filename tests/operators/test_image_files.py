"""Images in files, through the whole operator: what is sent, what fails alone, what is asked again."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from dataclasses import replace

import pyarrow as pa
import pytest
from airflow.sdk.exceptions import AirflowFailException
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_modelstudio.inference.dataset.images import ImageFiles
from airflow_provider_modelstudio.operators.multi_modal_embedding import MultiModalEmbedOperator


def png(shade):
    """A square of one shade of grey."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + bytes([shade]) * 8 for _ in range(8))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    (folder / "black.png").write_bytes(png(0))
    (folder / "white.png").write_bytes(png(255))
    (folder / "deep" / "black too.png").write_bytes(png(0))
    (folder / "huge.png").write_bytes(png(9) + bytes(2000))
    (tmp_path / "secret.png").write_bytes(png(7))
    return folder


NAMES = ["black.png", "none.png", "../secret.png", "white.png", "huge.png", "deep/black too.png", None]


def test_files_are_sent_themselves_and_each_row_fails_alone(sandbox, run, images):
    """Good files have the vector of their bytes, equal ones are asked once; each other row has its reason and its place."""
    summary, rows = run(
        MultiModalEmbedOperator,
        pa.table({"file": NAMES}),
        inference_id="bailian_mm",
        image_column="file",
        image_root=str(images),
        max_image_bytes="1000",
    )
    assert [row["file"] for row in rows] == NAMES
    assert [row["embedding_error"] for row in rows] == [
        None,
        "image file is missing",
        "image file lies outside of image_root",
        None,
        "image is larger than 1000 bytes",
        None,
        "no text, image or video",
    ]
    assert rows[0]["embedding"] == rows[5]["embedding"] != rows[3]["embedding"]
    assert (summary["embedded"], summary["deduplicated"], summary["failed"]) == (2, 1, 4)
    assert sum(paid.count for paid in sandbox.bill) == 2


def test_images_of_an_object_store_are_sent_themselves(sandbox, run, images):
    """A URI as image_root: what a row names there has the vector of its bytes, as on disk."""
    store = MemoryFileSystem()
    attach("memory", conn_id="pictures", fs=store)
    for name in ("black.png", "white.png"):
        store.pipe_file(f"/catalogue/{name}", (images / name).read_bytes())
    table = pa.table({"file": ["black.png", "none.png", "/catalogue/white.png", "../secret.png"]})
    named = {"inference_id": "bailian_mm", "image_column": "file"}
    _, rows = run(MultiModalEmbedOperator, table, image_root="memory://pictures@/catalogue", **named)
    assert [row["embedding_error"] for row in rows] == [
        None,
        "image file is missing",
        None,
        "image file lies outside of image_root",
    ]
    disk = pa.table({"file": ["black.png", "white.png"]})
    _, same = run(MultiModalEmbedOperator, disk, image_root=str(images), run_id="disk", **named)
    assert [row["embedding"] for row in same] == [rows[0]["embedding"], rows[2]["embedding"]]


def test_the_same_images_in_a_column_have_the_same_vectors(sandbox, run, images, tmp_path):
    """A file and its bytes ask the same."""
    _, files = run(
        MultiModalEmbedOperator,
        pa.table({"i": ["black.png"]}),
        inference_id="bailian_mm",
        image_column="i",
        image_root=str(images),
    )
    _, bytes_ = run(
        MultiModalEmbedOperator,
        pa.table({"i": pa.array([png(0)], pa.binary())}),
        inference_id="bailian_mm",
        image_column="i",
        destination=str(tmp_path / "other"),
    )
    assert files[0]["embedding"] == bytes_[0]["embedding"]


def test_a_changed_file_is_asked_again_and_no_other(sandbox, run, images):
    """What is asked is the content: a new image under an old name is new, in the next version of the table."""
    table = pa.table({"n": [1, 2], "file": ["black.png", "white.png"]})
    parameters = {"inference_id": "bailian_mm", "image_column": "file", "image_root": str(images)}
    run(MultiModalEmbedOperator, table, **parameters)
    (images / "white.png").write_bytes(png(200))
    summary, _ = run(MultiModalEmbedOperator, None, run_id="b", **parameters)
    assert summary["requests"] == 0  # the table is the same, and its run is finished
    summary, _ = run(MultiModalEmbedOperator, table.append_column("new", pa.array([1, 1])), run_id="c", **parameters)
    assert (summary["embedded"], summary["reused"]) == (1, 1)


def test_without_a_root_a_path_is_no_image(sandbox, run, images):
    """Files are read only where the Dag says so."""
    _, rows = run(
        MultiModalEmbedOperator,
        pa.table({"file": [str(images / "black.png")]}),
        inference_id="bailian_mm",
        image_column="file",
    )
    assert rows[0]["embedding_error"] == "image is not an http, https or data URL"
    assert sandbox.bill == []


@pytest.mark.parametrize(
    ("root", "words"),
    [
        ("/", "image_root is the top of a disk"),
        ("", "image_root is empty"),
        ("nonsense://x/y", "image_root: Airflow has no"),
    ],
)
def test_a_root_that_bounds_nothing_is_refused(sandbox, run, root, words):
    """The whole disk is no folder of images."""
    with pytest.raises(AirflowFailException, match=words):
        run(
            MultiModalEmbedOperator,
            pa.table({"file": ["a.png"]}),
            inference_id="bailian_mm",
            image_column="file",
            image_root=root,
        )


def test_no_path_is_shown(sandbox, run, images, caplog):
    """A path is data of a row: no log and no summary holds it."""
    summary, _ = run(
        MultiModalEmbedOperator,
        pa.table({"file": ["canary-4711.png", "../canary-4711.png"]}),
        inference_id="bailian_mm",
        image_column="file",
        image_root=str(images),
    )
    assert summary["failed"] == 2
    assert "canary-4711" not in caplog.text + str(summary)


LOOPS = []


class Watched(ImageFiles):
    """Notes whether an event loop would have to wait for a file."""

    def read(self, paths):
        with contextlib.suppress(RuntimeError):
            LOOPS.append(asyncio.get_running_loop())
        return ImageFiles.read(self, paths)

    def sizes(self, paths):
        with contextlib.suppress(RuntimeError):
            LOOPS.append(asyncio.get_running_loop())
        return ImageFiles.sizes(self, paths)


class WatchedOperator(MultiModalEmbedOperator):
    def make_task(self):
        task = super().make_task()
        images = task.images
        return replace(task, images=Watched(images.filesystem, images.root, images.most_bytes))


def test_files_are_read_off_the_event_loop(sandbox, run, images):
    """A slow disk or store must not hold up requests in flight."""
    LOOPS.clear()
    _, rows = run(
        WatchedOperator,
        pa.table({"file": NAMES}),
        inference_id="bailian_mm",
        image_column="file",
        image_root=str(images),
    )
    assert rows[0]["embedding"]
    assert LOOPS == []
