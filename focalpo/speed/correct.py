"""Whether training computes on this machine what it should, in bf16 on tiny models, in a minute or two.

packed = padded     log-probs and gradients beside a padded Hugging Face forward; what both are compared with is the
                    same weights in fp32. Neither is exact in bf16: the packed one must be no worse than the padded
step 0              the first loss is that of a policy that is its reference
20 steps            the loss falls
export              Hugging Face loads what training ends with, and gives the trained policy's log-probs
head                its log-probs beside those in fp64 of the same bf16 states and weights
no wait             within a micro-batch, the host never waits for the GPU
"""

import copy
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from focalpo.config.bench import Lengths
from focalpo.data.trees import Tree
from focalpo.processes.quiet import quiet
from focalpo.speed.measured import Stopwatch
from focalpo.speed.switches import Switches, attention_of, batcher_of, policy_of
from focalpo.speed.workload import draw, random_trees
from focalpo.stages.cores import cores
from focalpo.training import checkpoint
from focalpo.training.engine import Examples, open_engine, start_ranks, train
from focalpo.training.logprobs import PackedPolicy
from focalpo.training.objective import FocalPO
from focalpo.training.packing import pack
from focalpo.training.ranks import device
from focalpo.training.scoring import score
from focalpo.training.scratch import bpe_tokenizer
from focalpo.training.settings import TrainSettings

BRANCHES = ("chosen", "rejected")
VOCABULARY = 512
TINY: dict[str, object] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "initializer_range": 0.08,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": 40},
    "qwen2": {},
    "gemma2": {"sliding_window": 40, "attn_logit_softcapping": 20.0, "query_pre_attn_scalar": 32},
}
LENGTHS = Lengths(prompt=32, response=48, prompt_sigma=0.8, response_sigma=0.8, longest=200)
PAIRS, STEPS = 8, 20
WORSE = 2.0
"""How much further from fp32 than the padded forward the packed one may be: both err at random."""
FOCALPO = FocalPO(beta=0.1)
FIRST_LOSS = 0.5**FOCALPO.gamma * 0.693147
"""FocalPO's loss at p = 1/2."""
SETTINGS = TrainSettings(
    learning_rate=1e-4,
    global_batch=PAIRS,
    epochs=STEPS,
    max_steps=None,
    warmup_ratio=0.0,
    weight_decay=0.0,
    adam_beta2=0.999,
    max_grad_norm=1.0,
    dtype="bfloat16",
    zero_stage=1,
    activation_checkpointing=False,
    micro_batch_tokens=512,
    checkpoint_every=0,
)


@dataclass(frozen=True, slots=True)
class Check:
    """A finding: whether it is as it should be, and the figures that say so."""

    name: str
    ok: bool
    figures: str


def checks() -> dict[str, Callable[[], list[Check]]]:
    """Every check of the engine as it trains here, by name."""
    packed = {f"packed = padded, {family}": partial(packed_is_padded, family, Switches()) for family in FAMILIES}
    return {**packed, "head": head, "no wait": no_wait, "training": training}


def all_checks() -> Iterator[Check]:
    """What every check finds, one after another; where one cannot run, the reason is its finding."""
    quiet(cores())
    for name, check in checks().items():
        try:
            yield from check()
        except ModuleNotFoundError as error:
            yield Check(name, False, f"{error.name} is not installed: run make setup")
        except (RuntimeError, ValueError) as error:
            yield Check(name, False, str(error).strip().splitlines()[0])


def packed_is_padded(family: str, switches: Switches) -> list[Check]:
    """Log-probs and gradients of a packed bf16 policy are as near to fp32's as those of a padded forward in bf16."""
    trees, model = _trees(), _model(family)
    exact, exact_gradients = _logps_and_gradients(copy.deepcopy(model).float(), _padded, trees)
    padded, padded_gradients = _logps_and_gradients(copy.deepcopy(model), _padded, trees)
    with attention_of(switches):
        packed, packed_gradients = _logps_and_gradients(model, lambda m, t: _packed(m, t, switches), trees)
    off, theirs = (_rms(found - exact) for found in (packed, padded))
    gradient, of_theirs = (_distance(found, exact_gradients) for found in (packed_gradients, padded_gradients))
    name = f"packed = padded, {family}" + (f", {switches.attention} attention" if switches.attention else "")
    figures = f"log-probs {off:.2g} nats from fp32's (padded {theirs:.2g}), gradients {gradient:.2%} ({of_theirs:.2%})"
    return [Check(name, off <= WORSE * theirs and gradient <= WORSE * of_theirs, figures)]


def head() -> list[Check]:
    """A GPU sums the head's products in fp32; on a CPU each is rounded to bf16, which a difference holds twice."""
    policy = PackedPolicy(_model("llama"))
    made = torch.Generator().manual_seed(0)
    rows = torch.randn(256, int(str(TINY["hidden_size"])), generator=made).to(device(), torch.bfloat16)
    labels = torch.randint(0, VOCABULARY, (len(rows),), generator=made).to(device())
    module = policy.model.get_output_embeddings()
    with torch.no_grad():
        logits = rows.double() @ module.weight.double().T
        exact = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
        off = float((module(rows, labels, "sums")[0] - exact).abs().max())
    most = 1e-4 if device().type == "cuda" else torch.finfo(torch.bfloat16).eps * float(logits.abs().max())
    return [Check("head", off <= most, f"log-probs {off:.2g} nats from fp64's at most (allowed {most:.2g})")]


def no_wait() -> list[Check]:
    """Forward and backward of a micro-batch; on a GPU, torch raises an error at any wait for it."""
    policy, micro = PackedPolicy(_model("llama")), pack(_trees(), BRANCHES)
    policy(micro.to(device())).sum().backward()  # what is made once, such as handles of libraries, may wait
    if device().type != "cuda":
        return [Check("no wait", True, "not checked: this is no GPU")]
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy(micro.to(device())).sum().backward()
    except RuntimeError as error:
        return [Check("no wait", False, str(error).splitlines()[0])]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [Check("no wait", True, "none in a forward and backward pass")]


def training() -> list[Check]:
    """Train FocalPO for 20 steps on the same pairs, export, and load the export."""
    start_ranks()
    trees, start = _trees(), _model("llama")
    reference = score(PackedPolicy(copy.deepcopy(start)).eval(), trees, BRANCHES, SETTINGS.micro_batch_tokens)
    engine, watch = open_engine(PackedPolicy(start), SETTINGS), Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        train(engine, FOCALPO, Examples(trees, reference, []), SETTINGS, 0, Path(folder) / "saved", watch)
        losses, exported = watch.losses, Path(folder) / "model"
        tokenizer = bpe_tokenizer(["a b c"])
        checkpoint.export(engine, tokenizer, GenerationConfig(), exported, "")
        loaded = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.bfloat16, use_safetensors=True)
        loaded = loaded.to(device()).eval()
    with torch.no_grad():
        trained = engine.module(pack(trees, BRANCHES).to(device()))
        theirs, exact = _padded(loaded, trees), _padded(copy.deepcopy(loaded).float(), trees)
    off, of_theirs = (_rms(found - exact) for found in (trained, theirs))
    quarters = [sum(losses[first : first + STEPS // 4]) / (STEPS // 4) for first in range(0, STEPS, STEPS // 4)]
    fall = " > ".join(f"{quarter:.4f}" for quarter in quarters)
    return [
        Check("step 0", abs(losses[0] - FIRST_LOSS) < 5e-3, f"loss {losses[0]:.5f}, of its reference {FIRST_LOSS:.5f}"),
        Check("20 steps", quarters == sorted(set(quarters), reverse=True), f"mean losses of 5 each {fall}"),
        Check(
            "export",
            off <= WORSE * of_theirs,
            f"log-probs {off:.2g} nats from the export's in fp32 (padded {of_theirs:.2g})",
        ),
    ]


def _trees() -> list[Tree]:
    return random_trees(draw(LENGTHS, PAIRS, scale=1.0, seed=0), VOCABULARY, seed=0)


def _model(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **TINY | FAMILIES[family])
    # Eager attention: the padded forward is to owe nothing to the kernels that are checked.
    made = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="eager")
    return made.to(device())


def _logps_and_gradients(
    model: PreTrainedModel, logps_of: Callable[[PreTrainedModel, Sequence[Tree]], Tensor], trees: Sequence[Tree]
) -> tuple[Tensor, list[Tensor]]:
    logps = logps_of(model, trees)
    weights = torch.linspace(-1, 2, logps.numel(), device=logps.device).view_as(logps)
    gradients = torch.autograd.grad((logps * weights).sum(), list(model.parameters()))
    return logps.detach(), [gradient.float() for gradient in gradients]


def _packed(model: PreTrainedModel, trees: Sequence[Tree], switches: Switches) -> Tensor:
    policy, rows = policy_of(model, None, switches), {}
    for share, micro, _ in batcher_of(switches, SETTINGS.micro_batch_tokens).micro_batches(trees, BRANCHES, 1, 0):
        rows |= dict(zip(share, policy(micro.to(device())), strict=True))
    return torch.stack([rows[place] for place in range(len(trees))])


def _padded(model: PreTrainedModel, trees: Sequence[Tree]) -> Tensor:
    """The textbook way: one padded row per prompt and response, all logits, a mask, a sum: [trees, branches], fp32."""
    sequences = [(torch.from_numpy(t.prompt), torch.from_numpy(t.branches[b])) for t in trees for b in BRANCHES]
    rows = pad_sequence([torch.cat(each) for each in sequences], batch_first=True).long().to(device())
    real = pad_sequence([torch.ones(len(p) + len(r)) for p, r in sequences], batch_first=True).to(device())
    responses = [torch.cat([torch.zeros(len(p)), torch.ones(len(r))]) for p, r in sequences]
    counted = pad_sequence(responses, batch_first=True).to(device())[:, 1:]
    logps = model(input_ids=rows, attention_mask=real).logits[:, :-1].float().log_softmax(-1)
    picked = logps.gather(-1, rows[:, 1:, None])[..., 0]
    return (picked * counted).sum(-1).view(len(trees), len(BRANCHES))


def _rms(differences: Tensor) -> float:
    return float(differences.square().mean().sqrt())


def _distance(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The norm of the difference over the norm."""
    apart = sum(float((a - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (apart / sum(float(each.square().sum()) for each in exact)) ** 0.5
