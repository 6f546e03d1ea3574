"""The losses: from the sequence log-probs of a batch of pairs, one loss and two implicit rewards per pair.

Everything is pure: no model, no config, no process group. A new loss is one class under `@objective` in the file of its
kind or in one of its own; the command line, the validation, the tests and the tables find it in `OBJECTIVES`. In the
equations:

    lp   log-prob of a response y under the policy, summed over its |y| tokens, in nats; w chosen, l rejected
    r    the objective's implicit reward, for DPO and its variants beta (lp - lp_ref)
    D    the margin (lp_w - lp_ref_w) - (lp_l - lp_ref_l), so that beta D = r_w - r_l;  sig  the sigmoid
"""

# ruff: noqa: F401  # a loss is imported from here, whatever file it is in

from importlib import import_module
from pkgutil import iter_modules

from focalpo.training.objective.base import (
    OBJECTIVES,
    BatchLevel,
    BatchLogps,
    Logps,
    Loss,
    Objective,
    TokenLevel,
    TokenLogps,
    objective,
    reference_beside,
    scored,
)
from focalpo.training.objective.batches import AMaPO, BetaDPO
from focalpo.training.objective.imitation import CPO, ORPO, RPO, RRHF, SFT, SLiC
from focalpo.training.objective.margins import CDPO, DPO, EXO, IPO, RDPO, Focal, FocalPO, RobustDPO
from focalpo.training.objective.per_token import OmniDPO, SimPO
from focalpo.training.objective.rewards import DPOP, KTO, NCA, APODown, APOZero
from focalpo.training.objective.tokens import LDDPO, WPO

for _module in iter_modules(__path__, f"{__name__}."):  # those in files that are not named above
    import_module(_module.name)
