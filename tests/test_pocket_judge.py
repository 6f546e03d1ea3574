"""The pocket judge over real HTTP: preferences by hand, both protocols, faults on demand, errors in one line."""

import http.client
import json
import math
import random
import re
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest

from focalpo.pocket.judge import GARBAGE, complete, log_odds, preference
from focalpo.pocket.server import Faults
from focalpo.pocket.world import draw_tasks, gold_reward
from focalpo.pocket.writers import WRITERS, write

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "focalpo.pocket.judge"]
OWN_TEMPLATE = ROOT / "eval" / "pocket_alpaca_eval.txt"
UPSTREAM_TEMPLATE = (
    Path(find_spec("alpaca_eval").submodule_search_locations[0])
    / "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
)
ARENA_TURN = (
    "<|User Prompt|>\n{prompt}\n\n"
    "<|The Start of Assistant A's Answer|>\n{a}\n<|The End of Assistant A's Answer|>\n\n"
    "<|The Start of Assistant B's Answer|>\n{b}\n<|The End of Assistant B's Answer|>"
)


class Judge:
    """A judge process and one keep-alive connection to it."""

    def __init__(self, folder: Path, *options: str) -> None:
        ready = folder / "judge.url"
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--ready-file", str(ready), *options], cwd=ROOT, stdout=subprocess.DEVNULL
        )
        while not ready.exists():
            assert self.process.poll() is None, "the judge ended before it was ready"
            time.sleep(0.01)
        self.url = ready.read_text()
        self.port = int(self.url.removeprefix("http://127.0.0.1:").removesuffix("/v1"))
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def post(self, body: dict | bytes, path: str = "/v1/chat/completions") -> tuple[int, dict]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.connection.request("POST", path, data, {"Content-Type": "application/json"})
        reply = self.connection.getresponse()
        return reply.status, json.loads(reply.read())

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    running = Judge(tmp_path_factory.mktemp("judge"))
    yield running
    running.stop()


@pytest.fixture
def start(tmp_path):
    running = []

    def starter(*options: str) -> Judge:
        folder = tmp_path / str(len(running))
        folder.mkdir()
        running.append(Judge(folder, *options))
        return running[-1]

    yield starter
    for one in running:
        one.stop()


def comparisons(count: int) -> list[tuple[str, str, str]]:
    """Prompts with one answer by the mid writer and one by the good writer."""
    rng = random.Random(0)
    tasks = draw_tasks(count, "judge tests")
    return [(task.prompt, write(task, WRITERS["mid"], rng), write(task, WRITERS["good"], rng)) for task in tasks]


def alpaca_request(template: Path, prompt: str, first: str, second: str) -> dict:
    """The annotator's request, with its ChatML split into messages."""
    text = template.read_text().replace("{instruction}", prompt)
    text = text.replace("{output_1}", first).replace("{output_2}", second)
    turns = re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", text, re.DOTALL)
    messages = [{"role": role, "content": content.strip()} for role, content in turns]
    assert [message["role"] for message in messages] == ["system", "user"]
    return {"model": "m", "messages": messages, "max_tokens": 1, "temperature": 1, "logprobs": True, "top_logprobs": 5}


def arena_request(prompt: str, a: str, b: str) -> dict:
    user = ARENA_TURN.format(prompt=prompt, a=a, b=b)
    messages = [{"role": "system", "content": "Judge both answers."}, {"role": "user", "content": user}]
    return {"model": "m", "messages": messages, "max_tokens": 256, "temperature": 0}


def arena_label(reply: dict) -> str:
    (label,) = re.findall(r"\[\[([AB<>=]+)\]\]", reply["choices"][0]["message"]["content"])
    return label


def test_preference_is_antisymmetric():
    for prompt, a, b in comparisons(200):
        assert preference(prompt, a, b) + preference(prompt, b, a) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("template", [OWN_TEMPLATE, UPSTREAM_TEMPLATE], ids=["own", "upstream"])
def test_alpaca_eval_replies_carry_the_preference_in_the_log_probs(judge, template):
    for prompt, first, second in [*comparisons(60), ("add 2 and 3", "", "5"), ("add 2 and 3", "5", "")]:
        status, reply = judge.post(alpaca_request(template, prompt, first, second))
        assert status == 200
        (token,) = reply["choices"][0]["logprobs"]["content"]
        top = {entry["token"]: entry["logprob"] for entry in token["top_logprobs"]}
        assert len(top) == 5 and list(top.values()) == sorted(top.values(), reverse=True)
        likely = preference(prompt, first, second)
        share = math.exp(top["m"]) / (math.exp(top["m"]) + math.exp(top["M"]))
        assert share == pytest.approx(likely, abs=1e-12)
        assert reply["choices"][0]["message"]["content"] == token["token"] == ("m" if likely >= 0.5 else "M")
        assert reply["usage"]["total_tokens"] > 0


def test_log_probs_are_returned_only_on_request(judge):
    request = alpaca_request(OWN_TEMPLATE, "add 2 and 3", "5", "6")
    _, reply = judge.post(request | {"logprobs": False})
    assert reply["choices"][0]["logprobs"] is None
    _, reply = judge.post(request | {"top_logprobs": 1})
    assert [entry["token"] for entry in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]] == ["m"]


def test_the_two_arena_hard_games_agree_nearly_but_not_always(judge):
    value = {"A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2}
    games = []
    for prompt, a, b in comparisons(150):
        labels = [arena_label(judge.post(arena_request(prompt, *pair))[1]) for pair in ((a, b), (b, a))]
        games.append((value[labels[0]], -value[labels[1]], log_odds(prompt, a, b)))
    first, second, odds = zip(*games, strict=True)
    assert statistics.correlation(first, second) > 0.9
    assert 0.05 < statistics.fmean(x != y for x, y in zip(first, second, strict=True)) < 0.5
    assert all(abs(x - y) <= 2 for x, y in zip(first, second, strict=True))
    assert all((x > 0) == (o > 0) for x, o in zip(first, odds, strict=True) if abs(o) > 3)
    assert set(Counter(first)) == {-2, -1, 0, 1, 2}


def test_a_second_turn_gets_a_verdict_too(judge):
    request = arena_request("add 2 and 3", "5", "6")
    request["messages"] += [{"role": "assistant", "content": "Well."}, {"role": "user", "content": "continue"}]
    assert arena_label(judge.post(request)[1]) == "A>>B"


def test_equal_requests_get_equal_replies_from_any_judge(judge, start):
    requests = [arena_request(*comparison) for comparison in comparisons(20)]
    other = start()
    replies = [judge.post(request) for request in requests]
    assert replies == [judge.post(request) for request in requests] == [other.post(request) for request in requests]
    assert replies == [(200, complete(request)) for request in requests]


def test_the_openai_client_is_served(judge):
    client = openai.OpenAI(base_url=judge.url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()] == ["pocket-judge"]
    reply = client.chat.completions.create(**alpaca_request(UPSTREAM_TEMPLATE, "add 2 and 3", "6", "5"))
    assert reply.choices[0].message.content == "M"
    assert {entry.token for entry in reply.choices[0].logprobs.content[0].top_logprobs} >= {"m", "M"}
    with pytest.raises(openai.BadRequestError, match="not a prompt of the pocket world"):
        client.chat.completions.create(**arena_request("who are you ?", "me", "you"))


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"not json", 400, "Expecting value"),
        (b"[]", 400, "needs `messages`"),
        ({"model": "m"}, 400, "needs `messages`"),
        ({"messages": [{"role": "user", "content": "hello"}]}, 400, "no comparison found"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "needs `messages`"),
    ],
)
def test_a_bad_request_gets_a_reason_and_keeps_the_connection(judge, body, status, message):
    answered, reply = judge.post(body)
    assert answered == status and message in reply["error"]["message"]
    assert judge.post(arena_request("add 2 and 3", "5", "6"))[0] == 200


def test_unknown_paths_are_404(judge):
    assert judge.post({}, "/v1/completions")[0] == 404
    judge.connection.request("GET", "/v1/nothing")
    reply = judge.connection.getresponse()
    assert reply.status == 404 and b"/v1/models" in reply.read()


def test_the_server_listens_on_the_loopback_only(judge):
    with socket.socket() as probe:
        probe.bind(("127.0.0.2", 0))  # the same port is free on every other address
        assert probe.connect_ex(("127.0.0.2", judge.port)) != 0


def test_faults_depend_on_the_request_number_and_have_the_configured_shares():
    faults = Faults.parse("429=0.1,500=0.2,garbage=0.3", seed=1)
    struck = Counter(faults.strike(number) for number in range(4000))
    for kind, share in {"429": 0.1, "500": 0.2, "garbage": 0.3, None: 0.4}.items():
        assert abs(struck[kind] / 4000 - share) < 4 * (share * (1 - share) / 4000) ** 0.5
    assert [Faults.parse("", 1).strike(number) for number in range(50)] == [None] * 50
    other = Faults.parse("429=0.1,500=0.2,garbage=0.3", seed=2)
    assert [faults.strike(n) for n in range(50)] != [other.strike(n) for n in range(50)]


def test_faults_over_http_follow_the_dial(start):
    dial = "429=0.25,500=0.25,garbage=0.25"
    judge, faults = start("--faults", dial, "--fault-seed", "7"), Faults.parse(dial, 7)
    alpaca = alpaca_request(OWN_TEMPLATE, "add 2 and 3", "5", "6")
    seen = set()
    for number in range(40):
        status, reply = judge.post(alpaca)
        fault = faults.strike(number)
        seen.add(fault)
        if fault in ("429", "500"):
            assert status == int(fault) and reply["error"]["code"] == fault
        else:
            tokens = {entry["token"] for entry in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]}
            assert status == 200 and ({"m", "M"} <= tokens) == (fault is None)
            assert (reply["choices"][0]["message"]["content"] == GARBAGE) == (fault == "garbage")
    assert seen == {"429", "500", "garbage", None}


def test_a_slow_reply_exceeds_a_short_timeout_and_reaches_a_patient_client(start):
    judge = start("--faults", "slow=1")
    impatient = http.client.HTTPConnection("127.0.0.1", judge.port, timeout=0.2)
    impatient.request("POST", "/v1/chat/completions", json.dumps(arena_request("add 2 and 3", "5", "6")))
    with pytest.raises(TimeoutError):
        impatient.getresponse()
    impatient.close()
    assert judge.post(arena_request("add 2 and 3", "5", "6"))[0] == 200


def test_a_taken_port_and_bad_arguments_give_one_line_and_an_error_code(judge, tmp_path):
    mistakes = {
        "stop the other server": ["--port", str(judge.port)],
        "'70000' is not a port": ["--port", "70000"],
        "'418=0.5' is not a fault": ["--faults", "418=0.5"],
        "'429' is not a fault": ["--faults", "429"],
        "exceeds 1; lower them": ["--faults", "429=0.6,500=0.6"],
        "use a file in an existing folder": ["--ready-file", str(tmp_path / "missing" / "url")],
        "unrecognized arguments: --prot": ["--prot", "1"],
    }
    for message, options in mistakes.items():
        ended = subprocess.run([*COMMAND, *options], cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert ended.returncode != 0
        assert message in ended.stderr and ended.stderr.count("\n") == 1, ended.stderr


def test_the_judge_needs_nothing_but_the_standard_library():
    code = "import sys; import focalpo.pocket.judge; print(*{name.split('.')[0] for name in sys.modules})"
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert not set(result.stdout.split()) - set(sys.stdlib_module_names) - {"focalpo", "__main__"}


def test_the_judge_reads_text_only_so_a_cut_answer_counts_as_finished():
    reply = complete(arena_request("copy these words : ant bird", "ant bird", "ant bird"))
    assert arena_label(reply) in ("A=B", "A>B", "B>A")
    assert gold_reward("copy these words : ant bird", "ant bird", False) == 1.5
