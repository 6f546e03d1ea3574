"""Where stages run: every wrong value of conf/cluster is one line with its remedy."""

from dataclasses import replace

import pytest
import yaml

from focalpo.config.cluster import KINDS, ClusterConfig, SizeConfig, cluster_problems
from focalpo.config.compose import CONF, compose
from focalpo.running.submit import placed
from focalpo.stages.code import recipe_of
from focalpo.stages.origin import ROOT

SIZE = SizeConfig(nodes=1, gpus=0, cpus=1, memory="4G", minutes=30)
LOCAL = ClusterConfig("local", None, None, None, None, [], None, [], 0, {})
SLURM = replace(LOCAL, scheduler="slurm", stages={"train": SIZE})


def test_every_kind_of_stage_has_a_recipe_and_a_size_on_every_cluster() -> None:
    for name in ("slurm", "slurm_cpu"):
        assert sorted(yaml.safe_load((CONF / f"cluster/{name}.yaml").read_text())["stages"]) == sorted(KINDS)
    assert all((ROOT / f"{recipe_of(kind)[0].replace('.', '/')}.py").is_file() for kind in KINDS)


def test_what_is_valid_has_no_problem() -> None:
    assert not list(cluster_problems(LOCAL)) and not list(cluster_problems(SLURM))
    flags = ["--exclusive", "--reservation=a b", "--export=NONE", "--gres=gpu:a100:4", "--mail-type=END", "--hint=x"]
    assert not list(cluster_problems(replace(SLURM, sbatch=flags)))
    for memory in ("0", "500", "64G", "1.5T", "200m"):
        assert not list(cluster_problems(replace(SLURM, stages={"train": replace(SIZE, memory=memory)})))


@pytest.mark.parametrize("name", ["pbs", "", "Slurm", "slurm "])
def test_an_unknown_scheduler_is_refused(name: str) -> None:
    (problem,) = cluster_problems(replace(SLURM, scheduler=name))
    assert problem.startswith(f"cluster.scheduler={name!r} is not one of local, slurm")


def test_settings_of_a_cluster_are_refused_where_stages_run_here() -> None:
    (problem,) = cluster_problems(replace(LOCAL, partition="gpu", sbatch=["--exclusive"]))
    assert problem.startswith("cluster.partition, cluster.sbatch have no effect on this machine; choose a cluster")
    (problem,) = cluster_problems(replace(LOCAL, at_once=3))
    assert problem.startswith("cluster.at_once has no effect")


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--partition=gpu", "set by cluster.partition"),
        ("--part=gpu", "set by cluster.partition"),
        ("--time=9", "set by cluster.stages.KIND.minutes"),
        ("--mem=9G", "set by cluster.stages.KIND.memory"),
        ("--array=0-3", "set by the project itself"),
        ("--arr=0-3", "set by the project itself"),
        ("--mem-per-cpu=1G", "set by the project itself"),
        ("--no-requeue", "set by the project itself"),
        ("--wrap=rm", "set by the project itself"),
        ("--ntasks=4", "set by the project itself"),
        ("-p gpu", "is no flag of sbatch"),
        ("-N2", "is no flag of sbatch"),
        ("exclusive", "is no flag of sbatch"),
        ("--exclusive --hold", "is no flag of sbatch"),
        ("", "is no flag of sbatch"),
        ("--", "is no flag of sbatch"),
    ],
)
def test_a_flag_that_is_set_elsewhere_or_is_none_is_refused(flag: str, said: str) -> None:
    whole = list(cluster_problems(replace(SLURM, sbatch=[flag])))
    kind = list(cluster_problems(replace(SLURM, stages={"train": replace(SIZE, sbatch=[flag])})))
    assert len(whole) == len(kind) == 1
    assert whole[0].startswith("cluster.sbatch: ") and kind[0].startswith("cluster.stages.train.sbatch: ")
    assert said in whole[0] and "; " in whole[0]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("nodes", 0, "must be >= 1"),
        ("gpus", -1, "must be >= 0"),
        ("cpus", 0, "must be >= 1"),
        ("minutes", 0, "must be >= 1"),
        ("memory", "lots", "write it as in 64G"),
        ("memory", "", "write it as in 64G"),
        ("memory", "64 G", "write it as in 64G"),
        ("memory", "-1G", "write it as in 64G"),
        ("qos", " ", "set it to null"),
        ("partition", "", "set it to null"),
    ],
)
def test_a_size_out_of_range_names_its_key(field: str, value: object, said: str) -> None:
    (problem,) = cluster_problems(replace(SLURM, stages={"train": replace(SIZE, **{field: value})}))
    assert problem.startswith(f"cluster.stages.train.{field}") and said in problem


def test_a_size_of_no_stage_is_refused() -> None:
    (problem,) = cluster_problems(replace(SLURM, stages={"trian": SIZE}))
    assert problem.startswith("cluster.stages.trian: no stage is called trian; name one of convert, sft")


def test_the_command_line_sets_them_per_kind_and_reports_all_mistakes_at_once() -> None:
    more = ["cluster.qos=normal", "cluster.stages.train.qos=long", "cluster.sbatch=[--exclusive]"]
    config = compose(["cluster=slurm_cpu", *more, "cluster.stages.judge.sbatch=['--licenses=net:1']"])
    sizes = {kind: placed(size, config.cluster) for kind, size in config.cluster.stages.items()}
    assert (sizes["train"].qos, sizes["judge"].qos, sizes["judge"].partition) == ("long", "normal", None)
    assert sizes["train"].sbatch == ["--exclusive"] and sizes["judge"].sbatch == ["--exclusive", "--licenses=net:1"]
    with pytest.raises(ValueError) as error:
        compose(["cluster=slurm_cpu", "cluster.at_once=-1", "cluster.stages.judge.minutes=0"])
    assert len(str(error.value).splitlines()) == 2
