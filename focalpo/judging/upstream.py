"""Arena-Hard's judge settings and system prompts as its authors publish them: fetched, never shipped.

config/NAME.yaml --> must match the protocol        utils/judge_utils.py --> system prompts, parsed but not executed

The authors' file holds, by category, the baseline and the system prompt; v0.1 has one prompt, which has a name there.
"""

import ast
from dataclasses import replace
from pathlib import Path

from focalpo.judging.protocol import ArenaProtocol, ArenaTwoProtocol, prompt_files
from focalpo.stages.reading import check_keys, first_line, read_text, read_yaml

PROMPT, BY_CATEGORY = "OG_ARENA_HARD_PROMPT", "JUDGE_SETTINGS"
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
    regex = [protocol.regex, *([protocol.second_regex] if isinstance(protocol, ArenaTwoProtocol) else [])]
    pairs = {name: (protocol.request[name], published.get(name)) for name in fields} | {
        "regex": (regex, published["regex_patterns"][: len(regex)]),
        "user_template": (protocol.user_template, template),
    }
    for value, (ours, theirs) in pairs.items():
        if ours != theirs:
            raise ValueError(
                f"{protocol.name}: {value} is {ours!r}, the authors' {path.name} has {theirs!r}; fix the protocol"
            )


def system_prompts(protocol: ArenaProtocol, path: Path) -> dict[str, str]:
    """Read the judge's system prompt of each category from the authors' Python file.

    Raises:
        ValueError: if the file is no Python, does not define a prompt as a text, or has another baseline.
    """
    try:
        parsed = ast.parse(read_text(path))
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is no Python ({first_line(error)}); {REMEDY}") from error
    values = {
        ast.unparse(node.targets[0]): node.value
        for node in parsed.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1
    }
    if not isinstance(protocol, ArenaTwoProtocol):
        return {"": _text(values.get(PROMPT), values, path, PROMPT)}
    found = {}
    for name, category in protocol.categories.items():
        entry = _entries(_entries(values.get(BY_CATEGORY)).get(name))
        baseline = _text(entry.get("baseline"), values, path, f"the baseline of {name}")
        if baseline != category.baseline:
            raise ValueError(
                f"{protocol.name}: {name} has baseline {category.baseline}, the authors' {path.name} has {baseline}; "
                "fix the protocol"
            )
        found[name] = _text(entry.get("system_prompt"), values, path, f"the system prompt of {name}")
    return found


def write_prompt(protocol: ArenaProtocol, folder: Path) -> None:
    """Check the fetched settings and write the official system prompts beside them, if the benchmark has these files.

    Raises:
        ValueError: if the settings are not the protocol's, or a prompt is missing.
    """
    if "settings" in protocol.files:
        check_settings(protocol, folder / Path(protocol.files["settings"].path).name)
    if "prompt" in protocol.files:
        prompts = system_prompts(protocol, folder / Path(protocol.files["prompt"].path).name)
        for category, text in prompts.items():
            _prompt_file(folder, category).write_text(text)


def with_prompt(protocol: ArenaProtocol, folder: Path) -> ArenaProtocol:
    """The protocol with the prompts that `write_prompt` wrote into the folder, if there are any."""
    files = {category: _prompt_file(folder, category) for category in prompt_files(protocol)}
    if not all(file.is_file() for file in files.values()):
        return protocol
    if not isinstance(protocol, ArenaTwoProtocol):
        return replace(protocol, prompt_file=files[""])
    categories = {name: replace(each, prompt_file=files[name]) for name, each in protocol.categories.items()}
    return replace(protocol, categories=categories)


def _prompt_file(folder: Path, category: str) -> Path:
    return folder / (f"{category}_{PROMPT_FILE}" if category else PROMPT_FILE)


def _entries(node: ast.expr | None) -> dict[str, ast.expr]:
    """The entries of a dictionary written out in the source that have a text as their key."""
    if not isinstance(node, ast.Dict):
        return {}
    pairs = zip(node.keys, node.values, strict=True)
    return {str(key.value): value for key, value in pairs if isinstance(key, ast.Constant)}


def _text(node: ast.expr | None, values: dict[str, ast.expr], path: Path, what: str) -> str:
    """A text written out in the source, or the one whose name stands there."""
    if isinstance(node, ast.Name):
        node = values.get(node.id)
    if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.strip():
        return node.value
    raise ValueError(f"{path} does not define {what} as text; {REMEDY}")
