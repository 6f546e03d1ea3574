"""Each weight goes to where it is computed with as soon as it is read: the host never holds the model."""

import weakref
from pathlib import Path

import pytest
import torch
from transformers import modeling_utils

from focalpo.training.model import ModelSource, load_model
from tests.tiny import tiny_model


class Host:
    """Counts the weights that were read from files and still lie in the host's memory, and remembers the most."""

    opened = staticmethod(modeling_utils.safe_open)

    def __init__(self, names: str = "") -> None:
        self.names, self.read, self.there, self.most = names, 0, [], 0

    def open(self, *args: object, **options: object) -> "File":
        return File(self, self.opened(*args, **options))

    def took(self, name: str, tensor: torch.Tensor) -> None:
        if self.names in name:
            self.there = [each for each in self.there if each() is not None] + [weakref.ref(tensor.untyped_storage())]
            self.read, self.most = self.read + 1, max(self.most, len(self.there))


class File:
    def __init__(self, host: Host, file: object) -> None:
        self.host, self.file = host, file

    def __enter__(self) -> "File":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        return getattr(self.file, name)

    def get_slice(self, name: str) -> "Slice":
        return Slice(self.host, name, self.file.get_slice(name))


class Slice:
    def __init__(self, host: Host, name: str, part: object) -> None:
        self.host, self.name, self.part = host, name, part

    def __getattr__(self, name: str) -> object:
        return getattr(self.part, name)

    def __getitem__(self, where: object) -> torch.Tensor:
        tensor = self.part[where].clone()  # not the file's own pages, which no one counts
        self.host.took(self.name, tensor)
        return tensor


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder: Path = tmp_path_factory.mktemp("host") / "model"
    tiny_model(hidden_size=64, num_hidden_layers=8).save_pretrained(folder)
    return ModelSource(str(folder))


def test_the_host_holds_the_weights_that_are_being_read_only(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`meta` stands for a GPU: what was moved there is no longer on the host."""
    for to, most in ((None, 75), (torch.device("meta"), 4)):  # four threads read
        monkeypatch.setattr(modeling_utils, "safe_open", (host := Host()).open)
        model = load_model(source, "float32", to)
        assert {each.device.type for each in model.parameters()} == {"meta" if to else "cpu"}
        assert host.read == len(list(model.parameters())) == 75
        assert host.most == most if to is None else host.most <= most


def test_of_the_weights_that_are_quantised_one_at_a_time_is_there(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modeling_utils, "safe_open", (host := Host("_proj")).open)
    load_model(source, "float32", torch.device("cpu"), "nf4")
    assert host.read == 8 * 7 and host.most <= 2
