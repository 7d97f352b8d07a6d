"""What goes over the wire, as one table: rows, request body, answer, columns.

Written by hand from the Elasticsearch specification (``_inference`` requests and ``Results``) and from the samples of
Model Studio's product page; neither the codecs nor the sandbox had a part in it, so both can be held against it.
Where the page elides values, a vector is short here.

A case is one request.
Bodies are compared as JSON values, so the order of names does not matter.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import Any

__all__ = ["CASES", "CBOR", "JSON", "Case", "cbor_answer", "json_answer"]

JSON = "application/vnd.elasticsearch+json"
CBOR = "application/vnd.elasticsearch+cbor"


@dataclass(frozen=True, kw_only=True)
class Case:
    """One request and its answer."""

    name: str
    task_type: str
    rows: dict[str, list[Any]]
    """Input columns."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the task, beside its defaults."""
    refused: dict[int, str] = field(default_factory=dict)
    """Rows that are not asked, and why."""
    body: dict[str, Any]
    """The request for the rows that are asked."""
    answer: dict[str, Any]
    """As Elasticsearch answers; each float is the shortest decimal that names a 32-bit float."""
    columns: dict[str, list[Any]]
    """Output columns of the rows that are asked."""

    def __str__(self) -> str:
        return self.name


def json_answer(answer: Any) -> bytes:
    """An answer as Elasticsearch writes JSON: compact, UTF-8, only what must be escaped is."""
    return json.dumps(answer, ensure_ascii=False, separators=(",", ":")).encode()


def cbor_answer(value: Any) -> bytes:
    """An answer as Elasticsearch writes CBOR: objects and lists without a length, floats of 32 bits."""
    if isinstance(value, dict):
        return b"\xbf" + b"".join(cbor_answer(part) for pair in value.items() for part in pair) + b"\xff"
    if isinstance(value, list):
        return b"\x9f" + b"".join(map(cbor_answer, value)) + b"\xff"
    if isinstance(value, str):
        utf8 = value.encode()
        return _head(0x60, len(utf8)) + utf8
    if value is None or isinstance(value, bool):
        return {False: b"\xf4", True: b"\xf5", None: b"\xf6"}[value]
    if isinstance(value, int):
        return _head(0x00, value) if value >= 0 else _head(0x20, -1 - value)
    return b"\xfa" + struct.pack(">f", value)


def _head(kind: int, number: int) -> bytes:
    for bound, marker, form in ((24, None, ">B"), (256, 24, ">B"), (65536, 25, ">H"), (1 << 32, 26, ">I")):
        if number < bound:
            return (
                struct.pack(form, kind + number)
                if marker is None
                else bytes([kind + marker]) + struct.pack(form, number)
            )
    return bytes([kind + 27]) + struct.pack(">Q", number)


_VERSE = ["风急天高猿啸哀", "渚清沙白鸟飞回", "无边落木萧萧下", "不尽长江滚滚来"]
_PAGE_VECTOR = [
    0.049183346,
    -0.068886764,
    0.047604065,
    -0.06778378,
    -0.009488225,
    -0.0791145,
    -0.006082115,
    0.057004552,
]
_PAGE_TOKENS = {
    "35727": 0.897,
    "44636": 1.3828,
    "99208": 1.998,
    "99508": 2.1836,
    "103000": 1.96,
    "111758": 1.9805,
    "115272": 1.7686,
}
_PAGE_QUERY = "什么是文本排序模型"
_PAGE_DOCUMENTS = [
    "文本排序模型广泛用于搜索引擎和推荐系统中,它们根据文本相关性对候选文本进行排序",
    "量子计算是计算科学的一个前沿领域",
    "预训练语言模型的发展给文本排序模型带来了新的进展",
]
_PAGE_RANKING = {
    "rerank": [
        {"index": 0, "relevance_score": 0.9290283},
        {"index": 2, "relevance_score": 0.7562483},
        {"index": 1, "relevance_score": 0.31665403},
    ]
}
_PAGE_IMAGE = "https://img.alicdn.com/imgextra/i3/O1CN01rdstgY1uiZWt8gqSL_!!6000000006071-0-tps-1970-356.jpg"
_PAGE_VIDEO = "https://help-static-aliyun-doc.aliyuncs.com/file-manage-files/zh-CN/20250107/lbcemt/new+video.mp4"
_PAGE_IMAGES = [
    "https://img.alicdn.com/imgextra/i2/O1CN019eO00F1HDdlU4Syj5_!!6000000000724-2-tps-2476-1158.png",
    "https://img.alicdn.com/imgextra/i2/O1CN01dSYhpw1nSoamp31CD_!!6000000005089-2-tps-1765-1639.png",
]
_PAGE_MULTI_VECTOR = [-0.014518738, -0.014297485, -0.056121826, 0.043823242, 0.01889038, 0.04547119]
_PAGE_CHAT = (
    "Hello! I am Qwen, a large language model from Alibaba Group. I can answer questions, create text such as stories, "
    "official documents, emails, and scripts, perform logical reasoning, write code, express opinions, and play games. "
    "If you have any questions or need help, feel free to ask me anytime!"
)
_PNG = b"\x89PNG\r\n\x1a\n"

CASES: tuple[Case, ...] = (
    # ------------------------------------------------------------------ text_embedding
    Case(
        name="text_embedding: the page's four lines",
        task_type="text_embedding",
        rows={"text": _VERSE},
        body={"input": _VERSE},
        answer={
            "text_embedding": [
                {"embedding": _PAGE_VECTOR},
                {"embedding": [1.0, 0.0, -0.0, 0.5, -0.25, 3.4028235e38, 1.0e-45, 1.17549435e-38]},
                {"embedding": [0.0] * 8},
                {"embedding": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]},
            ]
        },
        columns={
            "embedding": [
                _PAGE_VECTOR,
                [1.0, 0.0, -0.0, 0.5, -0.25, 3.4028235e38, 1.0e-45, 1.17549435e-38],
                [0.0] * 8,
                [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
            ]
        },
    ),
    Case(
        name="text_embedding: one text, one value",
        task_type="text_embedding",
        rows={"text": ["a"]},
        body={"input": ["a"]},
        answer={"text_embedding": [{"embedding": [1.0]}]},
        columns={"embedding": [[1.0]]},
    ),
    Case(
        name="text_embedding: rows without a text are not asked",
        task_type="text_embedding",
        rows={"text": [None, "first", "", " \n\t", "second"]},
        refused={0: "null text", 2: "empty text", 3: "blank text"},
        body={"input": ["first", "second"]},
        answer={"text_embedding": [{"embedding": [0.5, 0.25]}, {"embedding": [0.125, 0.75]}]},
        columns={"embedding": [[0.5, 0.25], [0.125, 0.75]]},
    ),
    Case(
        name="text_embedding: texts are sent as they are",
        task_type="text_embedding",
        rows={
            "text": [
                "a\u0000b",  # NUL
                "\ufeffbyte order mark",
                "\u202eright to left\u202c",
                "😀👩‍👩‍👧",  # beyond the basic plane, joined
                "e\u0301 is not é",  # not normalised
                'quote " backslash \\ slash / newline \n tab \t delete \u007f',
                "\u2028line separator",
                "  kept spaces  ",
                "{{7*7}} {0.__class__} %(x)s $x",
            ]
        },
        body={
            "input": [
                "a\u0000b",
                "\ufeffbyte order mark",
                "\u202eright to left\u202c",
                "😀👩‍👩‍👧",
                "e\u0301 is not é",
                'quote " backslash \\ slash / newline \n tab \t delete \u007f',
                "\u2028line separator",
                "  kept spaces  ",
                "{{7*7}} {0.__class__} %(x)s $x",
            ]
        },
        answer={"text_embedding": [{"embedding": [float(i), 0.5]} for i in range(9)]},
        columns={"embedding": [[float(i), 0.5] for i in range(9)]},
    ),
    Case(
        name="text_embedding: settings of the endpoint are overridden",
        task_type="text_embedding",
        settings={"task_settings": {"input_type": "search"}, "input_column": "title", "output_column": "vector"},
        rows={"title": ["a"]},
        body={"input": ["a"], "task_settings": {"input_type": "search"}},
        answer={"text_embedding": [{"embedding": [0.5, 0.5]}]},
        columns={"vector": [[0.5, 0.5]]},
    ),
    Case(
        name="text_embedding: a text that is cut is marked",
        task_type="text_embedding",
        settings={"max_tokens": 2, "on_too_long": "truncate"},
        rows={"text": ["short", "this one is far too long"]},
        body={"input": ["short", "this o"]},
        answer={"text_embedding": [{"embedding": [0.5, 0.25]}, {"embedding": [0.125, 0.75]}]},
        columns={"embedding": [[0.5, 0.25], [0.125, 0.75]], "embedding_is_truncated": [False, True]},
    ),
    # ------------------------------------------------------------------ sparse_embedding
    Case(
        name="sparse_embedding: the page's lines, tokens are numbers",
        task_type="sparse_embedding",
        rows={"text": _VERSE[:2]},
        body={"input": _VERSE[:2]},
        answer={
            "sparse_embedding": [
                {"is_truncated": False, "embedding": _PAGE_TOKENS},
                {"is_truncated": True, "embedding": {"18397": 1.4033, "79766": 2.0566}},
            ]
        },
        columns={
            "sparse_embedding": [list(_PAGE_TOKENS.items()), [("18397", 1.4033), ("79766", 2.0566)]],
            "is_truncated": [False, True],
        },
    ),
    Case(
        name="sparse_embedding: tokens are words, some of them odd",
        task_type="sparse_embedding",
        settings={"output_column": "terms"},
        rows={"text": ["lucene", "nothing found"]},
        body={"input": ["lucene", "nothing found"]},
        answer={
            "sparse_embedding": [
                {
                    "is_truncated": False,
                    "embedding": {"lucene": 2.5, "##ene": 0.5, "embedding": 0.25, "": 0.125, "007": 1.0, "词": 1.5},
                },
                {"is_truncated": False, "embedding": {}},
            ]
        },
        columns={
            "terms": [
                [("lucene", 2.5), ("##ene", 0.5), ("embedding", 0.25), ("", 0.125), ("007", 1.0), ("词", 1.5)],
                [],
            ],
            "terms_is_truncated": [False, False],
        },
    ),
    Case(
        name="sparse_embedding: only the heavy tokens are kept",
        task_type="sparse_embedding",
        settings={"top_k": 2, "min_weight": 0.5},
        rows={"text": ["a", "b"]},
        body={"input": ["a", "b"]},
        answer={
            "sparse_embedding": [
                {"is_truncated": False, "embedding": {"1": 0.5, "2": 2.0, "3": 0.5, "4": 0.25}},
                {"is_truncated": False, "embedding": {"5": 0.25, "6": 0.75}},
            ]
        },
        columns={
            "sparse_embedding": [[("1", 0.5), ("2", 2.0)], [("6", 0.75)]],
            "is_truncated": [False, False],
        },
    ),
    # ------------------------------------------------------------------ rerank
    Case(
        name="rerank: the page's documents",
        task_type="rerank",
        rows={"query": [_PAGE_QUERY], "documents": [_PAGE_DOCUMENTS]},
        body={"input": _PAGE_DOCUMENTS, "query": _PAGE_QUERY},
        answer=_PAGE_RANKING,
        columns={
            "reranked": [
                [
                    {"index": 0, "relevance_score": 0.9290283},
                    {"index": 2, "relevance_score": 0.7562483},
                    {"index": 1, "relevance_score": 0.31665403},
                ]
            ]
        },
    ),
    Case(
        name="rerank: the best two, with their texts",
        task_type="rerank",
        settings={"top_n": 2, "return_documents": True, "output_column": "best"},
        rows={"query": [_PAGE_QUERY], "documents": [_PAGE_DOCUMENTS]},
        body={"input": _PAGE_DOCUMENTS, "query": _PAGE_QUERY},
        answer=_PAGE_RANKING,
        columns={
            "best": [
                [
                    {"index": 0, "relevance_score": 0.9290283, "document": _PAGE_DOCUMENTS[0]},
                    {"index": 2, "relevance_score": 0.7562483, "document": _PAGE_DOCUMENTS[2]},
                ]
            ]
        },
    ),
    Case(
        name="rerank: unsorted, with ties, texts and numbers in quotes as in the specification's examples",
        task_type="rerank",
        rows={"query": ["q"], "documents": [["a", "b", "a", "d"]]},
        body={"input": ["a", "b", "a", "d"], "query": "q"},
        answer={
            "rerank": [
                {"index": "3", "relevance_score": "0.5", "text": "d"},
                {"index": "1", "relevance_score": "0.75", "text": "b"},
                {"index": "2", "relevance_score": "0.5", "text": "a"},
                {"index": "0", "relevance_score": "-1", "text": "a"},
            ]
        },
        columns={
            "reranked": [
                [
                    {"index": 1, "relevance_score": 0.75},
                    {"index": 2, "relevance_score": 0.5},
                    {"index": 3, "relevance_score": 0.5},
                    {"index": 0, "relevance_score": -1.0},
                ]
            ]
        },
    ),
    # ------------------------------------------------------------------ completion
    Case(
        name="completion: the page's question",
        task_type="completion",
        settings={"prompt": "{text}"},
        rows={"text": ["你是谁"]},
        body={"input": "你是谁"},
        answer={"completion": [{"result": _PAGE_CHAT}]},
        columns={"completion": [_PAGE_CHAT]},
    ),
    Case(
        name="completion: values are data, whatever they look like",
        task_type="completion",
        settings={"prompt": "{{{title}}} {n}: {title}", "system": "Be {brief}."},
        rows={"title": ["{n} {{7*7}} %s ${x}"], "n": [7]},
        body={"input": "Be {brief}.\n\n{{n} {{7*7}} %s ${x}} 7: {n} {{7*7}} %s ${x}"},
        answer={"completion": [{"result": ""}]},
        columns={"completion": [""]},
    ),
    # ------------------------------------------------------------------ multi_modal_embedding
    Case(
        name="multi_modal_embedding: the page's elements, fused",
        task_type="multi_modal_embedding",
        settings={
            "text_column": "text",
            "image_column": "image",
            "video_column": "video",
            "multi_images_column": "images",
        },
        rows={"text": ["多模态向量模型"], "image": [_PAGE_IMAGE], "video": [_PAGE_VIDEO], "images": [_PAGE_IMAGES]},
        body={
            "input": '{"text":"多模态向量模型"},'
            f'{{"image":"{_PAGE_IMAGE}"}},'
            f'{{"video":"{_PAGE_VIDEO}"}},'
            f'{{"multi_images":["{_PAGE_IMAGES[0]}","{_PAGE_IMAGES[1]}"]}}'
        },
        answer={"multi_modal_embedding": [{"embedding": _PAGE_MULTI_VECTOR}]},
        columns={"embedding": [_PAGE_MULTI_VECTOR]},
    ),
    Case(
        name="multi_modal_embedding: what a row does not have is left out, images travel as data",
        task_type="multi_modal_embedding",
        settings={"text_column": "text", "image_column": "image"},
        rows={"text": [None, None], "image": [None, _PNG]},
        refused={0: "no text, image or video"},
        body={"input": '{"image":"data:image/png;base64,iVBORw0KGgo="}'},
        answer={"multi_modal_embedding": [{"embedding": [0.5, 0.25]}]},
        columns={"embedding": [[0.5, 0.25]]},
    ),
    Case(
        name="multi_modal_embedding: quotes and braces in a text stay inside its string",
        task_type="multi_modal_embedding",
        settings={"text_column": "text"},
        rows={"text": ['"}, {"image": "https://a.example/x.png']},
        body={"input": r'{"text":"\"}, {\"image\": \"https://a.example/x.png"}'},
        answer={"multi_modal_embedding": [{"embedding": [1.0]}]},
        columns={"embedding": [[1.0]]},
    ),
)
