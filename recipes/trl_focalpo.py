"""FocalPO for those who train with TRL (1.16): FocalPOTrainer in the place of DPOTrainer; it needs no other file.

FocalPOTrainer(model, args=DPOConfig(beta=0.01), train_dataset=pairs, processing_class=tokenizer, gamma=0.05).train()
"""

import torch
from trl import DPOTrainer

UNTOUCHED: dict = {"loss_type": ["sigmoid"], "loss_weights": None, "f_divergence_type": "reverse_kl"}
UNTOUCHED |= {"ld_alpha": None, "use_weighting": False}


class FocalPOTrainer(DPOTrainer):
    """DPOTrainer with the loss -p^gamma log p, p = sig(beta D): `FocalPO` in focalpo/training/objective/margins.py."""

    def __init__(self, *args, gamma: float = 0.05, detach_factor: bool = False, **settings) -> None:
        super().__init__(*args, **settings)
        self.gamma, self.detach_factor = gamma, detach_factor
        for name, value in UNTOUCHED.items():
            if getattr(self.args, name) != value:
                raise ValueError(f"DPOConfig({name}=...) changes a loss that is not computed; leave it at {value}")
        if self.aux_loss_enabled:
            raise ValueError("the loss of a router is not added here; set DPOConfig(router_aux_loss_coef=0.0)")

    def _compute_loss(self, model, inputs, return_outputs):
        row = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        chosen, rejected = model(**row, labels=labels, fused_lm_head=True).log_probs.sum(-1).chunk(2)
        if self.precompute_ref_logps:
            frozen = inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]
        else:
            frozen = self.compute_ref_log_probs(self.ref_model or self.model, inputs)
        rewards = self.beta * (chosen - frozen[0]), self.beta * (rejected - frozen[1])
        logp = torch.nn.functional.logsigmoid(rewards[0] - rewards[1])
        loss = -(torch.exp(self.gamma * (logp.detach() if self.detach_factor else logp)) * logp).mean()
        margins = self.accelerator.gather((rewards[0] - rewards[1]).detach())
        logged = self._metrics["train" if self.model.training else "eval"]
        logged["rewards/margins"].append(margins.mean().item())
        logged["rewards/accuracies"].append((margins > 0).float().mean().item())
        return (loss, model(**row)) if return_outputs else loss
