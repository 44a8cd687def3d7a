r"""Make the bundled generative scorer of a finished run: adapter, prompt sets, card and log.

    python research/bundle_generative.py --run runs/editscore-tiny --output checkpoints/editscore-tiny \
        --base ../tiny-vlm

The base is named by its place from the output on, so that a clone or a wheel finds it wherever it lies.
"""

import editreward.scripts

import argparse
import json
import shutil
from pathlib import Path

from editreward.files import write_json, write_text

CONFIG, WEIGHTS, OWN_PROMPTS = "adapter_config.json", "adapter_model.safetensors", "prompts.yaml"
KNOWS = "**It knows the simulated world of `editreward.simulation` alone**: of photographs it says nothing useful."
LOG_EVERY = 5
"""Of the lines on training, so many are one in the bundled log."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="output folder of editreward.training.generative")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--base", required=True, help="the base as seen from there")
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    if not (args.output / args.base).is_dir():
        parser.error(f"--base: there is no folder {args.output / args.base}")
    config = json.loads((args.run / CONFIG).read_text(encoding="utf-8"))
    trained_on = config["base_model_name_or_path"]
    write_json(args.output / CONFIG, {**config, "base_model_name_or_path": args.base})
    for path in (args.run / WEIGHTS, args.run / OWN_PROMPTS, *args.run.glob("prompts-*.yaml")):
        shutil.copyfile(path, args.output / path.name)
    card = (args.run / "README.md").read_text(encoding="utf-8")
    name, base = args.output.as_posix(), (args.output / args.base).resolve().name
    card = card.replace(trained_on, f"checkpoints/{base}").replace(f"generative:{args.run.name}", f"generative:{name}")
    card = card.replace(f"# {args.run.name}\n", f"# {args.output.name}\n\n{KNOWS}\n", 1)
    card = card.replace(f"base_model: checkpoints/{base}\n", "license: apache-2.0\nlanguage:\n- en\n- zh\n", 1)
    write_text(args.output / "README.md", card)
    lines = (args.run / "training_log.jsonl").read_text(encoding="utf-8").splitlines()
    losses = [line for line in lines if "loss" in json.loads(line)]
    kept = [line for line in lines if line not in losses or losses.index(line) % LOG_EVERY == 0]
    write_text(args.output / "training_log.jsonl", "".join(f"{line}\n" for line in kept))
    print(f"{args.output}: {sum(path.stat().st_size for path in args.output.iterdir()):,} bytes")


if __name__ == "__main__":
    main()
