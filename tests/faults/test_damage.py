"""Files that are damaged, hostile or no Parquet at all: never wrong data without an error, never a paid call for nothing."""

from __future__ import annotations

import base64
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.sdk.exceptions import AirflowFailException
from fsspec.implementations.local import LocalFileSystem

from airflow_provider_modelstudio.inference.dataset import open_source
from airflow_provider_modelstudio.inference.errors import InputError

ROWS = 600
DICE = random.Random(3)  # noqa: S311  # the same damage each time
TABLE = pa.table(
    {
        "id": range(ROWS),
        "text": [f"text {i} " + "".join(DICE.choices("abcdef ", k=DICE.randint(0, 60))) for i in range(ROWS)],
        "tag": [f"t{i % 7}" for i in range(ROWS)],
        "score": [i / 7 for i in range(ROWS)],
        "list": [[i] * (i % 4) for i in range(ROWS)],
    },
    schema=pa.schema(
        [
            ("id", pa.int64()),
            ("text", pa.string()),
            ("tag", pa.string()),
            ("score", pa.float64()),
            ("list", pa.list_(pa.field("element", pa.int64()))),
        ]
    ),
)
NAMES = TABLE.column_names


def read(path):
    """All rows, as the engine reads them."""
    source = open_source(LocalFileSystem(), str(path))
    rows = sum(file.rows for file in source.files)
    return pa.Table.from_batches([batch for _, batch in source.windows([(0, rows)])], source.schema)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
def test_no_flipped_bit_becomes_data(tmp_path, compression):
    """Of 200 files with checksums and one bit flipped, each reads as it was written or is refused by its name.

    Names of columns stand in the footer, which has no checksum: they may change, the values below them may not.
    """
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=150, write_page_checksum=True, compression=compression)
    sound = path.read_bytes()
    told = 0
    for _ in range(200):
        damaged = bytearray(sound)
        damaged[DICE.randrange(len(damaged))] ^= 1 << DICE.randrange(8)
        path.write_bytes(damaged)
        try:
            found = read(path)
        except InputError as error:
            told += str(path) in str(error)
        else:
            assert found.rename_columns(NAMES).equals(TABLE)
    assert told > 150


def test_no_cut_file_becomes_data(tmp_path):
    """A file that ends early, anywhere, or has lost a piece from its middle, is refused by its name."""
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=150, write_page_checksum=True)
    sound = path.read_bytes()
    for end in range(0, len(sound), len(sound) // 40):
        path.write_bytes(sound[:end])
        with pytest.raises(InputError, match=r"a\.parquet: not a readable Parquet file"):
            read(path)
    for start in range(4, len(sound) - 400, len(sound) // 40):
        path.write_bytes(sound[:start] + sound[start + 300 :])
        with pytest.raises(InputError, match=r"a\.parquet"):
            read(path)


def test_rows_that_a_footer_hides_are_missed(tmp_path):
    """Row groups that do not add up to the file, or pages that do not add up to their row group, are damage."""
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, row_group_size=150, write_page_checksum=True, compression="none")
    sound = path.read_bytes()
    length = int.from_bytes(sound[-8:-4], "little") + 8
    for at in range(len(sound) - length, len(sound) - 8, 3):
        damaged = bytearray(sound)
        damaged[at] ^= 1 << DICE.randrange(8)
        path.write_bytes(damaged)
        try:
            found = open_source(LocalFileSystem(), str(path))
        except InputError:
            continue
        assert sum(file.rows for file in found.files) == ROWS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PAR1",
        b"PAR1PAR1",
        b"PAR1\x00\x00\x00\x00PAR1",
        b"PAR1\xff\xff\xff\x7fPAR1",
        b"PAR1\xff\xff\xff\xffPAR1",
        b"id,text\n1,a\n",
        b'{"text": "a"}\n',
        b"ARROW1\x00\x00" + bytes(40) + b"ARROW1",
        b"\x1f\x8b" + bytes(100),
        bytes(10_000),
    ],
)
def test_what_is_no_parquet_is_named_before_any_call(bench, content):
    """Whatever lies there under that name, nothing is asked and nothing is written."""
    bench.source.write_bytes(content)
    with pytest.raises(AirflowFailException, match=r"in\.parquet: not a readable Parquet file"):
        bench.run()
    assert bench.server.requests == 0
    assert not bench.destination.exists()


def test_one_bad_file_among_many_is_named(bench):
    """The message has the file that is bad, and no call was made for the others."""
    for i in range(5):
        bench.write([f"text {i}"], f"in/{i}.parquet")
    bad = bench.folder / "in" / "3.parquet"
    bad.write_bytes(bad.read_bytes()[:-9])
    with pytest.raises(AirflowFailException, match=r"in/3\.parquet"):
        bench.run(source=str(bench.folder / "in"))
    assert bench.server.requests == 0


def test_damaged_texts_are_found_before_any_call(bench):
    """Texts are read whole before the first one is asked: damage in the last row group costs nothing."""
    bench.write(TABLE, row_group_size=100, write_page_checksum=True, compression="none")
    content = bench.source.read_bytes()
    last = pq.read_metadata(bench.source).row_group(5).column(1)
    at = (last.dictionary_page_offset or last.data_page_offset) + last.total_compressed_size // 2
    bench.source.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with pytest.raises(AirflowFailException, match=r"in\.parquet, row group 5: cannot be read"):
        bench.run()
    assert bench.server.requests == 0


def test_damage_in_another_column_stops_and_keeps_what_was_paid(bench):
    """Columns that are carried along are read with the rows: the run stops there, and a mended file costs the rest."""
    bench.write(TABLE, row_group_size=100, write_page_checksum=True, compression="none")
    sound = bench.source.read_bytes()
    last = pq.read_metadata(bench.source).row_group(5).column(3)
    at = (last.dictionary_page_offset or last.data_page_offset) + last.total_compressed_size // 2
    bench.source.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
    with pytest.raises(AirflowFailException, match=r"in\.parquet, row group 5: cannot be read"):
        bench.run()
    assert not bench.destination.exists()
    bench.source.write_bytes(sound)
    bench.run()
    bench.check(TABLE["text"].to_pylist())
    assert set(bench.paid().values()) == {1}


@pytest.mark.parametrize("footer", ["encrypted", "plain"])
def test_encrypted_files_are_told_apart(bench, footer):
    """A file, or a column, that is encrypted is refused as such before any call."""
    encryption = pytest.importorskip("pyarrow.parquet.encryption")

    class Keys(encryption.KmsClient):
        def __init__(self, _):
            super().__init__()

        def wrap_key(self, key_bytes, master_key_identifier):
            return base64.b64encode(key_bytes)

        def unwrap_key(self, wrapped_key, master_key_identifier):
            return base64.b64decode(wrapped_key)

    asked = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": ["text"]}, plaintext_footer=footer == "plain"
    )
    factory = encryption.CryptoFactory(Keys)
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), asked)
    bench.write(TABLE, encryption_properties=properties)
    with pytest.raises(AirflowFailException, match=r"in\.parquet.*[dD]ecrypt"):
        bench.run()
    assert bench.server.requests == 0


def test_the_output_has_checksums(bench):
    """A flipped bit in a page of our own dataset is noticed by a reader who looks at checksums."""
    bench.write(TABLE)
    bench.run()
    (part,) = bench.destination.iterdir()
    content = bytearray(part.read_bytes())
    chunk = pq.read_metadata(part).row_group(0).column(5)
    content[chunk.data_page_offset + chunk.total_compressed_size // 2] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.read_table(pa.BufferReader(bytes(content)), page_checksum_verification=True)
