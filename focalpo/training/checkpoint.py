"""Saving and resuming a run, and exporting its weights as an ordinary Hugging Face folder.

.checkpoints/step-000040/   DeepSpeed's files, one per rank   complete (written last, after every rank is done)
"""

import json
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from focalpo.data.tokens import template_hash
from focalpo.training.ranks import barrier, rank

COMPLETE = "complete"


def save(engine, folder: Path, step: int, run: str) -> None:
    """Save weights, optimizer and random state after `step` steps of `run` (anything that tells runs apart); older
    checkpoints go once this one is complete."""
    name = f"step-{step:06d}"
    engine.save_checkpoint(str(folder), tag=name, client_state={"step": step}, save_latest=False)
    barrier()
    if rank() == 0:
        (folder / name / COMPLETE).write_text(run)
        for other in folder.glob("step-*"):
            if other.name != name:
                shutil.rmtree(other)
    barrier()


def resume(engine, folder: Path, run: str) -> int:
    """Load the newest complete checkpoint and return its step, or 0 where there is none.

    Raises:
        ValueError: when the checkpoint is of another run.
    """
    complete = sorted(path.parent for path in folder.glob(f"step-*/{COMPLETE}"))
    if not complete:
        return 0
    newest = complete[-1]
    if (newest / COMPLETE).read_text() != run:
        raise ValueError(f"{newest} was saved by a run with other settings; delete {folder} and run again")
    _, state = engine.load_checkpoint(str(folder), tag=newest.name)
    return int(state["step"])


def export(engine, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig, folder: Path, card: str) -> None:
    """Write weights (safetensors), tokenizer, model card and the chat template's hash: a folder that
    `AutoModelForCausalLM.from_pretrained` loads. Every rank must call it; rank 0 writes."""
    policy = engine.module
    prefix = "model."
    if engine.zero_optimization_stage() == 3:
        state = engine._zero3_consolidated_16bit_state_dict()
        state = {name.removeprefix(prefix): value for name, value in (state or {}).items()}
    else:
        state = policy.model.state_dict()
    if rank() == 0:
        policy.model.generation_config = generation
        policy.model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card)
        (folder / "focalpo.json").write_text(json.dumps({"chat_template_sha256": template_hash(tokenizer)}) + "\n")
    barrier()


def model_card(title: str, settings: dict, start: str) -> str:
    """A model card that says how the weights were made."""
    described = json.dumps(settings, indent=1, sort_keys=True)
    return f"""---
library_name: transformers
tags: [preference-optimization, {settings.get("objective", {}).get("name", "sft")}]
---
# {title}

Started from `{start}` and trained by the FocalPO reproduction with:

```json
{described}
```

Torch {torch.__version__}. How it was measured, and what it may be used for, is in the run's manifest and report.
"""
