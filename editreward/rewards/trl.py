"""TRL: a reward function for its GRPO trainer, for policies whose text becomes an edit.

The policy writes an edit (say, calls of an image library, or a picture as SVG) or a prompt for an editor; `make_edit`
turns that into the edited image.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

from editreward.rewards.reward import Reward

MakeEdit = Callable[[Any, str, str], object]
"""From source image, instruction and the policy's text to the edited image; None where the text makes none."""


def reward(
    rewards: Reward, make_edit: MakeEdit, *, alone: bool, source: str = "source", instruction: str = "instruction"
) -> Callable[..., list[float | None]]:
    """The reward function, for `reward_funcs`.

    Args:
        rewards: of which scorer and shape.
        make_edit: turns the policy's text into an image. What it raises, and None, leaves the completion unscored.
        alone: whether this is the trainer's only reward function. TRL leaves out a completion that has no reward only
            if no other function rates it: else it counts the others' sum as its reward. So alone it gives None, and
            beside others it raises; combine several rewards in one `Reward` instead.
        source, instruction: columns of the dataset.

    Returns:
        `fn(prompts, completions, **columns)`.
    """

    def editreward(prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[Any]) -> list[float | None]:
        if missing := [name for name in (source, instruction) if name not in columns]:
            raise ValueError(f"The dataset has no column {missing[0]!r}; name it in `trl.reward`.")
        texts = [one if isinstance(one, str) else one[-1]["content"] for one in completions]
        rows = list(zip(columns[source], columns[instruction], texts, strict=True))
        edits, failed = _edits(make_edit, rows)
        batch = rewards(
            sources=[rows[index][0] for index in edits],
            edited=list(edits.values()),
            instructions=[rows[index][1] for index in edits],
        )
        found = dict(zip(edits, batch.values.tolist(), strict=True))
        failed |= {index: batch.reasons[place] for place, index in enumerate(edits) if place in batch.reasons}
        if failed and not alone:
            index, reason = next(iter(sorted(failed.items())))
            raise RuntimeError(
                f"Completion {index} has no reward ({reason}), and TRL would count the other reward functions alone. "
                "Combine all rewards in one `Reward`, give it as the only function, and say `alone=True`."
            )
        return [None if math.isnan(found.get(index, math.nan)) else found[index] for index in range(len(rows))]

    return editreward


def _edits(make_edit: MakeEdit, rows: Sequence[tuple[object, str, str]]) -> tuple[dict[int, object], dict[int, str]]:
    """The edits that could be made, and why the others could not, by position."""
    edits: dict[int, object] = {}
    failed: dict[int, str] = {}
    for index, row in enumerate(rows):
        try:
            edit = make_edit(*row)
        except Exception as error:  # whatever a policy's text makes a renderer raise
            failed[index] = f"{type(error).__name__}: {error}"
            continue
        if edit is None:
            failed[index] = "the completion makes no edit"
        else:
            edits[index] = edit
    return edits, failed
