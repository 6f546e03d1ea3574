"""Fixtures that several files share."""

from pathlib import Path

import pytest

from focalpo.artifact import Folder
from focalpo.judging import stats
from recipes import report
from tests.sealed_table import planned, sealed_stages


@pytest.fixture(scope="session")
def sealed_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sealed report of a small table: two seeds of SFT, DPO and FocalPO in the base setting."""
    folder = sealed_stages(tmp_path_factory.mktemp("table") / "runs", planned())
    return made(folder)


def made(folder: Folder) -> Path:
    """Make and seal a report, with bootstraps of 200 rounds: intervals must be there, their width does not matter."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stats, "ROUNDS", 200)
        _forget()
        with folder.being_made() as job:
            folder.seal(1.0, report.make(job))
    _forget()
    return folder.path


def _forget() -> None:
    stats.prompt_weights.cache_clear()
    stats._seed_weights.cache_clear()
