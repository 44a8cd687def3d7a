r"""
Train an EditReward model on edit groups.

On simulated groups, from a tiny vision-language model, on a laptop:

    accelerate launch train_trl.py --config configs/tiny.yaml

(On a CPU, `accelerate launch --num_cpu_threads_per_process 2` uses two cores; its default is one.)

Go on with a run that was stopped, from its last checkpoint:

    accelerate launch train_trl.py --config configs/tiny.yaml --resume_from_checkpoint true

On your own annotations, from a 7B backbone, on the GPUs that `accelerate config` was told of (with DeepSpeed or FSDP,
which share out the float32 weights: updates as small as the recipe's vanish in bfloat16 ones):

    accelerate launch train_trl.py \
        --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct --dataset_name path/to/annotations \
        --dimension_weight 1.0 --gradient_accumulation_steps 2 --output_dir runs/editreward-7b
"""

import sys

try:
    from editreward.training.arguments import EditRewardModelConfig, EditRewardTrainingArguments
    from editreward.training.script import EditRewardScriptArguments, main, run
except ModuleNotFoundError as error:
    sys.exit(f'train_trl.py: error: {error}: pip install -e ".[train]" in the repository brings it')

__all__ = ["EditRewardModelConfig", "EditRewardScriptArguments", "EditRewardTrainingArguments", "main", "run"]

if __name__ == "__main__":
    sys.exit(run())
