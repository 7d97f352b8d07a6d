"""What the example ``reembed_docs`` reads out of installed packages."""

from __future__ import annotations

from importlib.metadata import Distribution

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from example_dags import reembed_docs

MODULE = '''
"""What the module does."""
raise SystemExit("imported!")
class Outer:
    """A class."""
    def method(self):
        """A method."""
        def local(): "of nobody's interest"
    class Inner:
        """A class within."""
    def _hidden(self): "not for others"
async def function():
    """A function."""
def undocumented(): pass
'''


@pytest.fixture
def installed(tmp_path):
    """A distribution with the files given, each by its path and its text, or ``None`` for one that is gone."""

    def install(files):
        info = tmp_path / "made_up-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: made-up\nVersion: 1.0\n")
        (info / "RECORD").write_text("".join(f"{name},,\n" for name in files))
        for name, text in files.items():
            if text is not None:
                (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
        return {"made-up": Distribution.at(info)}

    return install


def harvest(packages):
    return [tuple(row.values()) for row in reembed_docs.documentation(packages, 1_000)]


def test_public_objects_in_order(installed):
    """Module, classes, methods and functions come out in the order of the file, private ones do not, nothing is imported."""
    assert harvest(installed({"pack/part.py": MODULE})) == [
        ("made-up", "pack.part", "", "module", "What the module does."),
        ("made-up", "pack.part", "Outer", "class", "A class."),
        ("made-up", "pack.part", "Outer.method", "function", "A method."),
        ("made-up", "pack.part", "Outer.Inner", "class", "A class within."),
        ("made-up", "pack.part", "function", "function", "A function."),
    ]


def test_files_that_do_not_count(installed):
    """Tests, broken files, files of no known encoding, missing files and other suffixes are passed over."""
    packages = installed(
        {
            "pack/__init__.py": '"""Kept."""',
            "pack/tests/test_it.py": '"""A test."""',
            "pack/broken.py": '"""Broken."""\ndef',
            "pack/latin.py": '"""\udcff"""',
            "pack/notes.txt": '"""A note."""',
            "pack/gone.py": None,
            "../../bin/tool.py": None,
        }
    )
    assert harvest(packages) == [("made-up", "pack", "", "module", "Kept.")]


def test_unknown_package():
    """A package that is not installed is an error that names it, and names are compared as installers do."""
    assert list(reembed_docs.choose(["PyArrow"])) == ["pyarrow"]
    with pytest.raises(ValueError, match="not installed: no-such-thing"):
        reembed_docs.choose(["pyarrow", "No_Such.Thing"])


def test_whole_environment():
    """What is installed here has thousands of texts, in the same order each time."""
    packages = reembed_docs.choose(["apache-airflow-task-sdk", "numpy", "pytest"])
    first = harvest(packages)
    assert len(first) > 2_000
    assert first == harvest(packages)


@pytest.mark.parametrize(
    ("documentation", "text"),
    [
        ("One.\n\nTwo\n  lines.", "One. Two lines."),
        ("mean(a, axis=None) -> array\n\nThe mean.", "The mean."),
        ("Title\n=====\n\nWhat it is.", "What it is."),
        (".. versionadded:: 2\n\nNew.", "New."),
        (":rtype: int", ""),
        ("-----", ""),
        ("a.b", "a.b"),
        ("Call f(x) first.", "Call f(x) first."),
        ("读取温度。", "读取温度。"),
    ],
)
def test_prose(documentation, text):
    """Signatures, headings and directives in front of the first sentence are left out."""
    assert reembed_docs.prose(documentation, 1_000) == text


@given(st.text(), st.integers(20, 60))
def test_prose_of_anything(documentation, max_chars):
    """Whatever the documentation, the text is one line, short enough, and can be sent."""
    text = reembed_docs.prose(documentation, max_chars)
    assert len(text) <= max_chars
    assert "\n" not in text
    text.encode()


def test_long_prose_ends_at_a_sentence():
    """A cut comes after a sentence, or else between words, or else anywhere."""
    assert reembed_docs.prose("Short one. Then a very long one follows.", 30) == "Short one."
    assert reembed_docs.prose("no sentence in these words", 20) == "no sentence in"
    assert reembed_docs.prose("x" * 50, 20) == "x" * 20


@given(st.lists(st.text(max_size=5), unique=True, max_size=30), st.integers(1, 30))
def test_sample(texts, size):
    """A sample keeps the order, is a part of any larger one, and loses at most a row when another comes."""
    rows = [{"text": text} for text in texts]
    chosen = reembed_docs.sample(iter(rows), size)
    assert len(chosen) == min(size, len(rows))
    assert [row for row in rows if row in chosen] == chosen
    assert all(row in reembed_docs.sample(iter(rows), size + 1) for row in chosen)
    with_another = reembed_docs.sample([*rows, {"text": "another"}], size)
    assert sum(row not in with_another for row in chosen) <= 1


def test_unchanged_file_is_left_alone(tmp_path):
    """The same rows leave the very file in place, other rows replace it, in row groups."""
    path = tmp_path / "data" / "docs.parquet"
    rows = [dict.fromkeys(reembed_docs.SCHEMA.names, str(number)) for number in range(reembed_docs.ROW_GROUP_ROWS + 1)]
    assert reembed_docs.write_if_changed(rows, path) == {"rows": 5_001, "changed": True, "path": str(path)}
    before = path.stat()
    assert pq.ParquetFile(path).num_row_groups == 2
    assert reembed_docs.write_if_changed(iter(rows), path)["changed"] is False
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert reembed_docs.write_if_changed(rows[:-1], path)["changed"] is True
    assert pq.read_table(path).to_pylist() == rows[:-1]
    assert [file.name for file in path.parent.iterdir()] == ["docs.parquet"]
