"""Image files below a folder: what is read, what is refused, and how much at a time."""

from __future__ import annotations

import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import WINDOW_BYTES, open_source
from airflow_provider_modelstudio.inference.dataset.images import (
    FORBIDDEN,
    MISSING,
    OUTSIDE,
    ImageFiles,
    SourceWithImages,
)
from airflow_provider_modelstudio.inference.dataset.parts import PartWriter
from airflow_provider_modelstudio.inference.errors import OutageError
from airflow_provider_modelstudio.inference.tasks import Question, Refused
from airflow_provider_modelstudio.inference.tasks.multi_modal_embedding import MultiModalEmbedding

PNG = b"\x89PNG\r\n\x1a\n"
SECRET = b"not an image, and none of a row's business"
FILES = {"a.png": PNG + b"a", "deep/b.png": PNG + b"b", "large.png": PNG + bytes(100), "empty.png": b""}


@pytest.fixture(params=["local", "s3"])
def images(request, tmp_path):
    """A folder with images, and a secret beside it."""
    if request.param == "local":
        filesystem, top = LocalFileSystem(), str(tmp_path)
    else:
        filesystem, top = request.getfixturevalue("s3"), f"bucket/{tmp_path.name}"
    for name, content in {**{f"images/{name}": content for name, content in FILES.items()}, "secret": SECRET}.items():
        filesystem.makedirs(f"{top}/{name}".rpartition("/")[0], exist_ok=True)
        filesystem.pipe_file(f"{top}/{name}", content)
    return ImageFiles(filesystem, f"{top}/images", most_bytes=64)


def test_files_are_read_by_relative_and_by_whole_paths(images):
    """Below the folder every spelling of a path leads to the same file."""
    whole = f"/{images.root.lstrip('/')}/a.png"
    spellings = ["a.png", "./a.png", "deep/../a.png", str(images) + "/a.png"]
    if isinstance(images.filesystem, LocalFileSystem):
        spellings.append(whole)
    assert images.read([*spellings, "deep/b.png"]) == [FILES["a.png"]] * len(spellings) + [FILES["deep/b.png"]]
    assert images.sizes(["deep/b.png", "a.png"]) == [9, 9]


HOSTILE = [
    "../secret",
    "deep/../../secret",
    "./.././secret",
    "../images/../secret",
    "../images-other/x.png",
    "..",
    ".",
    "",
    "/etc/passwd",
    "//etc/passwd",
    "/../../../../etc/passwd",
    "../" * 40 + "etc/passwd",
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "file:/etc/passwd",
    "ftp://a.example/x.png",
    "http+unix://%2Fetc%2Fpasswd",
    "gs://other/x.png",
    "s3://other-bucket/x.png",
    "local:///etc/passwd",
    "memory://x.png",
    "simplecache::s3://other/x.png",
    "zip://secret::file:///etc/x.zip",
    "a.png\0",
    "a.png\0/../../secret",
    "..\\secret",
    "%2e%2e/secret",
    "..%2fsecret",
    "~/.ssh/id_rsa",
    "$HOME/x.png",
    "{{ var.value.x }}",
    "a.png/",
    "a.png/..",
    "deep",
    "deep/",
    "con:/x",
    "\ud7ff" * 400,
    "x" * 5000,
    "a" * 300 + ".png",
    "\u2025/secret",
]


def test_there_are_forty_hostile_paths():
    """As many as were promised."""
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("path", HOSTILE)
def test_nothing_outside_of_the_folder_is_read(images, path):
    """However a path is spelled, it leads below the folder or nowhere; what it is told repeats nothing of it."""
    (found,) = images.read([path])
    # A file's name with a slash behind it is that file to an object store's client.
    assert found in {OUTSIDE, MISSING} or (path == "a.png/" and found == FILES["a.png"])
    assert images.sizes([path]) == [0] if isinstance(found, str) else [9]


def test_links_are_followed_inside_only(tmp_path):
    """A link to another image is that image; one that leads out, or to itself, leads nowhere."""
    root = tmp_path / "images"
    (root / "deep").mkdir(parents=True)
    (root / "a.png").write_bytes(FILES["a.png"])
    (tmp_path / "secret").write_bytes(SECRET)
    (root / "same.png").symlink_to("a.png")
    (root / "out.png").symlink_to(tmp_path / "secret")
    (root / "up").symlink_to(tmp_path)
    (root / "loop.png").symlink_to("loop.png")
    (tmp_path / "linked").symlink_to(root)
    images = ImageFiles(LocalFileSystem(), str(tmp_path / "linked"), most_bytes=64)
    assert images.read(["same.png", "out.png", "up/secret", "loop.png"]) == [FILES["a.png"], OUTSIDE, OUTSIDE, MISSING]


def test_what_is_no_file_is_not_waited_for(tmp_path):
    """A pipe that nobody writes to is no image."""
    os.mkfifo(tmp_path / "pipe.png")
    assert ImageFiles(LocalFileSystem(), str(tmp_path), most_bytes=64).read(["pipe.png"]) == [MISSING]


class Broken(LocalFileSystem):
    """A store in trouble."""

    cachable = False

    def __init__(self, error):
        super().__init__()
        self.error = error

    def info(self, path, **options):
        raise self.error


def test_an_outage_is_no_fault_of_a_row(tmp_path):
    """Where the store fails, the task is tried again and no row is marked; a row that may not be read is."""
    with pytest.raises(OutageError, match="cannot be read"):
        ImageFiles(Broken(TimeoutError("read timed out")), str(tmp_path), most_bytes=64).read(["a.png"])
    with pytest.raises(OutageError, match="cannot be read"):
        ImageFiles(Broken(OSError(5, "Input/output error")), str(tmp_path), most_bytes=64).sizes(["a.png", "b.png"])
    assert ImageFiles(Broken(PermissionError(13, "no")), str(tmp_path), most_bytes=64).read(["a.png"]) == [FORBIDDEN]


def test_a_row_has_its_own_reason(images):
    """Missing, too large, empty and unknown files are refused each alone; URLs are handed on; equal images are one."""
    images.filesystem.pipe_file(f"{images.root}/same.png", FILES["a.png"])
    images.filesystem.pipe_file(f"{images.root}/text.png", b"hello")
    task = MultiModalEmbedding(image_column="i", images=images, max_image_bytes=64)
    cells = [
        "a.png",
        "same.png",
        "none.png",
        "large.png",
        "empty.png",
        "text.png",
        "../secret",
        None,
        "https://a/x.png",
    ]
    batch = pa.record_batch({"i": pa.array(cells, pa.string())})
    told = [q if isinstance(q, Question) else q.reason for q in task.questions(batch)]
    assert told[2:8] == [
        MISSING,
        "image is larger than 64 bytes",
        "image is of no known kind",
        "image is of no known kind",
        OUTSIDE,
        "no text, image or video",
    ]
    assert told[0].key == told[1].key
    assert told[0].value.startswith('{"image":"data:image/png;base64,')
    assert told[8].value == '{"image":"https://a/x.png"}'
    assert task.image_bytes(batch) == [9, 9, 0, 0, 0, 5, 0, 0, 0]


def test_lists_of_files_are_one_element(images):
    """Paths, URLs and nothing may stand in one list; one that is refused refuses its row alone."""
    task = MultiModalEmbedding(multi_images_column="i", images=images, max_image_bytes=64)
    batch = pa.record_batch({"i": [["a.png", "https://a/x.png"], ["a.png", "none.png"], None, ["deep/b.png", "a.png"]]})
    first, second, third, fourth = task.questions(batch)
    assert first.value.count("data:image/png;base64,") == 1
    assert second == Refused(MISSING)
    assert third.reason == "no text, image or video"
    assert fourth.value.count("data:image/png;base64,") == 2
    assert task.image_bytes(batch) == [9, 9, 0, 18]


def test_a_file_too_large_fails_the_run_where_that_was_said(images):
    """on_too_long holds for files as it does for bytes of a column."""
    task = MultiModalEmbedding(image_column="i", images=images, max_image_bytes=64, on_too_long="fail")
    too_large, missing = task.questions(pa.record_batch({"i": ["large.png", "none.png"]}))
    assert (too_large.fatal, missing.fatal) == (True, False)


def test_windows_are_cut_by_the_bytes_of_their_files(tmp_path):
    """No window brings more than its share into memory, unless one row alone does; no row is lost or doubled."""
    half = WINDOW_BYTES // 2
    sizes = [half, half, 1, 0, 0, WINDOW_BYTES + 5, 0, half, half, *[1] * 40]
    pq.write_table(pa.table({"n": range(len(sizes)), "size": sizes}), tmp_path / "a.parquet")
    plain = open_source(LocalFileSystem(), str(tmp_path))
    source = SourceWithImages(
        plain.filesystem, plain.location, plain.files, plain.schema, lambda batch: batch["size"].to_pylist()
    )
    windows = list(source.windows([(0, 5), (5, len(sizes))]))
    assert [row for _, batch in windows for row in batch["n"].to_pylist()] == list(range(len(sizes)))
    assert all(batch["n"][0].as_py() == first for first, batch in windows)
    assert all(sum(batch["size"].to_pylist()) <= WINDOW_BYTES or batch.num_rows == 1 for _, batch in windows)
    assert [first for first, _ in windows] == [0, 2, 5, 6, 9]


def test_small_windows_make_whole_row_groups(tmp_path):
    """What was cut small to be read is not small to whoever reads it next."""
    writer = PartWriter(tmp_path / "part.parquet", pa.schema([("n", pa.int64())]), answers=[])
    for start in range(0, 3000, 30):
        writer.write(pa.record_batch({"n": pa.array(range(start, start + 30), pa.int64())}))
    writer.close()
    file = pq.ParquetFile(tmp_path / "part.parquet")
    assert file.read()["n"].to_pylist() == list(range(3000))
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [1020, 1020, 960]
