"""Sources of every shape that Parquet allows: carried along as they are, or refused by name before any call."""

from __future__ import annotations

import datetime as dt
import time
from decimal import Decimal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException

TEXTS = pa.array(["a b", "c d", None])

COLUMNS = {
    "int8": pa.array([1, None, -3], pa.int8()),
    "uint64": pa.array([2**64 - 1, None, 0], pa.uint64()),
    "float16": pa.array([1.5, None, 2], pa.float16()),
    "bool": pa.array([True, None, False]),
    "null": pa.nulls(3),
    "decimal128": pa.array([Decimal("1.10"), None, Decimal("-9.99")], pa.decimal128(38, 2)),
    "decimal256": pa.array([Decimal("1.10"), None, Decimal("-9.99")], pa.decimal256(60, 2)),
    "date32": pa.array([dt.date(2020, 1, 1), None, dt.date(1, 1, 1)]),
    "timestamp": pa.array([1, None, -1], pa.timestamp("ns", "Asia/Shanghai")),
    "time64": pa.array([1, None, 5], pa.time64("ns")),
    "duration": pa.array([1, None, 5], pa.duration("us")),
    "binary": pa.array([b"\xff", None, b""], pa.binary()),
    "fixed binary": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "large binary": pa.array([b"\xff", None, b""], pa.large_binary()),
    "large string": pa.array(["a", None, ""], pa.large_string()),
    "string view": pa.array(["a", None, "x" * 50], pa.string_view()),
    "dictionary": pa.array(["a", None, "a"]).dictionary_encode(),
    "ordered dictionary": pa.DictionaryArray.from_arrays(pa.array([0, None, 1], pa.int8()), ["z", "y"], ordered=True),
    "list": pa.array([[1], None, []], pa.list_(pa.field("element", pa.int32()))),
    "large list": pa.array([["1"], None, []], pa.large_list(pa.field("element", pa.string()))),
    "fixed list": pa.array([[1, 2], None, [3, None]], pa.list_(pa.field("element", pa.float32()), 2)),
    "struct": pa.array(
        [{"a": 1, "b": {"c": ["x"]}}, None, {"a": None, "b": None}],
        pa.struct([("a", pa.int64()), ("b", pa.struct([("c", pa.list_(pa.field("element", pa.string())))]))]),
    ),
    "map": pa.array([[("k", 1)], None, []], pa.map_(pa.string(), pa.int32())),
    "list of structs": pa.array(
        [[{"a": [1]}], None, []],
        pa.list_(pa.field("element", pa.struct([("a", pa.list_(pa.field("element", pa.int8())))]))),
    ),
    "uuid": pa.array([b"0123456789abcdef", None, b"0123456789abcdee"], pa.uuid()),
    "json": pa.array(['{"a":1}', None, "[]"], pa.json_()),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [2]),
        pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.field("element", pa.int32()), 2)),
    ),
}


def test_every_type_is_carried_along(bench):
    """Columns of all types that Parquet keeps come out with equal type and equal values, and so does their metadata."""
    fields = [pa.field("text", pa.string(), metadata={"k": "v"})]
    fields += [pa.field(name, column.type, metadata={"about": name}) for name, column in COLUMNS.items()]
    table = pa.table([TEXTS, *COLUMNS.values()], schema=pa.schema(fields, metadata={"made": "by us"}))
    bench.write(table)
    bench.run()
    out = bench.table()
    assert out.schema.metadata[b"made"] == b"by us"
    for field in fields:
        found = out.schema.field(field.name)
        assert found.type == field.type
        assert found.metadata[b"k" if field.name == "text" else b"about"]
        assert out[field.name].combine_chunks().equals(table[field.name].combine_chunks())


@pytest.mark.parametrize(
    "names",
    [
        ("a.b",),
        ("a.b", "a"),
        ("",),
        ("x y", "`q`", '"'),
        ("数据",),
        ("text.x",),
        ("TEXT",),
        ("\0",),
        ("x\ny",),
        ("a" * 5000,),
    ],
)
def test_columns_of_any_name_are_carried_along(bench, names):
    """A name is a name, whatever is in it."""
    table = pa.table([TEXTS, *([pa.array([1, 2, 3])] * len(names))], names=["text", *names])
    bench.write(table)
    bench.run()
    assert bench.table().schema.names == ["text", *names, "embedding", "embedding_error"]
    assert bench.table().select(["text", *names]).equals(table)


@pytest.mark.parametrize(
    "kind",
    [pa.large_string(), pa.string_view(), pa.binary(), pa.dictionary(pa.int16(), pa.string()), pa.json_()],
)
def test_texts_are_read_from_every_type_that_holds_them(bench, kind):
    """The same text has the same vector, whatever the type of its column."""
    bench.write(pa.table({"text": pa.array(["a", "b", None]).cast(kind)}))
    bench.run()
    assert bench.paid_for(["a", "b"]) == [1, 1]
    assert [row["embedding"] is None for row in bench.rows()] == [False, False, True]


def test_a_dotted_path_reaches_into_structs(bench):
    """A field of a struct of a struct is asked; a column of that whole name comes first."""
    inner = pa.array([{"body": {"text": "inside"}}, None])
    bench.write(pa.table({"doc": inner}))
    bench.run(input_column="doc.body.text")
    assert bench.paid_for(["inside"]) == [1]
    bench.write(pa.table({"doc": inner, "doc.body.text": ["outside", "too"]}))
    bench.run(input_column="doc.body.text")
    assert bench.paid_for(["inside", "outside", "too"]) == [1, 1, 1]


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("txt", "did you mean 'text'"),
        ("Text", "did you mean 'text'"),
        ("meta.titel", "did you mean 'meta.title'"),
        ("nothing like it", "it has 'id', 'text', 'meta'"),
        ("id", "is of type int64"),
        ("meta", "is of type struct"),
    ],
)
def test_a_column_that_cannot_be_asked_is_named(bench, column, words):
    """A missing or wrong column stops the task before any call, with what was probably meant."""
    bench.write(pa.table({"id": [1], "text": ["a"], "meta": [{"title": "b"}]}))
    with pytest.raises(AirflowFailException, match=words):
        bench.run(input_column=column)
    assert bench.server.requests == 0


@pytest.mark.parametrize("names", [("text", "x", "x"), ("text", "text")])
def test_doubled_columns_are_refused_by_name(bench, names):
    """Nobody knows which of two columns of one name is meant."""
    bench.write(pa.table([TEXTS] * len(names), names=names))
    with pytest.raises(AirflowFailException, match=f"more than one column '{names[-1]}'"):
        bench.run()
    assert bench.server.requests == 0


@pytest.mark.parametrize("groups", [0, 1, 3])
def test_a_file_without_rows_gives_a_valid_dataset(bench, groups):
    """Zero rows, in no row group or in empty ones: the full schema, no call."""
    schema = pa.schema([("text", pa.string()), ("n", pa.int64())])
    with pq.ParquetWriter(bench.source, schema) as writer:
        for _ in range(groups):
            writer.write_table(schema.empty_table())
    assert bench.run()["rows"] == 0
    assert bench.table().schema.names == ["text", "n", "embedding", "embedding_error"]
    assert str(bench.table().schema.field("embedding").type) == "fixed_size_list<element: float>[8]"
    assert bench.server.requests == 0


WIDER = [
    (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
    (pa.array([1.5], pa.float32()), pa.array([1e300]), pa.float64()),
    (pa.array([2**31 - 1], pa.int32()), pa.array([1.5], pa.float32()), pa.float64()),
    (pa.array(["x"]), pa.array(["y"], pa.large_string()), pa.large_string()),
    (pa.nulls(1), pa.array([2]), pa.int64()),
    (pa.array([{"a": 1}]), pa.array([{"a": 1, "b": 2}]), pa.struct([("a", pa.int64()), ("b", pa.int64())])),
    (pa.array([Decimal("1.10")], pa.decimal128(5, 2)), pa.array([Decimal("1.1000")], pa.decimal128(10, 4)), pa.decimal128(10, 4)),
    (pa.array([[1]], pa.list_(pa.int32())), pa.array([[2**40]]), pa.list_(pa.field("element", pa.int64()))),
]  # fmt: skip
NOT_WIDER = [
    (pa.array([2**60 + 1]), pa.array([1.5])),
    (pa.array([-1]), pa.array([2**63], pa.uint64())),
    (pa.array([1]), pa.array(["x"])),
    (pa.array([True]), pa.array([2])),
    (pa.array([1], pa.timestamp("us")), pa.array([1], pa.timestamp("us", "UTC"))),
    (pa.array(["x"]), pa.array(["y"]).dictionary_encode()),
]


def two_files(bench, first, second):
    bench.write(pa.table({"text": ["a"], "x": first}), "in/a.parquet")
    bench.write(pa.table({"text": ["b"], "x": second}), "in/b.parquet")
    return str(bench.folder / "in")


@pytest.mark.parametrize(("first", "second", "together"), WIDER)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_widen_safely_are_unified(bench, first, second, together, turned):
    """Files with a narrower type are read as the wider one, whichever comes first, with equal values."""
    columns = (second, first) if turned else (first, second)
    bench.run(source=two_files(bench, *columns))
    assert bench.table().schema.field("x").type == together
    assert bench.table()["x"].to_pylist() == [one.cast(together)[0].as_py() for one in columns]


@pytest.mark.parametrize(("first", "second"), NOT_WIDER)
@pytest.mark.parametrize("turned", [False, True])
def test_types_that_lose_something_are_refused(bench, first, second, turned):
    """The message has the file, the column and both types, and no value; nothing is asked."""
    columns = (second, first) if turned else (first, second)
    told = rf"b\.parquet: columns do not fit the other files \(x: {columns[0].type.id and '.*'} elsewhere, .* here\)"
    with pytest.raises(AirflowFailException, match=told):
        bench.run(source=two_files(bench, *columns))
    assert bench.server.requests == 0


def test_a_value_beyond_the_wider_type_is_not_quoted(bench):
    """Casting may fail only for some values: then the column is named, and the value is not."""
    source = two_files(bench, pa.array([123456789012345678], pa.timestamp("us")), pa.array([1], pa.timestamp("ns")))
    with pytest.raises(AirflowFailException, match="column 'x' is timestamp") as caught:
        bench.run(source=source)
    error = caught.value
    while error is not None:
        assert "123456789012345678" not in str(error)
        error = error.__cause__ or error.__context__


def test_columns_that_some_files_lack_are_null_there(bench):
    """Even where the others promise that they are never null; and the order of columns does not matter."""
    promised = pa.schema([pa.field("text", pa.string()), pa.field("x", pa.int64(), nullable=False)])
    bench.write(pa.table({"text": ["a"], "x": [1]}, schema=promised), "in/a.parquet")
    bench.write(pa.table({"text": ["b"]}), "in/b.parquet")
    bench.write(pa.table({"x": [3], "text": ["c"]}), "in/c.parquet")
    bench.run(source=str(bench.folder / "in"))
    assert [(row["text"], row["x"]) for row in bench.rows()] == [("a", 1), ("b", None), ("c", 3)]


@pytest.mark.parametrize(
    ("folders", "values"),
    [
        (["dt=2026-01-01", "dt=2026-01-02"], ["2026-01-01", "2026-01-02"]),
        (["dt=x=y"], ["x=y"]),
        (["dt=%2F"], ["/"]),
        (["dt=%252F"], ["%2F"]),
        (["dt=b c", "dt=b%20c"], ["b c", "b c"]),
        (["dt=数据"], ["数据"]),
        (["dt=__HIVE_DEFAULT_PARTITION__"], [None]),
        (["dt=007", "dt=7"], ["007", "7"]),
        (["dt="], [""]),
        (["dt=%FE", "dt=%FF"], ["%FE", "%FF"]),
        (["dt=%7B%7B 7*7 %7D%7D"], ["{{ 7*7 }}"]),
        (["dt=[1]*?"], ["[1]*?"]),
        (["dt=a\nb"], ["a\nb"]),
    ],
)
def test_partition_values_are_decoded_once_and_stay_text(bench, folders, values):
    """Whatever a folder says, the column has it as text."""
    for i, folder in enumerate(folders):
        bench.write(pa.table({"text": [f"t{i}"]}), f"in/{folder}/a.parquet")
    bench.run(source=str(bench.folder / "in"))
    assert [row["dt"] for row in bench.rows()] == values


def test_partitions_of_several_levels(bench):
    """Each level is a column, an underscore in a key's name hides nothing, and our own state folder is never read."""
    bench.write(pa.table({"text": ["a"]}), "in/_year=2026/month=01/a.parquet")
    bench.write(pa.table({"text": ["b"]}), "in/_temporary/b.parquet")
    bench.write(pa.table({"text": ["c"]}), "in/.hidden/c.parquet")
    bench.run(source=str(bench.folder / "in"))
    assert [(row["text"], row["_year"], row["month"]) for row in bench.rows()] == [("a", "2026", "01")]


def test_a_thousand_files_start_soon(bench):
    """A thousand files of one row are many rows a request, one output file, and a start of at most a few seconds."""
    for i in range(1000):
        bench.write(pa.table({"text": [f"text {i}"]}), f"in/{i:04d}.parquet", compression="none")
    began = time.monotonic()
    summary = bench.run(source=str(bench.folder / "in"), dry_run=True)
    seconds = time.monotonic() - began
    print(f"1000 files: planned in {seconds:.2f} s")
    assert seconds < 15  # about one on an idle machine
    assert summary["requests_estimated"] == 100
    summary = bench.run(source=str(bench.folder / "in"))
    assert (summary["rows"], summary["requests"], summary["files"]) == (1000, 100, 1)
    bench.check([f"text {i}" for i in range(1000)])


def test_doubled_rows_are_kept(bench):
    """Rows with the same id and the same text are all there, in order, and paid once."""
    bench.write(pa.table({"id": [7, 7, 7], "text": ["same", "same", "other"]}))
    summary = bench.run()
    assert [(row["id"], row["text"]) for row in bench.rows()] == [(7, "same"), (7, "same"), (7, "other")]
    assert (summary["embedded"], summary["deduplicated"]) == (2, 1)
    assert bench.paid_for(["same", "other"]) == [1, 1]


@pytest.mark.timeout(20)
def test_few_different_texts_in_many_rows_are_answered(bench):
    """Twenty thousand rows with three texts: three are asked, and the run ends."""
    bench.write([f"text {i % 3}" for i in range(20_000)])
    summary = bench.run()
    assert (summary["embedded"], summary["deduplicated"]) == (3, 19_997)
