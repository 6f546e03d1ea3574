"""Arena-Hard's judge settings and system prompt as its authors publish them: fetched with the questions, never shipped.

config/NAME.yaml --> must match the protocol        utils/judge_utils.py --> the system prompt, parsed but not executed
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
    """Check that the protocol matches the published settings of the benchmark.

    Raises:
        ValueError: names the first value that differs. The judge's name is the user's choice and is not compared.
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
                f"{protocol.name}: {value} is {ours!r}, the authors' {path.name} has {theirs!r}; fix the protocol"
            )


def system_prompt(path: Path) -> str:
    """Read the judge's system prompt from the authors' Python file.

    Raises:
        ValueError: if the file does not define the prompt as a text.
    """
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [PROMPT]:
            text = ast.literal_eval(node.value)
            if isinstance(text, str) and text.strip():
                return text
    raise ValueError(f"{path} does not define {PROMPT} as text; get the file of the revision that the benchmark names")


def write_prompt(protocol: ArenaProtocol, folder: Path) -> None:
    """Check the fetched settings and write the official system prompt beside them, if the benchmark has these files.

    Raises:
        ValueError: if the settings are not the protocol's, or the prompt is missing.
    """
    if "settings" in protocol.files:
        check_settings(protocol, folder / Path(protocol.files["settings"].path).name)
    if "prompt" in protocol.files:
        (folder / PROMPT_FILE).write_text(system_prompt(folder / Path(protocol.files["prompt"].path).name))


def with_prompt(protocol: ArenaProtocol, folder: Path) -> ArenaProtocol:
    """The protocol with the prompt that `write_prompt` wrote into the folder, if there is one."""
    prompt = folder / PROMPT_FILE
    return replace(protocol, prompt_file=prompt) if prompt.is_file() else protocol
