"""Options of the pre-training."""

from dataclasses import dataclass, field


@dataclass
class ModelArguments:
    """The architecture. What is not named here keeps the default of `Qwen2_5_VLConfig`."""

    image_size: int = field(default=112, metadata={"help": "Side of the square images in pixels."})
    patch_size: int = field(default=16, metadata={"help": "Side of a vision patch in pixels."})
    merge_size: int = field(default=1, metadata={"help": "Patches merged into one token, along each side."})
    vision_hidden_size: int = field(default=160, metadata={"help": "Width of the vision tower."})
    vision_intermediate_size: int = field(default=448, metadata={"help": "MLP width of the vision tower."})
    vision_depth: int = field(default=3, metadata={"help": "Blocks of the vision tower."})
    vision_heads: int = field(default=4, metadata={"help": "Attention heads of the vision tower."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the language model."})
    intermediate_size: int = field(default=512, metadata={"help": "MLP width of the language model."})
    layers: int = field(default=7, metadata={"help": "Layers of the language model."})
    heads: int = field(default=4, metadata={"help": "Attention heads of the language model."})
    kv_heads: int = field(default=2, metadata={"help": "Key and value heads of the language model."})
    rope_theta: float = field(default=10000.0, metadata={"help": "Base of the rotary positions of the text."})
    mrope_section: list[int] = field(
        default_factory=list,
        metadata={"help": "Rotary frequencies for time, height and width; empty takes the published models' shares."},
    )
    vocab_size: int = field(default=2048, metadata={"help": "Tokens, the special ones included."})
    tokenizer_groups: int = field(default=6000, metadata={"help": "Simulated groups the tokenizer is trained on."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "Folder of an earlier model of the same width to begin with; may be shallower."},
    )
    naming_from: str | None = field(
        default=None, metadata={"help": "`run_dir` of an earlier run, whose naming of what `scenes` show goes on."}
    )
    insert_at: int = field(
        default=2, metadata={"help": "Layer of the earlier model before which the further layers are put."}
    )

    @property
    def side(self) -> int:
        """Image tokens along one side of an image."""
        return self.image_size // self.patch_size // self.merge_size


@dataclass
class DataArguments:
    """What a batch holds."""

    groups: int = field(default=4, metadata={"help": "Edit groups in a batch; 0 for `scenes` alone."})
    candidates: int = field(
        default=7,
        metadata={"help": "Edited images of a group; 0 shows the source and asks only what is asked for."},
    )
    near_misses: float = field(
        default=0.0, metadata={"help": "Share of the candidates that are perfect but for exactly one attribute."}
    )
    by_error: bool = field(
        default=False, metadata={"help": "Draw near misses in proportion to how often the model does not tell them."}
    )
    worlds: list[str] = field(
        default_factory=lambda: ["shapes"],
        metadata={"help": "Worlds whose groups take turns: shapes, collage (docs/simulation.md)."},
    )
    enlarged: float = field(
        default=0.0, metadata={"help": "Share of the candidates that were drawn small and enlarged."}
    )
    stresses: float = field(
        default=0.0,
        metadata={"help": "Share of the groups with shifts by a pixel, borders, other files or remarks."},
    )
    reading_groups: int = field(
        default=0,
        metadata={"help": "Further groups in a step of which only the source is shown: cheap, they teach to read."},
    )
    instructions: int = field(
        default=0,
        metadata={"help": "Further instructions in a step, without any image and behind one rubric: cheaper still."},
    )
    scenes: int = field(
        default=0, metadata={"help": "Further scenes in a step that only the vision tower sees (seeing.py)."}
    )
    scenes_again: float = field(
        default=0.0, metadata={"help": "Share of the scenes that were shown before, now in another light."}
    )
    scenes_kept: int = field(default=10000, metadata={"help": "Scenes kept to be shown again, by each worker."})
    judged: int = field(default=2, metadata={"help": "Candidates of a group that are judged in words."})
    source_captions: float = field(default=1.0, metadata={"help": "Share of the groups whose source is captioned."})
    edited_captions: int = field(default=0, metadata={"help": "Candidates of a group whose scene is captioned too."})
    workers: int = field(default=1, metadata={"help": "Processes that simulate; 0 simulates in the training process."})

    def __post_init__(self) -> None:
        if not (self.groups or self.reading_groups or self.instructions or self.scenes):
            raise ValueError("A step would hold nothing: give `groups`, `reading_groups`, `instructions` or `scenes`.")


@dataclass
class LossArguments:
    """The weights of the losses. The heads of the dense ones are not kept in the model folder."""

    kind_weights: list[float] = field(
        default_factory=lambda: [0.5, 2.0, 2.0, 1.0],
        metadata={"help": "Loss weight of a caption, change, verdict and quality token."},
    )
    words_weight: float = field(default=1.0, metadata={"help": "Weight of the answers in words."})
    grounding_weight: float = field(default=1.0, metadata={"help": "Factor on the weights of all others."})
    request_weight: float = field(default=1.0, metadata={"help": "Weight of what the instruction says."})
    attributes_weight: float = field(default=0.5, metadata={"help": "Weight of what the cells show."})
    asked_weight: float = field(default=1.0, metadata={"help": "Weight of what the cells should show."})
    comparisons_weight: float = field(default=1.0, metadata={"help": "Weight of where images differ."})
    naming_weight: float = field(default=1.0, metadata={"help": "Weight of what things are called, in `scenes`."})
    mismatches_weight: float = field(default=1.0, metadata={"help": "Weight of what is not as asked for."})


@dataclass
class TrainArguments:
    """The schedule and the outputs."""

    output_dir: str = field(default="checkpoints/tiny-vlm", metadata={"help": "Where the model folder is written."})
    run_dir: str = field(default="runs/tiny-vlm", metadata={"help": "Where the log and the resumable state are kept."})
    resume: bool = field(default=False, metadata={"help": "Go on from the newest state under `run_dir`."})
    minutes: float = field(
        default=25.0,
        metadata={"help": "Budget in minutes of this process's CPU time, earlier parts of the run included."},
    )
    max_steps: int = field(default=0, metadata={"help": "Stop after this many steps instead; 0 uses `minutes`."})
    train_vision: bool = field(default=True, metadata={"help": "Whether the vision tower learns, or stays as it is."})
    train_embeddings: bool = field(
        default=True,
        metadata={"help": "Whether the tokens' embeddings learn; a model that reads forgets how in `scenes` alone."},
    )
    optimizer: str = field(default="muon", metadata={"help": "`muon` (AdamW where it does not apply) or `adamw`."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW's share."})
    muon_learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of Muon (RMS-matched)."})
    weight_decay: float = field(default=0.02, metadata={"help": "Decoupled weight decay of matrices."})
    warmup_steps: int = field(default=60, metadata={"help": "Steps of linear warm-up after a start or a resume."})
    decay_from: float = field(default=0.5, metadata={"help": "Fraction of the budget after which the rate decays."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradient clipping; 0 turns it off."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast (weights stay float32); by default where the CPU has it."}
    )
    threads: int = field(default=1, metadata={"help": "CPU threads of the training process."})
    seed: int = field(default=0, metadata={"help": "Seed of weights and of the first training group."})
    eval_groups: int = field(default=96, metadata={"help": "Held-out groups of an evaluation."})
    eval_minutes: float = field(default=10.0, metadata={"help": "Minutes between evaluations, each saves the state."})
    log_steps: int = field(default=20, metadata={"help": "Steps between two lines of the training log."})
