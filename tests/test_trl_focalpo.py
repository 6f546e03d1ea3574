"""FocalPO in TRL's trainer is ours: the same loss, the same gradient, and the same weights after training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig

from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import FocalPO, Logps
from focalpo.training.scoring import score
from focalpo.training.steps import global_batch_at
from recipes.trl_focalpo import FocalPOTrainer
from tests.test_logprobs import padded_logps
from tests.tiny import SETTINGS, random_trees, tiny_model

BETA, BRANCHES = 0.5, ("chosen", "rejected")
TREES = random_trees(8, seed=11)
ORDER = [item for step in range(2) for item in global_batch_at(step, len(TREES), SETTINGS.global_batch, seed=5)]
WORDS = Tokenizer(models.WordLevel({"<pad>": 0, "<bos>": 1, "<eos>": 2}, unk_token="<pad>"))  # what TRL pads with


class OnTokenIds(FocalPOTrainer):
    def _prepare_dataset(self, dataset, *_):
        return dataset


def trainer_of(folder: Path, *, frozen_seed: int, options: dict, **settings: object) -> FocalPOTrainer:
    rows = [TREES[item] for item in ORDER]
    columns = {"prompt_ids": [tree.prompt for tree in rows]}
    columns |= {f"{branch}_ids": [tree.branches[branch] for tree in rows] for branch in BRANCHES}
    config = DPOConfig(
        output_dir=str(folder),
        beta=BETA,
        per_device_train_batch_size=SETTINGS.global_batch,
        learning_rate=SETTINGS.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0,
        num_train_epochs=1,
        adam_beta2=SETTINGS.adam_beta2,
        max_grad_norm=SETTINGS.max_grad_norm,
        train_sampling_strategy="sequential",
        max_length=None,
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_strategy="no",
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        **settings,
    )
    return OnTokenIds(
        model=tiny_model(),
        ref_model=tiny_model(seed=frozen_seed),
        args=config,
        train_dataset=Dataset.from_dict(columns),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=WORDS, pad_token="<pad>", eos_token="<eos>"),
        **options,
    )


@pytest.mark.parametrize("options", [{"gamma": 0.05}, {"gamma": 0.5}, {"gamma": 0.5, "detach_factor": True}])
def test_loss_and_gradient_are_ours(tmp_path: Path, options: dict) -> None:
    trainer = trainer_of(tmp_path, frozen_seed=1, options=options)
    batch = trainer.data_collator([trainer.train_dataset[row] for row in range(4)])
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    model, trees = tiny_model(), [TREES[item] for item in ORDER[:4]]
    policy = dict(zip(BRANCHES, padded_logps(model, trees).T, strict=True))
    frozen = dict(zip(BRANCHES, padded_logps(tiny_model(seed=1), trees).detach().T, strict=True))
    expected = FocalPO(beta=BETA, **options)(Logps(policy, frozen, {}, {})).loss.mean()
    expected.backward()
    assert expected > 0.1
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(model.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad, atol=2e-5 * float(ours.grad.abs().max()), rtol=0)


def trained_by_us(folder: Path, gamma: float) -> dict[str, torch.Tensor]:
    start_ranks()
    settings = replace(SETTINGS, weight_decay=0.0, warmup_ratio=0.0)
    reference = score(PackedPolicy(tiny_model()), TREES, BRANCHES, 1 << 20)
    engine = open_engine(PackedPolicy(tiny_model()), settings)
    train(engine, FocalPO(beta=BETA, gamma=gamma), Examples(TREES, reference, []), settings, seed=5, checkpoints=folder)
    return {name: value.detach().clone() for name, value in engine.module.model.state_dict().items()}


def furthest(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a tensor. By norm: Adam blows up rounding where a gradient is almost 0."""
    assert found.keys() == expected.keys()
    return max(float((found[name] - value).norm() / value.norm()) for name, value in expected.items())


def test_training_ends_at_our_weights(tmp_path: Path) -> None:
    trainer = trainer_of(tmp_path / "trl", frozen_seed=0, options={"gamma": 0.5})
    trainer.train()
    ours, dpo = (trained_by_us(tmp_path / f"{gamma}", gamma) for gamma in (0.5, 0.0))
    assert furthest(trainer.model.state_dict(), ours) < 2e-5
    assert furthest(trainer.model.state_dict(), dpo) > 1e-3


def test_a_variant_of_dpos_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"DPOConfig\(loss_type=...\) changes a loss .* leave it at \['sigmoid'\]"):
        trainer_of(tmp_path, frozen_seed=0, options={}, loss_type="hinge")
