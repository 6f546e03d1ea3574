"""Arena-Hard's judge settings and system prompt as its authors publish them: fetched with the questions, never shipped.

config/NAME.yaml --> must say what the protocol says        utils/judge_utils.py --> the system prompt, read and not run
"""

import ast
from dataclasses import replace
from pathlib import Path

import yaml

from focalpo.judging.protocol import ArenaProtocol

PROMPT = "OG_ARENA_HARD_PROMPT"
PROMPT_FILE = "judge_prompt.txt"
TEMPLATE_NAMES = {"{QUESTION}": "{question}", "{ANSWER_A}": "{answer_1}", "{ANSWER_B}": "{answer_2}"}


def check_settings(protocol: ArenaProtocol, path: Path) -> None:
    """Compare the protocol with the published settings of the benchmark.

    Raises:
        ValueError: naming the first value that differs; the judge's name is the user's to choose and is not compared.
    """
    published = yaml.safe_load(path.read_text())
    template = published["prompt_template"]
    for place, name in TEMPLATE_NAMES.items():
        template = template.replace(place, name)
    pairs = {
        "temperature": (protocol.temperature, published["temperature"]),
        "max_tokens": (protocol.max_tokens, published["max_tokens"]),
        "regex": (protocol.regex, published["regex_patterns"][0]),
        "user_template": (protocol.user_template, template),
    }
    for value, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(
                f"{protocol.name}: {value} is {ours!r}, {path.name} of the authors has {theirs!r}; correct it"
            )


def system_prompt(path: Path) -> str:
    """The judge's system prompt, out of the authors' Python file.

    Raises:
        ValueError: when the file holds no such text.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [PROMPT]:
            text = ast.literal_eval(node.value)
            if isinstance(text, str) and text.strip():
                return text
    raise ValueError(f"{path} has no text {PROMPT}; get the file of the revision that the benchmark names")


def write_prompt(protocol: ArenaProtocol, folder: Path) -> None:
    """Check the fetched settings and put the official system prompt beside them, where a benchmark fetches them.

    Raises:
        ValueError: when the settings are not the protocol's, or there is no prompt.
    """
    if "settings" in protocol.files:
        check_settings(protocol, folder / Path(protocol.files["settings"].path).name)
    if "prompt" in protocol.files:
        (folder / PROMPT_FILE).write_text(system_prompt(folder / Path(protocol.files["prompt"].path).name))


def with_prompt(protocol: ArenaProtocol, folder: Path) -> ArenaProtocol:
    """The protocol with the prompt that `write_prompt` has put into the folder, if it has."""
    prompt = folder / PROMPT_FILE
    return replace(protocol, prompt_file=prompt) if prompt.is_file() else protocol
