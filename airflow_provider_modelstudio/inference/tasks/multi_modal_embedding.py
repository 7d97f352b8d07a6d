"""Dense vectors of texts, images and videos: ``multi_modal_embedding``. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pyarrow as pa

from airflow_provider_modelstudio.inference.errors import AnswerError, ConfigurationError, EndpointError, InputError

from . import Decoded, Question, Refused, RequestLimits, Wider
from .columns import check_text, column_at, field_at, is_binary, is_list, is_string, read_lists, read_texts
from .media import Images, address, data_uri, image_type, is_url, too_large
from .settings import check_at_least, check_choice, check_columns, check_task_settings
from .texts import KEY_BYTES, NOT_UTF8, OnEmpty
from .tokens import estimate_tokens
from .vector_types import VectorType, narrowed, vector_columns, vector_schema
from .vectors import read_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from . import Answer
    from .vectors import Vectors

__all__ = ["NOTHING", "MultiModalEmbedding"]

NOTHING = "no text, image or video"

Cell = str | bytes | Refused | None


@dataclass(frozen=True, kw_only=True, slots=True)
class MultiModalEmbedding:
    """One vector for each row's text, image, video or list of images, or for all of them together.

    The vectors are ``fixed_size_list<element: float32>``, or smaller by ``vector_type``; int8 vectors have a float32 column
    ``<output_column>_scale`` beside them.
    A row's elements go into one request, and a model that fuses them gives one vector back.
    What a row does not have (null, empty or blank) is left out; a row that has nothing is refused.
    Addresses are handed on, not fetched: the service must be able to reach them.
    Files are read where ``images`` says how, and sent themselves.
    """

    text_column: str | None = None
    """Texts, as :class:`~.text_embedding.TextEmbedding` takes them."""
    image_column: str | None = None
    """Strings with ``http``, ``https`` or ``data`` URLs, with ``images`` also paths, or the images themselves in binary:
    PNG, JPEG, GIF, WebP, BMP, TIFF."""
    video_column: str | None = None
    """Strings with ``http``, ``https`` or ``data`` URLs."""
    multi_images_column: str | None = None
    """Lists of what an image column may hold, each list one element: several views of one thing."""
    output_column: str = "embedding"
    independent: bool = False
    """The model gives one vector for each element.
    A row then has one element, so one column is read, and ``limits.rows`` may be more than 1."""
    limits: RequestLimits = field(default_factory=lambda: RequestLimits(rows=1, size=64 * 1024 * 1024))
    """The size is what Model Studio's gateway takes with images in it."""
    images: Images | None = None
    """Reads what is no URL; ``None``: such a row is refused."""
    max_image_bytes: int = 10 * 1024 * 1024
    """Largest image that is sent itself, before it is encoded; models take from 3 to 10 MB."""
    max_images: int | None = None
    """Most images of a row; ``None`` for no bound."""
    max_tokens: int | None = None
    """Longest text, in estimated tokens; ``None`` for no bound."""
    on_empty: OnEmpty = "null"
    """What a row does that has nothing to embed; it is never asked."""
    on_too_long: Literal["null", "fail"] = "null"
    """What a row beyond a limit does."""
    dimensions: int | None = None
    """Values of a vector; another number is an error. ``None`` takes what the endpoint gives."""
    vector_type: VectorType = "float32"
    """In what form vectors are written; see :mod:`.vector_types`."""
    task_settings: Mapping[str, Any] | None = None
    """Sent with each request, where the endpoint knows them."""

    def __post_init__(self) -> None:
        named = self._columns
        check_columns(**named, output_column=self.output_column)
        check_choice("on_empty", self.on_empty, OnEmpty)
        check_choice("on_too_long", self.on_too_long, Literal["null", "fail"])
        check_choice("vector_type", self.vector_type, VectorType)
        check_at_least(
            1,
            max_image_bytes=self.max_image_bytes,
            max_images=self.max_images,
            max_tokens=self.max_tokens,
            dimensions=self.dimensions,
        )
        check_task_settings(self.task_settings)
        if not named:
            raise ConfigurationError("name a text_column, image_column, video_column or multi_images_column")
        if self.independent and len(named) > 1:
            raise ConfigurationError(
                f"{' and '.join(named)} are set, but the model gives one vector for each element (independent); "
                "embed one column at a time, or use a model that fuses"
            )
        if not self.independent and self.limits.rows != 1:
            raise ConfigurationError(
                f"limits.rows is {self.limits.rows!r}; a model that fuses elements (not independent) takes one row a request"
            )

    @property
    def task_type(self) -> str:
        """``multi_modal_embedding``."""
        return "multi_modal_embedding"

    @property
    def input_columns(self) -> tuple[str, ...]:
        """The columns that are set, each once."""
        return tuple(dict.fromkeys(self._columns.values()))

    @property
    def output_columns(self) -> tuple[str, ...]:
        """The column of vectors, and that of their scales if they have some."""
        return tuple(self.output_schema(None).names)

    @property
    def error_column(self) -> str:
        """``<output_column>_error``."""
        return f"{self.output_column}_error"

    @property
    def equal_rows_share(self) -> bool:
        """Equal elements have equal vectors; what an address holds is taken to stay the same."""
        return True

    @property
    def _columns(self) -> dict[str, str]:
        """Setting → column, of those that are set."""
        columns = {
            "text_column": self.text_column,
            "image_column": self.image_column,
            "video_column": self.video_column,
            "multi_images_column": self.multi_images_column,
        }
        return {name: column for name, column in columns.items() if column is not None}

    @property
    def wider(self) -> Wider | None:
        """Float32 vectors of the same questions, where this task writes smaller ones."""
        if self.vector_type == "float32":
            return None
        return Wider(replace(self, vector_type="float32").settings(), self._narrow)

    def check(self, schema: pa.Schema) -> None:
        """Raise :class:`~..errors.InputError` unless each column holds what it should."""
        if self.text_column is not None:
            check_text(schema, self.text_column)
        for path, right, words in (
            (self.image_column, _is_image, "images are strings with URLs, or binary"),
            (self.video_column, _is_url, "videos are strings with URLs"),
            (self.multi_images_column, _is_images, "several images are lists of strings with URLs, or of binary"),
        ):
            if path is not None and not right(kind := field_at(schema, path).type):
                raise InputError(f"column {path!r} is of type {kind}; {words}")

    def settings(self) -> Mapping[str, Any]:
        """What decides the answer beside the elements."""
        form = {} if self.vector_type == "float32" else {"vector_type": self.vector_type}
        return {"task_type": self.task_type, "task_settings": dict(self.task_settings or {}), **form}

    def questions(self, batch: pa.RecordBatch) -> list[Question | Refused]:
        """One question a row; a row with nothing, or with anything that cannot be sent, is refused.

        Tokens are estimated from the text alone: how many an image or a video has depends on its pixels.
        """
        rows = zip(
            _cells(batch, self.text_column, read_texts),
            _cells(batch, self.image_column, self._read_images),
            _cells(batch, self.video_column, _read_media),
            _cells(batch, self.multi_images_column, lambda array: read_lists(array, self._read_images)),
            range(batch.num_rows),
            strict=False,  # what is not set goes on for ever
        )
        return [self._ask(text, image, video, images) for text, image, video, images, _ in rows]

    def image_bytes(self, batch: pa.RecordBatch) -> list[int]:
        """Bytes of files that :meth:`questions` brings into memory for each row."""
        sizes = [0] * batch.num_rows
        if self.images is None:
            return sizes
        rows: list[int] = []
        paths: list[str] = []
        for column in filter(None, (self.image_column, self.multi_images_column)):
            array = column_at(batch, column)
            lists = read_lists(array, _read_media) if is_list(array.type) else ([cell] for cell in _read_media(array))
            for row, cells in enumerate(lists):
                found = [str(cell) for cell in cells or () if _is_path(cell)]
                paths += found
                rows += [row] * len(found)
        for row, size in zip(rows, self.images.sizes(paths), strict=True):
            sizes[row] += size
        return sizes

    def encode(self, questions: Sequence[Question]) -> bytes:
        """``{"input": "…"}``: one string that holds JSON objects with commas between, and no brackets around.

        Character by character what the product page shows, without its line breaks and indentation.
        """
        body: dict[str, Any] = {"input": ",".join(question.value for question in questions)}
        if self.task_settings:
            body["task_settings"] = self.task_settings
        return msgspec.json.encode(body)

    def decode(self, answer: Answer, questions: Sequence[Question]) -> Decoded:
        """``{"multi_modal_embedding": [{"embedding": […]}]}``, in JSON or CBOR; see :func:`.vectors.read_vectors`.

        Raises :class:`~..errors.EndpointError` when the model is of the other kind than the task was told: each answer to
        come would be paid for in vain, and more than one would not tell more.
        """
        try:
            vectors = self._read(answer, len(questions))
        except AnswerError:
            if (reason := self._other_kind(answer, questions)) is not None:
                raise EndpointError(reason) from None
            raise
        schema = self.output_schema(vectors.matrix.shape[1])
        columns, refused = vector_columns(vectors, self.vector_type)
        return Decoded(pa.RecordBatch.from_arrays(columns, schema=schema), refused)

    def output_schema(self, dimensions: int | None) -> pa.Schema:
        """Vectors of the dimensions known, here or from this task; of any length otherwise."""
        return vector_schema(self.output_column, self.vector_type, dimensions or self.dimensions)

    def _read(self, answer: Answer, vectors: int) -> Vectors:
        return read_vectors(
            answer,
            self.task_type,
            rows=vectors,
            dimensions=self.dimensions,
            hint="a model that gives a vector for each element needs rows of one element (independent=True), "
            "a model that fuses them needs one row a request (independent=False)",
        )

    def _other_kind(self, answer: Answer, questions: Sequence[Question]) -> str | None:
        """What to do about a model that is of the other kind; ``None`` when that is not what is wrong with the answer."""
        if self.independent:
            number, said = 1, f"one vector came for {len(questions)} rows: the model fuses them; set independent=False"
        else:
            number = sum(len(json.loads(f"[{question.value}]")) for question in questions)
            said = (
                f"{number} vectors came for a row with {number} elements: the model gives one for each; embed one column at "
                "a time, each into an output_column of its own, or let the endpoint fuse (enable_fusion, where it knows it)"
            )
        if number == len(questions):
            return None
        try:
            self._read(answer, number)
        except AnswerError:
            return None
        return said

    def _narrow(self, columns: pa.RecordBatch) -> Decoded:
        return narrowed(columns, self.output_schema(columns.column(0).type.list_size), self.vector_type)

    def _ask(self, text: Cell, image: Cell, video: Cell, images: list[Cell] | None) -> Question | Refused:
        if self.max_images is not None and len(images or ()) + (not _absent(image)) > self.max_images:
            return self._beyond(f"more than {self.max_images} images")
        elements: list[dict[str, Any]] = []
        for element in (
            self._text(text),
            self._medium("image", image),
            self._medium("video", video),
            self._images(images),
        ):
            if isinstance(element, Refused):
                return element
            if element is not None:
                elements.append(element)
        if not elements:
            return Refused(NOTHING, self.on_empty == "fail")
        wire = ",".join(json.dumps(element, ensure_ascii=False, separators=(",", ":")) for element in elements)
        utf8 = wire.encode()
        if len(utf8) > self.limits.size:
            return self._beyond(f"elements are larger than {self.limits.size} bytes")
        key = blake2b(b"multi_modal_embedding\0" + utf8, digest_size=KEY_BYTES)
        return Question(key.digest(), wire, _tokens(elements[0].get("text", "")), len(utf8) + 1)

    def _read_images(self, array: pa.Array) -> list[Cell]:
        """Addresses as text, images themselves as bytes, be it from the column or from files."""
        cells = _read_media(array)
        if self.images is None:
            return cells
        at = [i for i, cell in enumerate(cells) if _is_path(cell)]
        for i, found in zip(at, self.images.read([str(cells[i]) for i in at]), strict=True):
            if isinstance(found, str):
                cells[i] = self._beyond(found) if found == too_large("image", self.max_image_bytes) else Refused(found)
            else:
                cells[i] = found or Refused("image is of no known kind")  # an empty file is there, unlike a null
        return cells

    def _text(self, cell: Cell) -> dict[str, Any] | Refused | None:
        if _absent(cell):
            return None
        if not isinstance(cell, str):
            return Refused(NOT_UTF8)
        if self.max_tokens is not None and _tokens(cell) > self.max_tokens:
            return self._beyond(f"text is longer than {self.max_tokens} tokens")
        return {"text": cell}

    def _medium(self, kind: Literal["image", "video"], cell: Cell) -> dict[str, Any] | Refused | None:
        if _absent(cell):
            return None
        found = self._address(cell, kind)
        return found if isinstance(found, Refused) else {kind: found}

    def _images(self, cells: list[Cell] | None) -> dict[str, Any] | Refused | None:
        if not cells:
            return None
        addresses = []
        for cell in cells:
            found = Refused("null image") if _absent(cell) else self._address(cell, "image")
            if isinstance(found, Refused):
                return found
            addresses.append(found)
        return {"multi_images": addresses}

    def _address(self, cell: Cell, kind: Literal["image", "video"]) -> str | Refused:
        """The address of an image or video, or why it has none."""
        if isinstance(cell, Refused):
            return cell
        if isinstance(cell, str):
            reason = address(cell, kind, self.max_image_bytes if kind == "image" else self.limits.size)
            return cell if reason is None else self._beyond(reason)
        raw = cell or b""
        if len(raw) > self.max_image_bytes:
            return self._beyond(too_large(kind, self.max_image_bytes))
        media = image_type(raw)
        return data_uri(raw, media) if media else Refused(f"{kind} is of no known kind")

    def _beyond(self, reason: str) -> Refused:
        return Refused(reason, self.on_too_long == "fail")


def _cells(batch: pa.RecordBatch, path: str | None, read: Callable[[pa.Array], Iterable[Any]]) -> Iterable[Any]:
    return repeat(None) if path is None else read(column_at(batch, path))


def _read_media(array: pa.Array) -> list[Cell]:
    """Addresses as text, media themselves as bytes."""
    cells: list[Cell] = [*read_texts(array)] if _is_url(array.type) else array.to_pylist()
    return cells


def _tokens(text: str) -> int:
    return estimate_tokens(len(text), len(text.encode()))


def _absent(cell: Cell) -> bool:
    """Whether there is nothing: bytes of white space are no blank text, but a broken image."""
    return cell is None or (not isinstance(cell, Refused) and (not cell or (isinstance(cell, str) and cell.isspace())))


def _is_path(cell: Cell) -> bool:
    return isinstance(cell, str) and not _absent(cell) and not is_url(cell)


def _is_url(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_string(value) or bool(pa.types.is_null(value))


def _is_image(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return _is_url(kind) or is_binary(value) or bool(pa.types.is_fixed_size_binary(value))


def _is_images(kind: pa.DataType) -> bool:
    return is_list(kind) and _is_image(kind.value_type)
