"""Options of the editors' trainer."""

from dataclasses import dataclass, field, fields

from configuration_editreward import check_choice
from editreward.editors.flow import SAMPLERS

ONLINE_STAGES = ("grpo", "nft")
STAGES = ("sft", "dpo", *ONLINE_STAGES)
AT_LEAST_ONE = (
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "resolution",
    "sampling_steps",
    "groups_per_step",
    "updates_per_step",
    "nft_levels",
    "most_idle_steps",
    "save_steps",
    "logging_steps",
)
"""Options that count something, of which there must be one."""
TRUTH = "truth"
"""The reward of simulated rows that knows what the edit should look like."""


def check_choices(options: "EditorScriptArguments | EditorTrainingArguments") -> None:
    """Be sure of each option that has choices: the parser checks those of the command line, not those of a recipe.

    Raises:
        ValueError: one is none of its choices.
    """
    for one in fields(options):
        value, choices = getattr(options, one.name), one.metadata.get("choices")
        if choices and value is not None:
            check_choice(one.name, value, choices)


@dataclass
class EditorScriptArguments:
    """Which editor is trained, in what way, on what."""

    stage: str = field(
        default="grpo",
        metadata={
            "help": "'sft': imitate the edits of a dataset. 'dpo': prefer the better of two edits. 'grpo': make "
            "edits, have them rewarded, make the good ones likelier. 'nft': the same by DiffusionNFT, which needs no "
            "likelihoods.",
            "choices": list(STAGES),
        },
    )
    pipeline: str = field(
        default="editreward.editors.tiny.pipeline.TinyEditPipeline",
        metadata={"help": "Class of diffusers, such as FluxKontextPipeline, or the dotted path of another one."},
    )
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the pipeline. Default: the bundled tiny editor."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of a Hub id."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": "Precision of the weights that are not trained. Default: bfloat16 on a GPU, else float32.",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    dataset_name: str = field(
        default="simulated",
        metadata={
            "help": "Edit groups: a folder, a Parquet file, a Hub id, or 'simulated'. grpo and nft use sources and "
            "instructions, sft all edits, dpo pairs of them (docs/editors.md)."
        },
    )
    dataset_split: str = field(default="train", metadata={"help": "Split to read."})
    dataset_offset: int = field(default=0, metadata={"help": "Rows to leave out at the start."})
    dataset_limit: int | None = field(default=None, metadata={"help": "Most rows to use; needed for 'simulated'."})
    reward: str | None = field(
        default=None,
        metadata={
            "help": "A scorer as `--scorer` takes it, the address of `editreward serve`, or 'truth' for simulated "
            "rows ('truth:2' with Gaussian noise of that standard deviation, the same for the same image). "
            "Default: the bundled tiny model. dpo: ranks the edits; without it their own scores do."
        },
    )
    reward_shaping: str | None = field(
        default=None, metadata={"help": "YAML file of `Shaping` (docs/rewards.md). A server has its own."}
    )
    reward_token_file: str | None = field(default=None, metadata={"help": "File with the server's token."})
    reward_check: bool = field(
        default=True,
        metadata={
            "help": "Refuse a scorer whose scores do not depend on the edit or the instruction, such as 'ssim'."
        },
    )
    guard: str | None = field(
        default=None,
        metadata={"help": "A scorer that is watched beside the reward, and raises the alarm when it falls meanwhile."},
    )

    def __post_init__(self) -> None:
        check_choices(self)


@dataclass
class EditorTrainingArguments:
    """How it is trained. Counts are per process."""

    output_dir: str = field(default="runs/editor", metadata={"help": "Where the editor, checkpoints and curves go."})
    max_steps: int = field(default=200, metadata={"help": "Steps. One of grpo is one round of edits and its updates."})
    seed: int = field(default=0, metadata={"help": "Decides order, noise and levels; not which rows there are."})
    resume: bool = field(default=True, metadata={"help": "Go on from the last checkpoint in `output_dir`, if any."})

    learning_rate: float = field(default=1e-4, metadata={"help": "Of AdamW; 3e-4 with LoRA, less without."})
    warmup_steps: int = field(default=0, metadata={"help": "Steps over which the learning rate rises from 0."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of AdamW."})
    adam_beta2: float = field(default=0.999, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm."})
    per_device_train_batch_size: int = field(
        default=4, metadata={"help": "Edits in one pass forward and backward. It changes memory and speed alone."}
    )
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "sft, dpo: batches per update."})
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Less memory, a third more time."})
    mixed_precision: str | None = field(
        default=None,
        metadata={
            "help": "'bf16' computes in bfloat16, 'no' in the precision of the weights. Default: bf16 on a GPU, else "
            "no.",
            "choices": ["no", "bf16"],
        },
    )
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA; 0 trains the whole transformer."})
    lora_alpha: int = field(default=0, metadata={"help": "Of LoRA; by default twice the rank."})

    resolution: int = field(default=512, metadata={"help": "Side in pixels of the squares that are edited."})
    guidance: float = field(default=1.0, metadata={"help": "Guidance of the pipeline, in training as in sampling."})
    sampling_steps: int = field(
        default=8, metadata={"help": "grpo, nft and sample grids: steps from noise to an edit."}
    )

    groups_per_step: int = field(default=8, metadata={"help": "grpo, nft: instructions per step."})
    samples_per_group: int = field(default=12, metadata={"help": "grpo, nft: edits of each, which are compared."})
    updates_per_step: int = field(
        default=1, metadata={"help": "grpo, nft: updates that a step's edits are shared among."}
    )
    sampler: str = field(
        default="cps",
        metadata={
            "help": "grpo: 'flow' (Flow-GRPO's equation) or 'cps' (coefficients-preserving, whose images are free of "
            "left-over noise at few steps).",
            "choices": list(SAMPLERS),
        },
    )
    sampler_noise: float = field(default=0.7, metadata={"help": "grpo: how much noise the window's steps add."})
    window: int = field(default=3, metadata={"help": "grpo: steps that add noise and are trained, in a row."})
    window_range: list[int] = field(
        default_factory=lambda: [0, 4],
        metadata={"help": "grpo: the window lies anywhere from the first of these steps up to before the second."},
    )
    clip_range: float = field(default=1e-3, metadata={"help": "grpo: how far a step's likelihood may move."})
    kl_weight: float = field(
        default=0.01, metadata={"help": "grpo, nft: ties to the editor that training started from."}
    )
    advantage_scale: str = field(
        default="group",
        metadata={
            "help": "grpo, nft: divide advantages by the deviation of their 'group', of the whole 'batch', or by "
            "'none'.",
            "choices": ["group", "batch", "none"],
        },
    )
    advantage_limit: float = field(default=5.0, metadata={"help": "grpo, nft: advantages are clipped to this."})
    nft_levels: int = field(default=4, metadata={"help": "nft: noise levels at which an update looks at each edit."})
    nft_beta: float = field(
        default=1.0, metadata={"help": "nft: how strong the policy is tied to the one that samples; below 1 less."}
    )
    nft_shun: float = field(
        default=1.0,
        metadata={"help": "nft: weight of edits worse than their group; with 0 they only hold the policy."},
    )
    nft_decay: float = field(
        default=0.5, metadata={"help": "nft: most of its own weights that the sampling policy keeps at a step."}
    )
    nft_decay_step: float = field(
        default=1e-3, metadata={"help": "nft: by how much that share grows at each step, from 0."}
    )
    most_idle_steps: int = field(
        default=20, metadata={"help": "grpo, nft: stop after so many steps in a row that taught nothing."}
    )
    watch_truth: bool = field(
        default=False, metadata={"help": "grpo, nft: also log what the edits of simulated rows truly deserve."}
    )
    dpo_beta: float = field(default=500.0, metadata={"help": "dpo: ties to the editor that training started from."})
    level_shift: float = field(
        default=3.0,
        metadata={"help": "sft, dpo, nft: levels are uniform, shifted towards noise by this; 1 shifts nothing."},
    )
    loss_weighting: str = field(
        default="none",
        metadata={
            "help": "sft: 'none' weights the velocity's error alike at all levels; 'clean' by the level squared, "
            "which is the error of the clean image.",
            "choices": ["none", "clean"],
        },
    )

    on_bad_row: str = field(
        default="stop",
        metadata={
            "help": "What an image that cannot be read does: 'stop' ends the run, with the row named; 'skip' takes "
            "the next row instead.",
            "choices": ["stop", "skip"],
        },
    )

    save_steps: int = field(default=50, metadata={"help": "Steps between checkpoints."})
    logging_steps: int = field(default=1, metadata={"help": "Steps between lines of log.jsonl."})
    sample_steps: int = field(default=50, metadata={"help": "Steps between grids of samples; 0 makes none."})
    sample_rows: int = field(default=4, metadata={"help": "Rows of a grid: the dataset's first."})

    def __post_init__(self) -> None:
        check_choices(self)
        for name in AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be at least 1.")
        for name in ("advantage_limit", "nft_beta"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be above 0.")
        for name in ("nft_shun", "nft_decay", "nft_decay_step"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; it must be in 0..1.")
        if self.samples_per_group < 2:
            raise ValueError("`samples_per_group` must be at least 2: edits are compared within their group.")

    def check_sampler(self) -> None:
        """What grpo needs of its window and its noise.

        Raises:
            ValueError: they do not fit.
        """
        start, stop = self.window_range if len(self.window_range) == 2 else (0, 0)
        if not 0 <= start < stop <= self.sampling_steps or not 1 <= self.window <= stop - start:
            raise ValueError(
                f"`window` {self.window} does not fit `window_range` {self.window_range} and `sampling_steps` "
                f"{self.sampling_steps}: 0 <= first < second <= sampling_steps, and the window within."
            )
        if self.sampler == "cps" and stop == self.sampling_steps:
            raise ValueError(
                f"`window_range` ends at {stop}, behind the last of {stop} steps, in which the sampler 'cps' adds no "
                f"noise: end it at {stop - 1} or before."
            )
        if self.sampler_noise <= 0 or (self.sampler == "cps" and self.sampler_noise >= 2):
            raise ValueError(
                "`sampler_noise` must be above 0 (and below 2 for 'cps'): without noise nothing is tried."
            )
