"""Stand-ins that behave as the providers do: each gives verdicts, or stops within three calls with one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from focalpo.config.compose import compose, plain
from focalpo.judging.endpoint import EndpointError
from focalpo.judging.preflight import preflight
from focalpo.judging.protocol import EVAL, load_protocol, protocol_hash
from focalpo.judging.requests import judged_as
from focalpo.judging.sentinel import pairs_under, read_sentinel
from focalpo.planning.slices import protocol_named
from tests.judge_stub import Fault, Stub, completion, judge_stub

KEY = "sk-planted-Q7x93kfPz-do-not-print-me"
LOGPROBS = {"m": -0.1, "M": -2.4}
PAIRS = read_sentinel(EVAL / "sentinel.yaml")


def refused(status: int, message: str, parameter: str | None = None, code: str | None = None) -> Fault:
    error = {"message": message, "type": "invalid_request_error", "param": parameter, "code": code}
    return Fault(status, json.dumps({"error": error}).encode())


def with_logprobs(body: dict, _: int) -> dict:
    """Any server that gives log-probs: vLLM, llama.cpp, Ollama, OpenAI's models without reasoning."""
    if "logprobs" in body:
        assert body["logprobs"] is True and body["top_logprobs"] == 5
        return completion("m", LOGPROBS)
    return completion("Both are fine. My final verdict is: [[A>B]]")


def reasoning(body: dict, _: int) -> dict | Fault:
    """OpenAI's reasoning models: only their own limit, only the default temperature, no log-probs."""
    for name in ("max_tokens", "logprobs", "top_logprobs"):
        if name in body:
            text = f"Unsupported parameter: '{name}' is not supported with this model."
            return refused(400, text, name, "unsupported_parameter")
    if body.get("temperature", 1) != 1:
        text = "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) is supported."
        return refused(400, text, "temperature", "unsupported_value")
    arena = "Assistant A" in str(body["messages"])
    return completion(
        "<think>m? No.</think> My final verdict is: [[A>B]]" if arena else "<think>m? No.</think>\n\n**M**"
    )


def thinking_aloud(body: dict, before: int) -> dict | Fault:
    """A local reasoning model behind a server without a reasoning parser."""
    return reasoning({name: value for name, value in body.items() if name != "max_tokens"}, before)


def gateway(body: dict, before: int) -> dict | Fault:
    """OpenRouter: without the pin any provider answers, and some leave out the log-probs."""
    pinned = body.get("provider") == {"only": ["openai"], "allow_fallbacks": False, "require_parameters": True}
    return with_logprobs(body, before) if pinned else completion("m")


def no_usage(body: dict, before: int) -> dict:
    return with_logprobs(body, before) | {"usage": None}


SCORING: dict[str, tuple[str, Callable]] = {
    "openai": ("judge=openai", with_logprobs),
    "openai_reasoning": ("judge=openai_reasoning", reasoning),
    "openrouter": ("judge=openrouter", gateway),
    "azure": ("judge=azure", with_logprobs),
    "local": ("judge=local", with_logprobs),
    "local_reasoning": ("judge=local_reasoning", thinking_aloud),
    "ollama": ("judge=ollama", with_logprobs),
    "llama_cpp": ("judge=llama_cpp", with_logprobs),
}


def tried(stub: Stub, tmp_path: Path, *overrides: str) -> list[dict]:
    """Run the preflight under every protocol of a configuration against the stub; returns the requests."""
    config = compose(overrides)
    settings = plain(config.judge.endpoint) | {"api_key_env": "JUDGE_KEY"}
    for name in config.judge.benchmarks:
        protocol = protocol_named(config, name)
        preflight(protocol, pairs_under(protocol, PAIRS), stub.url, settings, tmp_path / f"{name}.jsonl")
    return stub.requests


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)


@pytest.mark.parametrize("provider", SCORING)
def test_every_ready_configuration_scores_with_its_provider(tmp_path: Path, provider: str) -> None:
    override, script = SCORING[provider]
    with judge_stub(script) as stub:
        requests = tried(stub, tmp_path, override)
    assert len(requests) == 2, "one call under each protocol"
    for records in tmp_path.glob("*.jsonl"):
        assert KEY not in records.read_text()


FAULTS: dict[str, tuple[Fault | Callable, str]] = {
    "a retired model": (
        refused(404, "The model `gpt-4-1106-preview` has been deprecated", None, "model_not_found"),
        "has been deprecated.*check the address and the model's name",
    ),
    "an unknown model at a gateway": (
        refused(400, "gpt-4-1106-preview is not a valid model ID"),
        "not a valid model ID.*the model's name",
    ),
    "a refused limit": (
        refused(400, "Unsupported parameter: 'max_tokens' is not supported", "max_tokens", "unsupported_parameter"),
        r"change max_tokens by \+judge.request.max_tokens=VALUE, or leave it out by =null",
    ),
    "a refused temperature that only the message names": (
        refused(422, "temperature: extra fields not permitted"),
        r"change temperature by \+judge.request.temperature=VALUE",
    ),
    "refused log-probs": (
        refused(400, "This model does not support logprobs", "logprobs"),
        "name a judge that gives log-probs, or use judge=openai_reasoning",
    ),
    "log-probs left out": (lambda *_: completion("m"), "no log-probs in the reply.*name a judge that gives log-probs"),
    "no token counts": (no_usage, "no token count .usage. in the reply.*use a server that counts tokens"),
    "an error with status 200": (
        lambda *_: {"error": {"message": "upstream is overloaded"}},
        "no assistant's message in the reply.*upstream is overloaded",
    ),
    "no verdict": (lambda *_: completion("Well", {"Well": -0.1}), "no preference in the reply"),
    "a wrong key": (refused(401, f"Incorrect API key provided: {KEY}"), r"provided: \[key\].*check the key"),
    "no credit": (refused(402, "Insufficient credits"), "Insufficient credits.*pay for more"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_judge_that_cannot_be_used_costs_three_calls_at_most_and_one_line(tmp_path: Path, fault: str) -> None:
    script, line = FAULTS[fault]
    with (
        judge_stub(script if callable(script) else lambda *_: script) as stub,
        pytest.raises(EndpointError, match=line) as error,
    ):
        tried(stub, tmp_path, "judge=gpt4_turbo")
    assert 1 <= len(stub.requests) <= 3
    assert "\n" not in str(error.value) and KEY not in str(error.value)
    assert KEY not in (tmp_path / "alpaca_eval.jsonl").read_text()


def test_a_long_request_stops_nothing_though_its_refusal_names_a_field(tmp_path: Path) -> None:
    text = "'max_tokens' is too large: 1. This model's maximum context length is 8192 tokens and your request has 9000."

    def script(body: dict, before: int) -> dict | Fault:
        first = "17 times 6" in str(body["messages"])
        return refused(400, text, "max_tokens") if first else with_logprobs(body, before)

    with judge_stub(script) as stub:
        assert len(tried(stub, tmp_path, "judge=gpt4_turbo")) == 4, "under each protocol the second pair gets a verdict"


def test_a_classic_azure_address_has_its_version_and_its_header(tmp_path: Path) -> None:
    with judge_stub(with_logprobs) as stub:
        address = stub.url.replace("/v1", "/openai/deployments/judge?api-version=2024-10-21")
        settings = plain(compose(["judge=azure"]).judge.endpoint)
        settings |= {"api_key_env": "JUDGE_KEY", "api_key_header": "api-key"}
        protocol = load_protocol(EVAL / "alpaca_eval_2.yaml")
        preflight(protocol, pairs_under(protocol, PAIRS), address, settings, tmp_path / "records.jsonl")
    assert stub.paths == ["/openai/deployments/judge/chat/completions?api-version=2024-10-21"]
    (headers,) = stub.headers
    assert headers["api-key"] == KEY and headers["authorization"] is None


def test_every_ready_configuration_is_another_protocol_than_the_papers() -> None:
    paper = {name: protocol_hash(load_protocol(EVAL / f"{name}.yaml")) for name in ("alpaca_eval_2", "arena_hard_v0_1")}
    for override, _ in SCORING.values():
        config = compose([override])
        hashes = {protocol_hash(protocol_named(config, name)) for name in config.judge.benchmarks}
        assert len(hashes) == 2 and not hashes & set(paper.values())
        assert judged_as(load_protocol(EVAL / "alpaca_eval_2.yaml"), None).judge == "gpt-4-1106-preview"
