"""The slices of a configuration that go into stages: what their keys depend on, and how they are launched."""

from dataclasses import fields
from pathlib import Path

from focalpo.config.compose import CONF, plain
from focalpo.config.data import NOISY, Data
from focalpo.config.schema import Config
from focalpo.judging.protocol import EVAL, CheckedProtocol, Protocol, load_protocol, protocol_hash
from focalpo.judging.requests import judged_as
from focalpo.stages.folder import file_hash
from focalpo.stages.reading import read_text
from focalpo.training.settings import DENSE, EXECUTION, OPTIMIZERS, SAMPLING, SCHEDULES

FILES = ("path", "test_path")
IN_FILES = ("file", "unpaired")
"""Sources that read files of the user's."""
SAMPLED = ("on_policy", "instructions")
"""Sources whose answers are sampled from the model and scored by stages of their own."""


def model_slice(config: Config, from_hub: bool = True) -> dict:
    """The model that a stage starts from; without `from_hub`, the one made by its input stage."""
    model = config.model
    return {
        "path": model.path if from_hub else None,
        "revision": model.revision if from_hub else None,
        # The text, not the file name: an edited template makes a different stage.
        "chat_template": read_text(CONF.parent / model.chat_template) if model.chat_template else None,
        "stop_tokens": model.stop_tokens,
    }


def start_slice(config: Config) -> dict:
    """The model that the last round starts from: in later rounds never the hub's."""
    return model_slice(config, from_hub=config.rounds == 1)


def backend_slice(config: Config) -> dict:
    """The last bits of Hugging Face's logits, and now and then a token, depend on which rows share a batch."""
    generate = config.generate
    own = {"max_batch_tokens": generate.max_batch_tokens, "sampling": SAMPLING} if generate.backend == "hf" else {}
    return {"backend": generate.backend} | own


def threads_slice(config: Config) -> dict:
    """Threads of each process that computes on CPUs; on GPUs they change nothing."""
    return {} if config.launch.gpus else {"threads": config.launch.threads}


def data_slice(config: Config) -> dict:
    """Where the pairs come from, with the content of files; length limits and `on_bad_rows` are not part of it."""
    data = config.data
    if data.source in SAMPLED:  # its dependencies are separate stages
        return {"source": data.source}
    values = {"source": data.source} | source_slice(config)
    if values.get("noise_on") == NOISY[0]:
        del values["noise_on"]
    if data.source in IN_FILES:
        # Results depend on the content, not the path: an edited file makes a different stage, a moved one does not.
        values |= {f"{name}_sha256": _content(values.pop(name)) for name in FILES}
    return values


def source_slice(config: Config) -> dict:
    """The keys that only the data's source has."""
    common = {each.name for each in fields(Data)}
    return {name: value for name, value in plain(config.data).items() if name not in common}


def prompts_slice(config: Config) -> dict:
    """Which prompts the model answers: a hub dataset's, or those drawn from a file of eval/."""
    data = config.data
    if data.source == "instructions":
        drawn = {name: getattr(data, name) for name in ("prompts", "test_prompts", "seed")}
        return {"file": data.file, "sha256": file_hash(EVAL / f"{data.file}.yaml")} | drawn
    return {name: value for name, value in source_slice(config).items() if name not in ("sampling", "reward")}


def limits_slice(config: Config) -> dict:
    """The maximum lengths, and the rule that cuts what is longer."""
    return {name: getattr(config.data, name) for name in ("max_prompt_length", "max_length", "truncation")}


def data_files(config: Config) -> dict:
    """The paths of the data's files, for the stages that read them."""
    return {"files": {name: getattr(config.data, name) for name in FILES}} if config.data.source in IN_FILES else {}


def _content(path: str | None) -> str | None:
    if path is None:
        return None
    return file_hash(Path(path)) if Path(path).is_file() else "no file"


def protocol_slice(config: Config, name: str) -> dict:
    """A benchmark's protocol as its file has it, and the hash of everything in it."""
    return {"protocol": benchmarks(config)[name], "hash": protocol_hash(_protocol_in_file(config, name))}


def judged_slice(config: Config, name: str) -> dict:
    """As `protocol_slice`, with the judge and the requests that the configuration gives the protocol.

    They are no part of the benchmark's own slice: another judge judges the answers that are there.
    """
    asked = asked_slice(config)
    own = protocol_slice(config, name)
    return own | {"hash": protocol_hash(protocol_named(config, name)), "asked": asked} if asked else own


def asked_slice(config: Config) -> dict:
    """The judge's model and the changed fields of its requests; empty where the protocol's own are kept."""
    asked = {"model": config.judge.model, "request": config.judge.request}
    return asked if any(asked.values()) else {}


def benchmarks(config: Config) -> dict[str, str]:
    """The protocols of all benchmarks by name, judged ones first."""
    return config.judge.benchmarks | config.check.benchmarks


def protocol_named(config: Config, name: str) -> Protocol:
    """Load a benchmark's protocol, with the judge and the requests that the configuration gives it.

    Raises:
        ValueError: where what is judged is a protocol of what is checked by code, or the reverse.
    """
    protocol = _protocol_in_file(config, name)
    return protocol if name in config.check.benchmarks else judged_as(protocol, asked_slice(config))


def _protocol_in_file(config: Config, name: str) -> Protocol:
    protocol = load_protocol(EVAL / f"{benchmarks(config)[name]}.yaml")
    key, other = ("check", "judge") if name in config.check.benchmarks else ("judge", "check")
    if isinstance(protocol, CheckedProtocol) != (key == "check"):
        place = f"{key}.benchmarks.{name}={benchmarks(config)[name]}"
        raise ValueError(f"{place}: this protocol is of the other kind; name it in {other}.benchmarks")
    return protocol


def split_train(train: dict) -> tuple[dict, dict]:
    """Training settings that change the weights, and those that only say how to compute them."""
    execution = {name: train[name] for name in EXECUTION}
    own = {name: value for name, value in train.items() if name not in EXECUTION}
    for name, usual in {"schedule": SCHEDULES[0], "optimizer": OPTIMIZERS[0]}.items():
        if own[name] == usual:
            del own[name]
    return own, execution


def lora_slice(config: Config) -> dict:
    """The adapters, where there are any."""
    if config.lora is None:
        return {}
    own = plain(config.lora)
    del own["quantization"]
    return {"lora": own | quantization_slice(config)}


def quantization_slice(config: Config) -> dict:
    """How the weights below adapters are quantised: those of the reference are, too."""
    chosen = config.lora.quantization if config.lora else DENSE
    return {} if chosen == DENSE else {"quantization": chosen}


def launch_slice(config: Config) -> dict:
    """How a stage of one or several ranks is launched and tracked."""
    return {"ranks": config.launch.ranks, "hang_seconds": config.launch.hang_seconds, "track": plain(config.track)}


def generator_slice(config: Config) -> dict:
    """How a stage that generates is launched and tracked."""
    names = ("tensor_parallel", "data_parallel", "max_batch_tokens")
    return {name: getattr(config.generate, name) for name in names} | {"track": plain(config.track)}
