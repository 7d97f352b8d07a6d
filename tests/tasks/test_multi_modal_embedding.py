"""Rows of texts, images and videos as one string of elements."""

from __future__ import annotations

import base64
import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_modelstudio.inference.errors import ConfigurationError, InputError
from airflow_provider_modelstudio.inference.tasks import Answer, Question, Refused, RequestLimits
from airflow_provider_modelstudio.inference.tasks.multi_modal_embedding import NOTHING, MultiModalEmbedding
from tests.tasks.binding import ask
from tests.wire import JSON, json_answer

PNG = b"\x89PNG\r\n\x1a\n"
IMAGES = {
    "image/png": PNG,
    "image/jpeg": b"\xff\xd8\xff\xe0",
    "image/gif": b"GIF89a",
    "image/webp": b"RIFF\x00\x00\x00\x00WEBPVP8 ",
    "image/bmp": b"BM\x00\x00",
    "image/tiff": b"II*\x00",
}


def elements(task, batch):
    """For each row, the elements that its request would hold, or why it has none."""
    task.check(batch.schema)
    return [
        json.loads("[" + json.loads(task.encode([q]))["input"] + "]") if isinstance(q, Question) else q.reason
        for q in task.questions(batch)
    ]


@given(st.lists(st.text(min_size=1).filter(lambda text: text.strip()), min_size=1, max_size=3))
def test_any_text_stays_inside_its_element(values):
    """Whatever is in the texts, the string the service splits has one element a text, to the letter."""
    task = MultiModalEmbedding(text_column="text", independent=True, limits=RequestLimits(rows=10))
    body = json.loads(task.encode(ask(task, pa.record_batch({"text": values}))))
    assert json.loads("[" + body["input"] + "]") == [{"text": value} for value in values]


@pytest.mark.parametrize("media", IMAGES)
@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.dictionary(pa.int8(), pa.binary())], ids=str
)
def test_images_in_binary_travel_as_data(media, kind):
    """An image's own bytes say what it is, and all of them arrive."""
    raw = IMAGES[media] + bytes(range(256))
    column = pa.array([raw, None, raw], pa.binary())
    column = column.dictionary_encode() if pa.types.is_dictionary(kind) else column.cast(kind)
    image = {"image": f"data:{media};base64,{base64.b64encode(raw).decode()}"}
    assert elements(MultiModalEmbedding(image_column="i"), pa.record_batch({"i": column})) == [
        [image],
        NOTHING,
        [image],
    ]


def test_images_in_binary_of_one_size_travel_as_data():
    """A column whose images all have as many bytes may say so."""
    column = pa.array([PNG + b"abcd", None], pa.binary(len(PNG) + 4))
    data = f"data:image/png;base64,{base64.b64encode(PNG + b'abcd').decode()}"
    batch = pa.record_batch({"i": column, "views": pa.array([[PNG + b"abcd"], []], pa.list_(column.type))})
    assert elements(MultiModalEmbedding(image_column="i"), batch) == [[{"image": data}], NOTHING]
    assert elements(MultiModalEmbedding(multi_images_column="views"), batch) == [[{"multi_images": [data]}], NOTHING]


@pytest.mark.parametrize("raw", [b"\n\n", b" ", b"\x0b\x0c"])
def test_bytes_of_white_space_are_a_broken_image(raw):
    """A row with a text beside them is not embedded without its image; no bytes at all are no image."""
    batch = pa.record_batch({"t": ["a", "a"], "i": [raw, b""]})
    task = MultiModalEmbedding(text_column="t", image_column="i")
    assert elements(task, batch) == ["image is of no known kind", [{"text": "a"}]]


@pytest.mark.parametrize("raw", [b"x", b"%PDF-1.7", b"<svg/>", b"RIFF\x00\x00\x00\x00WAVE", b"\x89PN"])
def test_bytes_of_no_known_image_are_refused(raw):
    """What is no image is not sent as one."""
    assert elements(MultiModalEmbedding(image_column="i"), pa.record_batch({"i": [raw]})) == [
        "image is of no known kind"
    ]


GOOD = [
    "http://a.example/x",
    "HTTPS://a.example",
    "https://a.example:8443/x?y=z#w",
    "https://[::1]/x",
    "https://例え.jp/图.png",
]
BAD = [
    "ftp://a.example/x",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "oss://bucket/x",
    "https://",
    "https:///x",
    "https:a.example",
    "a.example/x.png",
    " https://a.example/x",
    "https://a.example/x y",
    "https://a.example/\nx",
    "https://a.example/\x00",
    "data:text/html;base64,AAAA",
    "data:image/png,raw",
    "data:image/png;base64,",
    "data:image/png;base64,A A=",
    "iVBORw0KGgo=",
]


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("url", GOOD)
def test_addresses_are_handed_on_as_they_are(kind, url):
    """An http or https URL is sent as it stands in the row."""
    task = MultiModalEmbedding(**{f"{kind}_column": "u"})
    assert elements(task, pa.record_batch({"u": [url]})) == [[{kind: url}]]


@pytest.mark.parametrize("kind", ["image", "video"])
@pytest.mark.parametrize("url", BAD)
def test_anything_else_is_refused(kind, url):
    """A text that is no address of that kind costs nothing and spoils nothing."""
    batch = pa.record_batch({"u": [url, "https://a.example/x"]})
    bad, good = elements(MultiModalEmbedding(**{f"{kind}_column": "u"}), batch)
    assert bad == f"{kind} is not an http, https or data URL"
    assert good == [{kind: "https://a.example/x"}]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("front", ["http://", "https://a.example/", "data:image/png;base64,", "data:image/"])
def test_a_long_text_that_is_no_address_is_refused_in_time_by_its_length(front):
    """A cell of a megabyte with a blank near its end would take hours if its square were tried."""
    batch = pa.record_batch({"u": [front + "a" * 1_000_000 + " b"]})
    assert elements(MultiModalEmbedding(image_column="u"), batch) == ["image is not an http, https or data URL"]


def test_addresses_may_hold_the_thing_itself():
    """A data URL of the right kind is sent; of the wrong kind it is refused."""
    urls = pa.record_batch({"u": ["data:image/png;base64,iVBORw0KGgo=", "data:video/mp4;base64,AAAA"]})
    no_video, no_image = ("video is not an http, https or data URL", "image is not an http, https or data URL")
    image, video = urls.column(0).to_pylist()
    assert elements(MultiModalEmbedding(image_column="u"), urls) == [[{"image": image}], no_image]
    assert elements(MultiModalEmbedding(video_column="u"), urls) == [no_video, [{"video": video}]]


def test_images_that_are_too_large_are_refused():
    """In binary and in a data URL alike; "fail" makes the reason fatal."""
    raw = PNG + bytes(100)
    task = MultiModalEmbedding(image_column="i", max_image_bytes=100, on_too_long="fail")
    too_large = Refused("image is larger than 100 bytes", fatal=True)
    url = "data:image/png;base64," + base64.b64encode(raw).decode()
    assert task.questions(pa.record_batch({"i": [raw]})) == [too_large]
    assert task.questions(pa.record_batch({"i": [url]})) == [too_large]
    assert isinstance(task.questions(pa.record_batch({"i": [raw[:100]]}))[0], Question)


def test_a_row_must_fit_into_a_request():
    """Elements that are small enough one by one may be too much together."""
    task = MultiModalEmbedding(image_column="i", text_column="t", max_tokens=5, limits=RequestLimits(rows=1, size=100))
    batch = pa.record_batch({"i": [PNG, PNG + bytes(100), None], "t": ["t", "t", "t" * 50]})
    assert [q.reason for q in task.questions(batch)[1:]] == [
        "elements are larger than 100 bytes",
        "text is longer than 5 tokens",
    ]


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.binary())], ids=str
)
def test_lists_of_images_are_one_element(kind):
    """Several views of one thing: a list with something in it, of addresses or of images."""
    values = [["https://a.example/1", "https://a.example/2"], [], None, [None], ["x"]]
    if pa.types.is_binary(kind.value_type):
        values = [[PNG, PNG], [], None, [None], [b"x"]]
    found = elements(MultiModalEmbedding(multi_images_column="m"), pa.record_batch({"m": pa.array(values, kind)}))
    assert list(found[0][0]) == ["multi_images"]
    assert len(found[0][0]["multi_images"]) == 2
    assert found[1:4] == [NOTHING, NOTHING, "null image"]
    assert found[4] in ("image is not an http, https or data URL", "image is of no known kind")


def test_what_a_row_does_not_have_is_left_out():
    """Nulls and blanks are no elements; a row without elements is refused, fatally when told so."""
    batch = pa.record_batch({"t": ["a", None, " ", ""], "v": [None, "https://a.example/v", "", None]})
    task = MultiModalEmbedding(text_column="t", video_column="v", on_empty="fail")
    assert elements(task, batch) == [[{"text": "a"}], [{"video": "https://a.example/v"}], NOTHING, NOTHING]
    assert task.questions(batch)[2] == Refused(NOTHING, fatal=True)


def test_bytes_that_are_not_utf8_refuse_their_row_alone():
    """In a text and in an address."""
    raw = pa.array([b"https://a.example/x", b"https://a.example/\xff"], pa.binary()).view(pa.string())
    batch = pa.record_batch({"x": raw})
    assert elements(MultiModalEmbedding(text_column="x"), batch)[1] == "text is not valid UTF-8"
    assert elements(MultiModalEmbedding(image_column="x"), batch)[1] == "image is of no known kind"
    assert elements(MultiModalEmbedding(video_column="x"), batch)[1] == "video is of no known kind"


def test_keys_tell_elements_apart():
    """The same address as text, image and video is three questions."""
    batch = pa.record_batch({"x": ["https://a.example/x"]})
    tasks = [MultiModalEmbedding(**{name: "x"}) for name in ("text_column", "image_column", "video_column")]
    assert len({ask(task, batch)[0].key for task in tasks}) == 3


def test_items_of_a_model_that_answers_one_by_one_share_a_request():
    """With independent vectors several rows go into one request, and each gets its own."""
    task = MultiModalEmbedding(text_column="t", independent=True, limits=RequestLimits(rows=5))
    questions = ask(task, pa.record_batch({"t": ["a", "b"]}))
    answer = {"multi_modal_embedding": [{"embedding": [0.5]}, {"embedding": [0.25]}]}
    decoded = task.decode(Answer(json_answer(answer), JSON), questions)
    assert decoded.columns.to_pydict() == {"embedding": [[0.5], [0.25]]}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "name a text_column, image_column"),
        ({"text_column": ""}, "text_column is ''"),
        ({"text_column": "t", "image_column": "i", "independent": True}, "text_column and image_column are set"),
        ({"text_column": "t", "limits": RequestLimits(rows=2)}, "limits.rows is 2"),
        ({"text_column": "t", "max_image_bytes": 0}, "max_image_bytes is 0"),
        ({"text_column": "t", "on_too_long": "truncate"}, "on_too_long is 'truncate'"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, words):
    """A wrong setting, and settings that contradict each other, are told by name and value."""
    with pytest.raises(ConfigurationError) as caught:
        MultiModalEmbedding(**settings)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("text_column", pa.int8()),
        ("image_column", pa.list_(pa.string())),
        ("video_column", pa.binary()),
        ("multi_images_column", pa.string()),
        ("multi_images_column", pa.list_(pa.int8())),
    ],
)
def test_a_source_that_cannot_be_asked_is_refused_in_words(name, kind):
    """Missing and wrongly typed columns are named."""
    task = MultiModalEmbedding(**{name: "x"})
    with pytest.raises(InputError, match="column 'x' is of type"):
        task.check(pa.schema([("x", kind)]))
    with pytest.raises(InputError, match="no column 'x'"):
        task.check(pa.schema([("y", kind)]))
