"""The same timed workload on TRL's DPOTrainer, the trainer that users would otherwise choose, or on its FocalPO."""

import runpy
import tempfile
from functools import partial

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer

from focalpo.config.bench import PeerSettings
from focalpo.speed.flops import matmul_rate
from focalpo.speed.measured import Measured, Stopwatch, forget_peak, peak_bytes
from focalpo.speed.ours import BETA, Reference
from focalpo.speed.workload import Workload, policy_model, reference_model, trees_of
from focalpo.stages.memory import keep_freed
from focalpo.stages.origin import ROOT
from focalpo.training.ranks import device

# Recipes are above this room; this one is a file by itself, which users of TRL copy.
FocalPOTrainer = runpy.run_path(str(ROOT / "recipes" / "trl_focalpo.py"))["FocalPOTrainer"]


class _OnTokenIds:
    """For a trainer on rows that already are token ids and, if configured, hold their reference log-probs."""

    def _prepare_dataset(self, dataset, *_):
        return dataset

    def _precompute_ref_logps(self, dataset, *_):
        return dataset


class _DPO(_OnTokenIds, DPOTrainer):
    pass


class _FocalPO(_OnTokenIds, FocalPOTrainer):  # type: ignore[valid-type, misc]  # loaded at run time
    pass


class _Timer(TrainerCallback):
    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch

    def on_train_begin(self, *_, **__) -> None:
        self.watch.resume_at(0)

    def on_log(self, args, state, control, logs: dict, **_) -> None:
        if "loss" in logs:  # the last log is a summary
            self.watch.log(state.global_step, loss=float(logs["loss"]))


def measure(workload: Workload, cached: Reference, settings: PeerSettings) -> Measured:
    """Train on the workload with TRL's trainer and time the steps; fp32 weights, autocast when dtype is bfloat16."""
    if settings.keeps_memory:
        keep_freed()
    forget_peak()
    rate = matmul_rate(workload.train.dtype, device())
    model = policy_model(workload, "float32")
    frozen = None if settings.cached_reference else reference_model(workload, workload.train.dtype)
    make = partial(_FocalPO, gamma=workload.gamma) if workload.gamma else _DPO
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        trainer = make(
            model=model,
            ref_model=frozen,
            args=_config(workload, settings, folder),
            train_dataset=Dataset.from_dict(_columns(workload, cached, settings.cached_reference)),
            processing_class=_tokenizer(),
            callbacks=[_Timer(watch)],
        )
        trainer.train()
    return Measured(watch.seconds[1:], peak_bytes(), watch.losses[0], rate)


def _config(workload: Workload, settings: PeerSettings, folder: str) -> DPOConfig:
    train = workload.train
    return DPOConfig(
        output_dir=folder,
        beta=BETA,
        learning_rate=train.learning_rate,
        per_device_train_batch_size=settings.micro_batch,
        gradient_accumulation_steps=train.global_batch // settings.micro_batch,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        precompute_ref_log_probs=settings.cached_reference,
        gradient_checkpointing=settings.activation_checkpointing,
        use_liger_kernel=settings.liger,
        max_length=None,
        bf16=train.dtype == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )


def _columns(workload: Workload, cached: Reference, with_reference: bool) -> dict[str, list]:
    trees = trees_of(workload)
    columns: dict[str, list] = {"prompt_ids": [tree.prompt.tolist() for tree in trees]}
    for branch in ("chosen", "rejected"):
        columns[f"{branch}_ids"] = [tree.branches[branch].tolist() for tree in trees]
        if with_reference:
            columns[f"ref_{branch}_logps"] = cached[branch]
    return columns


def _tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with nothing but the special tokens, which TRL needs for padding."""
    words = models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2}, unk_token="<pad>")
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(words), pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
