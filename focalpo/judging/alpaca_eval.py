"""AlpacaEval 2.0: judges completions against reference answers with the alpaca_eval library, one verdict per prompt.

The library builds the prompts, draws the order of the two outputs, reads the logprobs and flips a swapped verdict back;
equal outputs get 1.5 without a request. This module provides the client that the library calls, the files that it
reads and the filling of its template, and keeps it from writing into its package, dropping rows, printing, or building
a client for every call.
"""

import logging
import math
import random
import re
import sys
import warnings
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType, SimpleNamespace
from typing import Any

import openai
import pandas as pd
import yaml
from openai.types.chat import ChatCompletion

from focalpo.judging.answers import in_benchmark_order
from focalpo.judging.endpoint import Endpoint, JudgeError
from focalpo.judging.missing import check_missing
from focalpo.judging.protocol import AlpacaProtocol, annotator_config, fill_template
from focalpo.judging.requests import body_of
from focalpo.judging.shown import CHAT_TOKENS, messages_of, prompts_of
from focalpo.judging.thinking import spoken
from focalpo.stages.records import AlpacaVerdict, Completion, Question

NO_LOGPROBS = "no log-probs in the reply"
TEXTS = ("instruction", "output_1", "output_2")
BROKEN = (
    f"their texts contain {' or '.join(CHAT_TOKENS)}, which would end the judge's prompt early; fix the stop tokens of "
    "the generation"
)
OTHER_PROMPT = "alpaca_eval's prompt does not show the judge the texts as they are"


def judge_alpaca(
    questions: Sequence[Question],
    completions: Sequence[Completion],
    protocol: AlpacaProtocol,
    endpoint: Endpoint,
    most_missing: float = 0.0,
) -> list[AlpacaVerdict]:
    """Judge every completion against its reference; returns one verdict per question, in the order of the questions.

    A row without a verdict, or whose texts the judge's prompt cannot show as they are, has the preference NaN.

    Raises:
        ValueError: if the completions do not match the questions, the installed alpaca_eval is not the protocol's
            version, or more than the share `most_missing` of the verdicts is missing (the error names the rows).
    """
    answers = in_benchmark_order(questions, completions, protocol.prompts)
    frame = pd.DataFrame(
        {
            "instruction": [question.prompt[-1]["content"] for question in questions],
            "output_1": [question.reference for question in questions],
            "output_2": [answer.text for answer in answers],
            "row": range(len(questions)),
        }
    )
    texts = list(frame[list(TEXTS)].itertuples(index=False, name=None))
    broken = [row for row, shown in enumerate(texts) if any(token in text for text in shown for token in CHAT_TOKENS)]
    causes = [BROKEN] if broken else []
    named = [question.id for question in questions]
    check_missing([named[row] for row in broken], len(named), most_missing, BROKEN)  # before anything is paid for
    preferences = _annotate(frame.drop(index=broken), protocol, endpoint, causes)
    missing = [name for row, name in enumerate(named) if row not in preferences]
    check_missing(missing, len(named), most_missing, causes[0] if causes else "alpaca_eval dropped them")
    return [
        AlpacaVerdict(question.id, row, preferences.get(row, math.nan), len(question.reference), len(answers[row].text))
        for row, question in enumerate(questions)
    ]


def model_shown_first(instruction: str) -> bool:
    """Whether alpaca_eval shows the second output first: its random draw from the instruction, with its seed 0."""
    # The key of the library's utils.random_seeded; a test checks this against the prompts that it sends.
    return random.Random(f"is_switched_outputs{instruction}0").choices([False, True], k=1)[0]


def _annotate(frame: pd.DataFrame, protocol: AlpacaProtocol, endpoint: Endpoint, causes: list[str]) -> dict[int, float]:
    """Preference of each row; rows without a verdict are absent, and their errors are appended to `causes`."""
    library = _library()
    if library.__version__ != protocol.library:
        raise ValueError(
            f"alpaca_eval {library.__version__} is installed, but the protocol requires {protocol.library}; "
            f"run pip install alpaca-eval=={protocol.library}"
        )
    settings = annotator_config(protocol.annotator)
    (template,) = (Path(each["prompt_template"]).read_text() for each in settings.values())
    prompts = prompts_of(template, frame[list(TEXTS)].itertuples(index=False, name=None))
    with TemporaryDirectory() as folder:
        config = Path(folder) / "annotator.yaml"
        config.write_text(yaml.safe_dump(settings))
        annotator = library.annotators.PairwiseAnnotator(
            annotators_config=config, seed=0, caching_path=None, is_avoid_reannotations=False
        )
        (single,) = annotator.annotators.values()
        client = _tolerant_client(endpoint.client(partial(_no_preference, single)), protocol, prompts, causes)
        rows = annotator.annotate_pairs(
            frame,
            chunksize=None,
            num_procs=endpoint.concurrency,
            client_kwargs={"client": client},
        )
    return {row["row"]: float(row["preference"]) for row in rows if pd.notna(row["preference"])}


def _tolerant_client(client: openai.OpenAI, protocol: AlpacaProtocol, prompts: set[str], causes: list[str]) -> object:
    """Wrap the client for alpaca_eval so that a row that cannot be judged does not stop the other rows.

    Of the library's request only the messages are sent, with the judge and the fields of the protocol, and only if they
    are one of `prompts`.
    """

    def create(**request: Any) -> ChatCompletion:
        try:
            if messages_of(request["messages"]) not in prompts:
                raise JudgeError(OTHER_PROMPT)
            # `post`, as in arena_hard: `create` would only check the types of values from the library's own config.
            reply = client.post(
                "/chat/completions", cast_to=ChatCompletion, body=body_of(protocol, request["messages"])
            )
        except JudgeError as error:
            causes.append(str(error))
            # At this message the library leaves the row empty and continues; any other error stops it.
            raise openai.OpenAIError("Please try again with a different prompt.") from error
        message = reply.choices[0].message
        message.content = spoken(message.content or "")
        return reply

    return SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))


def _no_preference(single: Any, reply: dict) -> str | None:
    """What is wrong with a reply, or None; asks the library's own parser, so that check and score cannot disagree."""
    choice = reply["choices"][0]
    text = spoken(choice["message"].get("content") or "")
    if single.completion_key != "completions_all":
        completion = text
    elif choice.get("logprobs"):
        completion = choice | {"text": text}
    else:
        return NO_LOGPROBS
    ((preference,), _) = single._parse_completions([completion])
    return None if preference is not None and 1 <= preference <= 2 else "no preference in the reply"


def _filled_prompts(df: pd.DataFrame, template: str, batch_size: int = 1) -> tuple[list[str], pd.DataFrame]:
    """What the library's `make_prompts` returns for one row a prompt, with each text shown to the judge unchanged.

    The library fills one name after the other, so an instruction that holds {output_1} receives the first answer, and
    the judge sees that answer in a wrong place, or not at all.

    Raises:
        ValueError: if the annotator judges several rows in one prompt, or its template shows a text not exactly once.
    """
    names = re.findall(r"{([^ \s]+?)}", template)
    if batch_size != 1 or len(names) != len({*names}) or not {*names} <= {*df.columns}:
        raise ValueError(
            f"the annotator's template shows {sorted(names)} to judge {batch_size} rows; it must show each text of one "
            "row once"
        )
    columns = df[names].astype(str)
    return [fill_template(template, dict(zip(names, row, strict=True))) for row in columns.to_numpy()], df.copy()


@cache
def _library() -> ModuleType:
    """Import alpaca_eval and silence it.

    Its import raises the root logger's level; its calls log to the root logger and draw progress bars.
    """
    level = logging.getLogger().level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pkg_resources warns that it is deprecated
        import alpaca_eval
        from alpaca_eval.decoders import openai as decoder
    logging.getLogger().setLevel(level)
    # Its modules call `logging.info` and `tqdm.tqdm` by these names; rebind the names in its modules only.
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "alpaca_eval" and getattr(module, "logging", None) is logging:
            vars(module)["logging"] = logging.getLogger("alpaca_eval")
    logging.getLogger("alpaca_eval").setLevel(logging.CRITICAL)
    for module in (alpaca_eval.utils, decoder):
        module.tqdm = SimpleNamespace(tqdm=lambda rows, **_: rows)
    alpaca_eval.utils.make_prompts = _filled_prompts
    # For every call it would read a YAML file of clients and build them, 20 ms each; give it our client instead.
    alpaca_eval.utils.get_all_clients = lambda *_, client, **__: [client]
    return alpaca_eval
