"""verl-omni: its reward function, on a CPU with the bundled model; four samples at once share a pass.

python examples/rewards/verl_omni_reward.py
"""

import asyncio
import tempfile
from pathlib import Path

import numpy as np
import torch

from editreward.rewards.verl_omni import compute_score
from editreward.simulation import simulate_group

group = simulate_group(0, candidates=4)


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        group.source.save(Path(folder) / "cat.png")
        scores = await asyncio.gather(
            *(
                compute_score(
                    data_source="image_edit",
                    solution_image=torch.from_numpy(np.array(one.image)).permute(2, 0, 1),
                    ground_truth=group.instruction,
                    extra_info={"image": "cat.png"},
                    image_root=folder,
                )
                for one in group.candidates
            )
        )
    print([one["score"] for one in scores])


asyncio.run(main())
