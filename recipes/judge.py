"""Judge one model's completions on every benchmark: verdicts, a record of each request, and the scores of this run."""

import sys
from dataclasses import asdict
from functools import partial

from focalpo.judging.dispatch import judge, judged_by, lacking
from focalpo.judging.earlier import RECORDS, take_records
from focalpo.judging.endpoint import Endpoint, EndpointError
from focalpo.judging.keys import open_to_listeners
from focalpo.judging.preflight import preflights
from focalpo.judging.price import Estimate, expected_of
from focalpo.judging.protocol import EVAL, ArenaProtocol, CheckedProtocol, JudgedProtocol
from focalpo.judging.requests import protocol_of
from focalpo.judging.sentinel import Sentinel, judged, openings, read_sentinel, since_first
from focalpo.judging.serving import address_of, endpoint_at
from focalpo.judging.upstream import with_prompt
from focalpo.pocket.world import is_correct
from focalpo.running.command import run_single
from focalpo.stages.folder import Job, write_json
from focalpo.stages.records import AlpacaVerdict, ArenaGame, Completion, Question, read_records, write_records

Task = tuple[JudgedProtocol, list[Question], list[Completion]]
Verdicts = list[AlpacaVerdict] | list[ArenaGame]


def make(job: Job) -> dict:
    """Fill the job's folder with `<benchmark>.parquet` (verdicts) and `records.jsonl` (requests and replies)."""
    verdicts, facts = judge_tasks(job, {name: _task(job, name) for name in job.settings["protocols"]})
    for name, found in verdicts.items():
        write_records(job.path / f"{name}.parquet", found)
    return facts | _gold(job)


def judge_tasks(job: Job, tasks: dict[str, Task]) -> tuple[dict[str, Verdicts], dict]:
    """Judge the tasks with the job's judge, recording into its folder; returns verdicts by task, and facts."""
    settings = job.launch["endpoint"]
    sentinel = sentinel_of(job)
    asked = [(protocol, sentinel.questions, sentinel.answers) for protocol, _, _ in tasks.values()] if sentinel else []
    estimate = expected_of([*tasks.values(), *asked], settings)
    taken = take_records(job, anew=openings(sentinel, [protocol for protocol, _, _ in tasks.values()]))
    _announce(job, estimate, settings, taken)
    verdicts = {}
    with address_of(settings["base_url"]) as address:
        tried = preflights(tasks.values(), sentinel, address, settings, job.path / RECORDS)
        with endpoint_at(address, settings, job.path / RECORDS) as endpoint:
            endpoint.counts.calls += tried
            pairs = [partial(judged, sentinel, task[0], endpoint) for task in tasks.values()] if sentinel else []
            endpoint.fill([*pairs, *(partial(judge, q, c, p, endpoint) for p, q, c in tasks.values())])
            facts = _drift(job, tasks, sentinel, endpoint) if sentinel else {"sentinel": {}, "warnings": []}
            for name, (protocol, questions, completions) in tasks.items():
                verdicts[name] = judge(questions, completions, protocol, endpoint, job.launch["most_missing"])
                facts["warnings"] += lacking(protocol, verdicts[name])
    if warning := open_to_listeners(settings["base_url"], settings["api_key_env"]):
        facts["warnings"].append(warning)
    served = sorted(endpoint.served)
    if len(served) > 1:
        facts["warnings"].append(f"several models answered as the judge: {', '.join(served)}; see records.jsonl")
    counts = {"calls": asdict(endpoint.counts), "spent_usd": endpoint.spending.usd, "served": served}
    counts["judged_by"] = {name: judged_by(protocol) for name, (protocol, _, _) in tasks.items()}
    return verdicts, counts | facts | ({"records_of": taken} if taken else {})


def sentinel_of(job: Job) -> Sentinel | None:
    """The pairs that are judged first, unless the job has none."""
    return read_sentinel(EVAL / f"{job.launch['sentinel']}.yaml") if job.launch["sentinel"] else None


def benchmark_of(job: Job, name: str) -> tuple[JudgedProtocol, list[Question]]:
    """The protocol of one of the job's benchmarks, with the judge's prompts, and its questions."""
    protocol, benchmark = protocol_of(job.settings["protocols"][name]), job.inputs[name]
    assert not isinstance(protocol, CheckedProtocol)
    if isinstance(protocol, ArenaProtocol):
        protocol = with_prompt(protocol, benchmark)
    return protocol, read_records(benchmark / "questions.parquet", Question)


def _task(job: Job, name: str) -> Task:
    return *benchmark_of(job, name), read_records(job.inputs["completions"] / f"{name}.parquet", Completion)


def _announce(job: Job, estimate: Estimate, settings: dict, taken: list[str]) -> None:
    """Save the estimate, and print it when judging costs money; say whose records answer requests."""
    write_json(job.path / "estimate.json", asdict(estimate))
    if taken:
        print(f"{job.kind}/{job.name} asks nothing that the records of {', '.join(taken)} answer", flush=True)
    if estimate.usd:
        batches = ", in batches at half the price and within 24 h each" if settings["batch"] else ""
        budget = "" if settings["budget_usd"] is None else f", budget USD {settings['budget_usd']:.2f}"
        print(f"{job.kind}/{job.name} will take {estimate}{batches}{budget}", flush=True)


def _drift(job: Job, tasks: dict[str, Task], sentinel: Sentinel, endpoint: Endpoint) -> dict:
    """Each protocol's drift: its verdicts on the sentinel's pairs compared with the judge's first run under `runs`."""
    found, warnings = {}, []
    runs = job.path.parent.parent / "judge"  # also where the judge decides duels
    runs.mkdir(exist_ok=True)
    for name, (protocol, _, _) in tasks.items():
        try:
            results = judged(sentinel, protocol, endpoint)
        except EndpointError:
            raise
        except ValueError as error:
            if not endpoint.offline:  # records from a run without a sentinel say nothing about drift
                print(f"{protocol.name}: the sentinel has {error}", file=sys.stderr)
                warnings.append(f"{protocol.name}: the judge's drift is not known, because its sentinel lacks verdicts")
            continue
        mark = sentinel.mark(job.settings["protocols"][name]["hash"], job.settings["judge"])
        since = since_first(runs, mark, job.key, results)
        found[name] = asdict(since)
        if since.changed > sentinel.most_changed:
            changed = f"{100 * since.changed:.0f}% of {since.verdicts} sentinel verdicts have changed"
            warnings.append(f"{protocol.name}: the judge has drifted, {changed} since its first run here")
    return {"sentinel": found, "warnings": warnings}


def _gold(job: Job) -> dict:
    """In the pocket world, where correctness is known, the percentage of greedy answers that are correct."""
    greedy = job.inputs["completions"] / "greedy.parquet"
    if not greedy.is_file() or any(protocol_of(p).source != "pocket" for p in job.settings["protocols"].values()):
        return {}
    answers = read_records(greedy, Completion)
    right = [is_correct(answer.prompt[-1]["content"], answer.text, answer.finished) for answer in answers]
    return {"gold": {"greedy_success": 100 * sum(right) / len(right)}}


if __name__ == "__main__":
    run_single("judge")
