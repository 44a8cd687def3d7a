"""Copy a trained tiny model into the repository: bfloat16 weights, dense heads if it has some, and the training log.

    python research/bundle_tiny.py --run runs/editreward-tiny --output checkpoints/editreward-tiny

`--run` is the output folder of `train_trl.py`, or a checkpoint in it.
"""

import editreward.scripts

import argparse
import json
from pathlib import Path

import torch

from editreward.dense_heads import DenseHeads
from modeling_editreward import EditRewardModel
from processing_editreward import EditRewardProcessor


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", required=True, type=Path, help="output folder of train_trl.py, or a checkpoint in it")
    parser.add_argument("--output", required=True, type=Path, help="model folder to write")
    args = parser.parse_args()

    states = [args.run / "trainer_state.json", *args.run.glob("checkpoint-*/trainer_state.json")]
    states = sorted((s for s in states if s.exists()), key=lambda s: json.loads(s.read_text())["global_step"])
    if not states:
        parser.error(f"{args.run} holds no trainer_state.json: is it the output of train_trl.py?")
    EditRewardModel.from_pretrained(args.run, dtype=torch.bfloat16).save_pretrained(args.output)
    EditRewardProcessor.from_pretrained(args.run).save_pretrained(args.output)
    DenseHeads.remove(args.output)
    if (heads := DenseHeads.find(args.run)) is not None:
        heads.save(args.output, torch.bfloat16)
    tokenizer = args.output / "tokenizer.json"
    compact = json.dumps(json.loads(tokenizer.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":"))
    tokenizer.write_text(compact, encoding="utf-8")
    log = json.loads(states[-1].read_text())["log_history"]
    lines = "".join(json.dumps(entry) + "\n" for entry in log)
    (args.output / "training_log.jsonl").write_text(lines, encoding="utf-8")
    print(f"Wrote {args.output} from {args.run}, step {log[-1]['step']}.")


if __name__ == "__main__":
    main()
