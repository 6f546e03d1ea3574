"""The W&B workspace and report against a stand-in for the server: what is saved, and when nothing is."""

import json
from pathlib import Path

import pytest

from focalpo.stages.metrics import METRICS
from recipes import dashboard
from tests.sealed_table import ASKED

KEY = "0" * 40  # of the length that W&B's client requires


@pytest.fixture
def saved(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """What the server was asked to save."""
    requests: list[dict] = []

    def save(self):
        requests.append(json.loads(self._to_model().model_dump_json()))
        return self

    interface = "wandb_workspaces.reports.v2.interface"
    monkeypatch.setattr(f"{interface}._get_api", lambda: None)
    monkeypatch.setattr(f"{interface}.execute_graphql", lambda *_: {"project": {"internalId": "7"}})
    for cls, name in ((dashboard.workspaces.Workspace, "workspace"), (dashboard.reports.Report, "report")):
        monkeypatch.setattr(cls, "save", save)
        monkeypatch.setattr(cls, "url", f"https://stand-in/{name}")
    return requests


def arguments(report: Path) -> list[str]:
    return ["pocket", *ASKED[1:], f"runs={report.parent.parent}"]


def test_without_a_login_nothing_is_written_online_and_the_output_says_so(
    sealed_report: Path, saved: list[dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    dashboard.main(arguments(sealed_report))
    output = capsys.readouterr().out
    assert saved == [] and "nothing was written online" in output and "wandb sync" in output
    # 4 trainings of 1.5 s each are sealed
    assert "| train | 4 | 4 | 0.002 | 0.002 |" in output


def test_with_a_login_every_metric_has_a_panel_and_the_report_has_the_table(
    sealed_report: Path, saved: list[dict], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ENTITY", "somebody")
    dashboard.main(arguments(sealed_report))
    workspace, report = map(json.dumps, saved)
    assert dashboard.LOGGED.keys() > METRICS.keys() and "eval_kl_answers" in dashboard.LOGGED
    for name in dashboard.LOGGED:
        assert f'"{name}"' in workspace and f'"{name}"' in report
    assert json.dumps("group") in workspace and "train" in report
    row = next(line for line in (sealed_report / "summary.md").read_text().splitlines() if line.startswith("| FocalPO"))
    assert json.dumps(row).strip('"') in report
    assert KEY not in workspace + report
    assert "https://stand-in/report" in capsys.readouterr().out
    addresses = json.loads((sealed_report.parent.parent / dashboard.ADDRESSES).read_text())
    assert addresses["focalpo/pocket/workspace"] == "https://stand-in/workspace"


def test_a_second_call_updates_what_the_first_created(
    sealed_report: Path, saved: list[dict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_ENTITY", "somebody")
    opened: list[str] = []
    for cls in (dashboard.workspaces.Workspace, dashboard.reports.Report):
        monkeypatch.setattr(
            cls, "from_url", classmethod(lambda cls, url: opened.append(url) or cls(entity="a", project="b"))
        )
    (sealed_report.parent.parent / dashboard.ADDRESSES).unlink(missing_ok=True)
    dashboard.main(arguments(sealed_report))
    assert opened == []
    dashboard.main(arguments(sealed_report))
    assert opened == ["https://stand-in/workspace", "https://stand-in/report"]
    (sealed_report.parent.parent / dashboard.ADDRESSES).unlink()
