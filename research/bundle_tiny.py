"""Copy a trained tiny model into the repository: bfloat16 weights, dense heads if it has some, and the training log.

    python research/bundle_tiny.py --run runs/editreward-tiny --output checkpoints/editreward-tiny

`--run` is the output folder of `train_trl.py`, or a checkpoint in it. Of a training in several runs name all, in their
order: the model is that of the last one, the log has all of them.
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
    parser.add_argument("--run", required=True, type=Path, nargs="+", help="outputs of train_trl.py, or checkpoints")
    parser.add_argument("--output", required=True, type=Path, help="model folder to write")
    args = parser.parse_args()

    log: list[dict[str, object]] = []
    for run in args.run:
        states = [run / "trainer_state.json", *run.glob("checkpoint-*/trainer_state.json")]
        found = [json.loads(state.read_text()) for state in states if state.exists()]
        if not found:
            parser.error(f"{run} holds no trainer_state.json: is it the output of train_trl.py?")
        entries = max(found, key=lambda state: state["global_step"])["log_history"]
        log += [{"run": run.name, **entry} for entry in entries] if len(args.run) > 1 else entries
    model = args.run[-1]
    EditRewardModel.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(args.output)
    EditRewardProcessor.from_pretrained(model).save_pretrained(args.output)
    DenseHeads.remove(args.output)
    if (heads := DenseHeads.find(model)) is not None:
        heads.save(args.output, torch.bfloat16)
    tokenizer = args.output / "tokenizer.json"
    compact = json.dumps(json.loads(tokenizer.read_text(encoding="utf-8")), ensure_ascii=False, separators=(",", ":"))
    tokenizer.write_text(compact, encoding="utf-8")
    lines = "".join(json.dumps(entry) + "\n" for entry in log)
    (args.output / "training_log.jsonl").write_text(lines, encoding="utf-8")
    print(f"Wrote {args.output} from {model}, step {log[-1]['step']}.")


if __name__ == "__main__":
    main()
