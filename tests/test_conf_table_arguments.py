"""What a command about a table refuses: overrides that would replace what makes its rows and columns."""

import pytest

from focalpo.config.compose import compose_table
from focalpo.config.mistakes import Mistake, choose
from focalpo.planning.table import compose_rows, composed_table, split_arguments, with_rows


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("setting=pocket_instruct", "setting=pocket_instruct would make every column of the table the same one"),
        ("+setting=pocket_instruct", "choose them by settings=NAME"),
        ("++experiment=pocket/dpo", "every row of the table the same one; choose them by rows=NAME"),
        ("~experiment", "choose them by rows=NAME"),
        ("objective=dpo", "choose them by rows=NAME"),
        ("objective@train=dpo", "choose them by rows=NAME"),
        ("objective=dpo,ipo", "choose them by rows=NAME"),
        ("table=pocket table=paper", "table= is given twice; give it once"),
        ("rows=dpo rows=dpo", "rows= is given twice"),
        ("seeds=1 seeds=2", "seeds= is given twice"),
    ],
)
def test_what_would_replace_every_row_or_column_is_refused(arguments: str, said: str) -> None:
    with pytest.raises(Mistake) as caught:
        split_arguments(arguments.split())
    assert said in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_all_of_them_are_told_at_once_and_other_overrides_pass() -> None:
    with pytest.raises(Mistake) as caught:
        split_arguments(["setting=a", "seeds=1", "seeds=2", "objective=dpo", "train.epochs=2"])
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == ["seeds", "setting", "objective"]
    given = ["table=pocket", "objective.beta=1", "data.limit=3", "cluster=slurm", "settings=base"]
    assert split_arguments(given) == (
        {"table": "pocket", "settings": "base"}, ["objective.beta=1", "data.limit=3", "cluster=slurm"]
    )  # fmt: skip


@pytest.mark.parametrize("override", ["data=pocket_instruct", "+model=pocket"])
def test_data_or_model_of_every_column_are_refused_and_of_one_column_are_not(override: str) -> None:
    table = with_rows(compose_table("pocket"), {"rows": "dpo"})
    with pytest.raises(
        Mistake, match=r"would replace that of every column; name its column by settings=base\|instruct"
    ):
        compose_rows(table, [override])
    one = with_rows(compose_table("pocket"), {"rows": "dpo", "settings": "base"})
    assert compose_rows(one, [override.lstrip("+")]).keys() == {("base", "dpo")}


@pytest.mark.parametrize(
    ("own", "said"), [({"rows": "dppo"}, "did you mean dpo?"), ({"settings": "bass"}, "mean base?")]
)
def test_a_wrong_row_or_setting_is_answered_with_the_nearest_and_all(own: dict[str, str], said: str) -> None:
    with pytest.raises(Mistake, match=said):
        with_rows(compose_table("pocket"), own)


def test_a_name_near_nothing_gets_the_list_alone() -> None:
    assert choose("zzz", ["dpo", "ipo"]) == "choose from dpo, ipo"
    assert choose("dpoo", ["dpo", "ipo"]) == "did you mean dpo? choose from dpo, ipo"


@pytest.mark.parametrize(
    ("arguments", "label"),
    [
        ("settings=base data=pocket_instruct", "Pocket base (off-policy pairs), data=pocket_instruct"),
        ("settings=base data=pocket_base", "Pocket base (off-policy pairs)"),
        ("settings=base data.prompts=77 train.epochs=1", "Pocket base (off-policy pairs)"),
        (
            "table=one_gpu model.path=/mine model.revision=null",
            "Qwen2.5-0.5B-Instruct, 10k pairs, model.path=/mine model.revision=null",
        ),
    ],
)
def test_a_column_whose_model_or_data_is_replaced_says_so_in_its_label(arguments: str, label: str) -> None:
    table, _ = composed_table(["rows=dpo", *arguments.split()])
    (column,) = table.settings.values()
    assert column.label == label


def test_a_column_that_has_no_data_of_its_own_keeps_its_label() -> None:
    before = compose_table("files").settings["files"].label
    assert composed_table(["rows=dpo", "data.path=x.jsonl"], only="files")[0].settings["files"].label == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (  # the first row's loss has no gamma, a later one's refuses this value
            "rows=dpo,simpo,focalpo settings=base train.lrr=1 objective.gamma=-1",
            [
                "train.lrr=1: there is no such key",
                "base/dpo: objective.gamma=-1: there",
                "focalpo: objective.gamma=-1.0",
            ],
        ),
        (
            "rows=focalpo,dpo,ipo objective.beta=-1 seed=-1",
            [
                "seed=-1",
                "focalpo: objective.beta=-1.0",
                "dpo: objective.beta=-1.0",
                "base/ipo: objective.beta=-1: there",
            ],
        ),
        ("objective.gama=1", ["base/sft, instruct/sft: objective.gama=1: there is no such key"]),
    ],
)
def test_the_mistakes_of_later_rows_are_told_with_those_of_the_first(arguments: str, said: list[str]) -> None:
    with pytest.raises(Mistake) as caught:
        composed_table(arguments.split())
    lines = str(caught.value).splitlines()
    assert all(any(line.startswith(each) for line in lines) for each in said), lines
    assert len(lines) == len(said), lines
