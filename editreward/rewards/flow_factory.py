"""Flow-Factory: reward models for its YAML, by a server or in the training process.

    rewards:
      - name: editreward
        reward_model: editreward.rewards.flow_factory.EditReward
        server_url: http://127.0.0.1:8000

`EditReward` rates edit by edit; `GroupEditReward` is called with all edits of a group, which shaping by win rates
needs. Both ask for `condition_images`: the model that Flow-Factory ships for servers does not, and sends no source.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from editreward.rewards.sources import Rewards, load_reward, rewards_of

if TYPE_CHECKING:

    class _Pointwise:
        device: torch.device

        def __init__(self, config: object, accelerator: object) -> None: ...

    class _Groupwise(_Pointwise): ...

    @dataclass
    class RewardModelOutput:
        rewards: torch.Tensor
        extra_info: dict[str, object] | None = None
else:
    try:
        from flow_factory.rewards.abc import GroupwiseRewardModel as _Groupwise
        from flow_factory.rewards.abc import PointwiseRewardModel as _Pointwise
        from flow_factory.rewards.abc import RewardModelOutput
    except ImportError:  # to try it without the framework

        class _Pointwise:
            def __init__(self, config, accelerator):
                self.config, self.accelerator = config, accelerator
                self.device = accelerator.device

        class _Groupwise(_Pointwise):
            pass

        @dataclass
        class RewardModelOutput:
            rewards: torch.Tensor
            extra_info: dict | None = None


class _FromConfig:
    """What both models do; `server_url`, `token_file`, `timeout`, `scorer` and `shaping` come from the YAML."""

    required_fields: tuple[str, ...] = ("prompt", "image", "condition_images")
    use_tensor_inputs = False
    device: torch.device
    _rewards: Rewards

    def __init__(self, config: object, accelerator: object) -> None:
        super().__init__(config, accelerator)  # type: ignore[call-arg]
        given = {**(getattr(config, "extra_kwargs", None) or {})}
        names = ("server_url", "token_file", "timeout", "scorer", "shaping")
        options = {name: given.get(name, getattr(config, name, None)) for name in names}
        if options["server_url"]:
            if options["scorer"] or options["shaping"]:
                raise ValueError("`scorer` and `shaping` are the server's, where there is a `server_url`.")
            self._rewards = rewards_of(options["server_url"], options["token_file"], options["timeout"] or 600.0)
        else:
            self._rewards = load_reward(options["scorer"], options["shaping"])

    def __call__(
        self,
        prompt: Sequence[str],
        image: Sequence[object] | None = None,
        video: object = None,
        audio: object = None,
        condition_images: Sequence[Sequence[object]] | None = None,
        condition_videos: object = None,
        **kwargs: object,
    ) -> RewardModelOutput:
        """Rewards of shape `(edits,)`, float32.

        Raises:
            ValueError: there are no images, or no sources.
            NoReward, RewardError: an edit failed; a list of rewards has no place for that.
        """
        if image is None or condition_images is None:
            raise ValueError("EditReward needs `image` and `condition_images`, the source of each edit.")
        found = self._rewards.rewards(
            sources=[list(images) for images in condition_images], edited=list(image), instructions=list(prompt)
        )
        return RewardModelOutput(rewards=torch.tensor(found, dtype=torch.float32, device=self.device))


class EditReward(_FromConfig, _Pointwise):
    """Rates each edit by itself."""


class GroupEditReward(_FromConfig, _Groupwise):
    """Rates all edits of a group together."""
