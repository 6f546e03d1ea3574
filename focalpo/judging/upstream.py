"""Arena-Hard's judge settings and system prompt as its authors publish them: fetched with the questions, never shipped.

config/NAME.yaml --> must match the protocol        utils/judge_utils.py --> the system prompt, parsed but not executed
"""

import ast
from dataclasses import replace
from pathlib import Path

from focalpo.judging.protocol import ArenaProtocol
from focalpo.stages.reading import check_keys, first_line, read_text, read_yaml

PROMPT = "OG_ARENA_HARD_PROMPT"
PROMPT_FILE = "judge_prompt.txt"
REMEDY = "get the file of the revision that the benchmark names"
SETTINGS = {"prompt_template": str, "regex_patterns": list}
TEMPLATE_NAMES = {"{QUESTION}": "{question}", "{ANSWER_A}": "{answer_1}", "{ANSWER_B}": "{answer_2}"}


def check_settings(protocol: ArenaProtocol, path: Path) -> None:
    """Check that the protocol matches the published settings of the benchmark.

    Raises:
        ValueError: names the first value that differs, or is not there. The judge's name is the user's choice and is
            not compared, and neither is a field of the request that the protocol leaves out for its judge.
    """
    published = read_yaml(path, REMEDY)
    check_keys(path, published, SETTINGS, REMEDY)
    template = published["prompt_template"]
    for place, name in TEMPLATE_NAMES.items():
        template = template.replace(place, name)
    fields = [name for name in ("temperature", "max_tokens") if name in protocol.request]
    pairs = {name: (protocol.request[name], published.get(name)) for name in fields} | {
        "regex": (protocol.regex, next(iter(published["regex_patterns"]), None)),
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
        ValueError: if the file is no Python, or does not define the prompt as a text.
    """
    try:
        parsed = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no Python ({first_line(error)}); {REMEDY}") from error
    for node in parsed.body:
        if isinstance(node, ast.Assign) and [ast.unparse(target) for target in node.targets] == [PROMPT]:
            if isinstance(node.value, ast.Constant) and isinstance(node.value.value, str) and node.value.value.strip():
                return node.value.value
    raise ValueError(f"{path} does not define {PROMPT} as text; {REMEDY}")


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
