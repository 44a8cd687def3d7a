"""`pipeline("edit-reward", model=..., trust_remote_code=True)`: dictionaries of images and text in, scores out."""

import os
from typing import Any

import torch
from transformers import Pipeline

FIELDS = ("source", "edited", "instruction")


class EditRewardPipeline(Pipeline):
    """Scores edit groups, several of them in one pass where `batch_size` says so."""

    _load_processor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_feature_extractor = False
    _load_video_processor = False

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.processor.check_config(self.model.config)
        self.tokenizer = self.processor.tokenizer  # transformers asks for one before it makes batches

    def __call__(
        self,
        inputs: object = None,
        *,
        source: object = None,
        edited: object = None,
        instruction: object = None,
        **kwargs: object,
    ) -> Any:
        """Score one group or several.

        Args:
            source, edited, instruction: One group, in place of `inputs`.
            inputs: A group, `{"source": image, "edited": image or list of images, "instruction": text}`, or a list,
                generator or dataset of them. `source` may be a list for an edit of several images. Images are paths,
                URLs, bytes, `PIL.Image`, arrays or tensors.
            kwargs: `batch_size`, the number of groups in a pass (by default 1), and `num_workers`.

        Returns:
            For each group `{"best": position of the highest reward, "candidates": [...]}`, with an entry per edit in
            the order given: `rank` (1 is the best), `reward`, `reward_std`, `overall`, the reward on the 1..4 scale
            where the model knows it, and `dimensions`. Each has `mean` and `std`, on the 1..4 scale where `calibrated`
            is true; `std` tells errors where `std_calibrated` is. All are plain numbers. `probability_best`,
            `reasons` and `error`, which other scorers fill in, are empty.

        Raises:
            ValueError: If a group lacks a field or has another, or cannot be scored.
        """
        given = {"source": source, "edited": edited, "instruction": instruction}
        if any(value is not None for value in given.values()):
            if inputs is not None:
                raise ValueError("Pass a group as a dictionary, or its source, edited and instruction; not both.")
            inputs = {name: value for name, value in given.items() if value is not None}
        if isinstance(inputs, (list, tuple)):
            return super().__call__(list(inputs), **kwargs) if inputs else []
        return super().__call__(inputs, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: object) -> None:
        """Save the model with its processor, which transformers would leave out."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def _sanitize_parameters(self, **kwargs: object) -> tuple[dict[str, object], dict[str, object], dict[str, object]]:
        if kwargs:
            raise TypeError(f"The edit-reward pipeline has no argument {', '.join(map(repr, sorted(kwargs)))}.")
        return {}, {}, {}

    def preprocess(self, inputs: object) -> dict[str, object]:
        if not isinstance(inputs, dict) or set(inputs) != set(FIELDS):
            found = ", ".join(map(str, inputs)) if isinstance(inputs, dict) else type(inputs).__name__
            raise ValueError(f"A group is a dictionary with {', '.join(FIELDS)}; got {found or 'an empty one'}.")
        return {"group": self.processor.pack(**inputs)}

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, object]:
        group = model_inputs["group"]
        is_batch = isinstance(group, list)  # several groups were collated; the results are taken apart again
        groups = group if is_batch else [group]
        output = self.model(**self.processor.collate(groups).to(self.device))
        fields = zip(*(output[name].tolist() for name in ("mean", "log_std", "reward", "reward_std")), strict=True)
        scores: list[list[object]] = [[] for _ in groups]
        for index, score in zip(output.group_index.tolist(), fields, strict=True):
            scores[index].append(score)
        return {"scores": scores if is_batch else scores[0]}

    def postprocess(self, model_outputs: dict[str, Any]) -> dict[str, object]:
        config = self.model.config
        rewards = [reward for _, _, reward, _ in model_outputs["scores"]]
        candidates = [
            {
                "rank": 1 + sum(other > reward for other in rewards),
                "reward": reward,
                "reward_std": reward_std,
                "probability_best": None,  # by the package's scorers
                "overall": config.overall_score(reward, reward_std),
                "dimensions": config.scores(means, torch.tensor(log_stds).exp().tolist()),
                "reasons": [],
                "error": None,
            }
            for means, log_stds, reward, reward_std in model_outputs["scores"]
        ]
        return {"best": rewards.index(max(rewards)), "candidates": candidates}


__all__ = ["EditRewardPipeline"]
