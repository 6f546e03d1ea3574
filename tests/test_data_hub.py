"""A pinned hub dataset is read as published or rejected with one line; local folders and caches replace the hub."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import datasets
import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from focalpo.data import validate
from focalpo.data.sources import HubSource, hub_rows, load, prompt_position

COMMIT, OTHER_COMMIT = "c0ffee" * 6 + "c0de", "decade" * 6 + "beef"


@pytest.fixture
def offline_hub(tmp_path, monkeypatch) -> Path:
    """`datasets` offline with an empty cache; returns the cache folder."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    return cache


class RejectingHub(BaseHTTPRequestHandler):
    """A hub that rejects every request with the status and error code in the dataset name: own/<status>-<code>."""

    def do_HEAD(self) -> None:
        status, _, code = re.search(r"own/(\d+)(-(\w+))?", self.path).groups()
        self.send_response(int(status))
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def rejecting_hub(tmp_path, monkeypatch) -> Iterator[None]:
    """`datasets` with empty caches, connected to a local hub that rejects every request."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), RejectingHub)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(datasets.config, "HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    yield
    server.shutdown()
    server.server_close()


def write(path: Path, rows: list[dict]) -> None:
    """Write rows as parquet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def dialogue(question: str, answer: str) -> list[dict[str, str]]:
    return [{"content": question, "role": "user"}, {"content": answer, "role": "assistant"}]


def h4(number: int) -> dict:
    """A synthetic row with the columns of HuggingFaceH4/ultrafeedback_binarized."""
    question = f"question {number}"
    return {
        "prompt": question,
        "prompt_id": hashlib.sha256(question.encode()).hexdigest(),
        "chosen": dialogue(question, "yes"),
        "rejected": dialogue(question, "no"),
        "messages": dialogue(question, "yes"),
        "score_chosen": 8.0,
        "score_rejected": 3.5,
    }


def armorm(number: int) -> dict:
    """A synthetic row with the columns of princeton-nlp/llama3-ultrafeedback-armorm."""
    row = h4(number)
    return {
        "prompt_id": row["prompt_id"],
        "prompt": row["prompt"],
        "all_generated_responses": ["no", "well", "yes", "hm", "so"],
        "all_rm_scores": [0.1, 0.12, 0.2, 0.15, 0.11],
        "chosen": row["chosen"],
        "rejected": row["rejected"],
    }


def trl_lib(number: int) -> dict:
    """A synthetic row with the columns of trl-lib/ultrafeedback_binarized."""
    return {name: h4(number)[name] for name in ("chosen", "rejected", "score_chosen", "score_rejected")}


PUBLISHED = {
    "h4": (h4, "train_prefs", "test_prefs", "prompt and dialogues"),
    "armorm": (armorm, "train", "test", "prompt and dialogues"),
    "trl_lib": (trl_lib, "train", "test", "dialogues"),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_folder_in_the_published_layout_is_read_like_the_hub_dataset(tmp_path, offline_hub, name):
    row, train, test, schema = PUBLISHED[name]
    folder = tmp_path / name
    write(folder / "data" / f"{train}-00000-of-00001.parquet", [row(n) for n in (1, 2, 3, 2)])
    write(folder / "data" / f"{test}-00000-of-00001.parquet", [row(n) for n in (4, 3)])
    ignored = ["all_generated_responses", "all_rm_scores"] if name == "armorm" else []
    checked = load(HubSource(str(folder), COMMIT, train, test_split=test), "drop", ignore_columns=ignored)
    assert [pair.prompt for pair in checked.train] == [[{"role": "user", "content": f"question {n}"}] for n in (1, 2)]
    assert {(pair.chosen, pair.rejected) for pair in checked.train + checked.test} == {("yes", "no")}
    named = [h4(n)["prompt_id"] for n in (1, 2)] if name != "trl_lib" else ["train-000001", "train-000002"]
    assert [pair.id for pair in checked.train] == named
    assert checked.dropped == {validate.DUPLICATE: 1, validate.OVERLAP: 1}
    assert checked.schemas == {"train": schema, "test": schema}
    with pytest.raises(ValueError, match=re.escape(f"1 in {folder} {train} row 3")):
        load(HubSource(str(folder), COMMIT, train, test_split=test), "error", ignore_columns=ignored)


def test_one_hub_split_can_be_divided_by_a_fraction(tmp_path, offline_hub):
    folder = tmp_path / "own"
    write(folder / "train.parquet", [h4(n) for n in range(60)])
    checked = load(HubSource(str(folder), COMMIT, "train", test_fraction=0.3), "error")
    fractions = [prompt_position(pair.prompt) for pair in checked.test]
    assert fractions and max(fractions) < 0.3
    assert len(checked.train) + len(checked.test) == 60


@pytest.mark.parametrize("revision", ["", None, "main", "master", "refs/convert/parquet"])
def test_a_hub_revision_that_can_move_is_rejected(revision):
    with pytest.raises(ValueError, match="is not pinned; set a commit"):
        hub_rows("own/pairs", revision, "train")


def test_hub_errors_are_one_line_with_a_remedy(tmp_path, offline_hub):
    folder, damaged, bare = tmp_path / "valid", tmp_path / "damaged", tmp_path / "bare"
    write(folder / "train.parquet", [h4(1)])
    write(damaged / "train.parquet", [h4(1)])
    (damaged / "train.parquet").write_bytes((damaged / "train.parquet").read_bytes()[:-30])
    bare.mkdir()
    others = {
        "script": {"script.py": "raise SystemExit('a dataset must not run code')"},
        "card": {"train.jsonl": '{"prompt": "a"}\n', "README.md": "---\nconfigs: [a: {\n---\n"},
        "half": {"train.jsonl": '{"prompt": "a"}\n{"prompt": '},
    }
    for name, files in others.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_text(content)
    errors = {
        ("own/pairs", "train"): "Couldn't reach 'own/pairs' on the Hub .*; run once where the hub is reachable",
        (str(folder), "test"): 'Unknown split "test". Should be one of',
        (str(damaged), "train"): "a file is corrupt, delete it and run again",
        (str(tmp_path / "script"), "train"): "scripts are no longer supported.*; convert it to parquet or JSON lines",
        (str(tmp_path / "card"), "train"): "ParserError .*; its description cannot be read",
        (str(tmp_path / "half"), "train"): "a file is corrupt, delete it and run again",
        (str(bare), "train"): "any data files; check network, name and revision",
        ("no such/name/here", "train"): "check network, name and revision",
    }
    for (dataset, split), message in errors.items():
        with pytest.raises(ValueError, match=message) as caught:
            hub_rows(dataset, COMMIT, split)
        assert str(caught.value).startswith(f"{dataset}@{COMMIT[:12]} split {split}: ")
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("own/404-RepoNotFound", "doesn't exist on the Hub or cannot be accessed; check network, name and revision"),
        ("own/404-RevisionNotFound", f"Revision '{COMMIT}' doesn't exist .*; check network, name and revision"),
        ("own/401-GatedRepo", "must be authenticated to access it; .* accept its terms and run `hf auth login`"),
        ("own/403-GatedRepo", "to ask for access; .* accept its terms and run `hf auth login`"),
        ("own/401", "401 Unauthorized.*; run once where the hub is reachable .network, `hf auth login`."),
    ],
)
def test_a_rejecting_hub_gives_one_line_with_a_remedy(rejecting_hub, dataset, message):
    with pytest.raises(ValueError, match=message) as caught:
        hub_rows(dataset, COMMIT, "train")
    assert "\n" not in str(caught.value)


def test_a_cache_of_another_revision_is_never_used_for_the_pinned_one(tmp_path, offline_hub):
    # The cache entry that a download creates, made here from a local folder: without a network `datasets` uses the
    # revision that was cached last, whichever was requested.
    folder = tmp_path / "pairs"
    write(folder / "train.parquet", [h4(1)])
    rows = hub_rows(str(folder), COMMIT, "train")
    cached = next(offline_hub.rglob("dataset_info.json")).parent
    shutil.copytree(cached, offline_hub / "own___pairs" / "default" / "0.0.0" / COMMIT)
    assert hub_rows("own/pairs", COMMIT, "train") == rows
    with pytest.raises(ValueError, match=f"the cache holds own/pairs at {COMMIT}; run once where"):
        hub_rows("own/pairs", OTHER_COMMIT, "train")
    with pytest.raises(ValueError, match=f"the cache holds own/pairs at {COMMIT}"):
        hub_rows("own/pairs", "v1.0", "train")


def test_a_hub_row_that_is_not_utf8_is_named(tmp_path, offline_hub):
    table = pa.Table.from_pylist([{"prompt": f"question {n}", "rejected": "no"} for n in range(20)])
    texts = [b"yes"] * 19 + [b"half \xe2\x82"]
    broken = pa.Array.from_buffers(pa.string(), 20, pa.array(texts, pa.binary()).buffers())
    folder = tmp_path / "own"
    folder.mkdir()
    pq.write_table(table.append_column("chosen", broken), folder / "train.parquet")
    assert 20 == len(hub_rows(str(folder), COMMIT, "train"))
    with pytest.raises(ValueError, match=r"no encoder can read .*: 1 in .*own train row 20$"):
        load(HubSource(str(folder), COMMIT, "train", test_fraction=0.3), "error")


def test_mixed_values_of_a_hub_column_are_the_values_and_not_their_json_text(tmp_path, offline_hub):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"prompt": "a"}\n{"prompt": ["b"]}\n')
    assert hub_rows(str(folder), COMMIT, "train") == [{"prompt": "a"}, {"prompt": ["b"]}]


def test_a_column_of_a_hub_dataset_that_is_not_read_is_refused_until_it_is_named(tmp_path, offline_hub):
    folder = tmp_path / "own"
    write(folder / "train.parquet", [h4(n) | {"tools": "find"} for n in range(40)])
    source = HubSource(str(folder), COMMIT, "train", test_fraction=0.3)
    with pytest.raises(ValueError, match=r"own train: column tools is not read .*data.ignore_columns=\[tools\]"):
        load(source, "drop")
    checked = load(source, "drop", ignore_columns=["tools"])
    assert checked.not_read == ["messages", "tools"] and checked.dropped == {}
