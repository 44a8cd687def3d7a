"""The card of a trained generative scorer."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from peft import PeftModel

from editreward import __version__
from editreward.files import write_text

if TYPE_CHECKING:
    from editreward.training.generative.trainer import GenerativeTrainer

CARD = """---
base_model: {base}
library_name: {library}
pipeline_tag: image-text-to-text
tags:
- editreward
- generative-scorer
---

# {name}

A scorer of image edits that writes its answer: {what} {base} ({which}), trained by `editreward.training.generative`
(editreward {version}) on {datasets}.

    editreward score ... --scorer generative:{name}

| | |
|---|---|
| Prompt sets | {prompts} |
| Weight of score tokens | {score_weight:g} |
| Steps | {steps} |
| Learning rate | {learning_rate:g}, {scheduler} |
| Groups a step | {groups}, {answers} answers of each |
{adapter}
## Evaluation

`accuracy`: share of pairs of a group whose annotations differ that the scores order alike. `unscored`: share of edits
whose answer gives no score.

{metrics}
"""


def _which(trainer: "GenerativeTrainer") -> str:
    """Which weights the base is: a commit of the Hub, or the hash of its files."""
    folder = Path(trainer.base_name)
    if not folder.is_dir():
        return f"commit {getattr(trainer.writer.model.config, '_commit_hash', None) or 'unknown'}"
    told = []
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            told.append(f"SHA-256 of {path.name} {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}")
    return ", ".join(told)


def write_card(trainer: "GenerativeTrainer", folder: Path) -> None:
    """Write README.md of a run into a folder."""
    args = trainer.args
    model = trainer.model
    adapter = ""
    if isinstance(model, PeftModel):
        config = model.active_peft_config
        adapter = f"| LoRA | rank {config.r}, alpha {config.lora_alpha:g} |\n"
    metrics = {
        name: value for name, value in trainer.evaluated.items() if name.startswith("eval") and "_per_" not in name
    }
    lines = [f"| {name} | {value:.4f} |" for name, value in sorted(metrics.items()) if not name.endswith("runtime")]
    text = CARD.format(
        base=trainer.base_name,
        which=_which(trainer),
        library="peft" if adapter else "transformers",
        name=Path(args.output_dir).name,
        what="a LoRA adapter on" if adapter else "made from",
        version=__version__,
        datasets=", ".join(trainer.dataset_names) or "edit groups",
        prompts=", ".join(prompts.name for prompts in trainer.sets.values()),
        score_weight=args.score_weight,
        steps=trainer.state.global_step,
        learning_rate=args.learning_rate,
        scheduler=getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type),
        groups=args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        answers=args.answers_per_group or "all",
        adapter=adapter,
        metrics="\n".join(["| metric | value |", "|---|--:|", *lines]) if lines else "None in this run.",
    )
    write_text(folder / "README.md", text)
    log = [json.dumps(entry) for entry in trainer.state.log_history]
    write_text(folder / "training_log.jsonl", "".join(f"{line}\n" for line in log))
