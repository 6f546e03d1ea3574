"""Settings of tracking, apart from what tracks: every command reads a configuration, few record anything."""

from dataclasses import dataclass
from typing import Annotated

Mode = Annotated[str, "off, offline or online", lambda x: x in ("off", "offline", "online")]


@dataclass(slots=True)
class TrackSettings:
    """W&B mode and project; `online` without WANDB_API_KEY falls back to `offline` instead of prompting for a key."""

    wandb: Mode = "off"
    project: str = "focalpo"
