"""`editreward bench`: run a reward model, a baseline or a judge of pairs on a benchmark."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.evaluation.scorers import PairwiseJudge, Scorer

BENCHMARK_NAMES = (
    "genai-bench",
    "aurora-bench",
    "imagenhub",
    "editreward-bench",
    "editscore-bench",
    "editreward-compass",
    "simulated",
)
"""Keys of `editreward.evaluation.benchmarks.BENCHMARKS`, which takes too long to import for `--help`."""

SCORER_NAMES = ("editreward", "random", "coin", "psnr", "ssim", "pixels", "phash", "clip", "clip-directional", "lpips")


def add_bench(commands: Any) -> None:
    """Declare `editreward bench`."""
    from editreward.cli import add_model_options

    parser = commands.add_parser(
        "bench",
        help="run a reward model or a baseline on a benchmark",
        description="Run a reward model, a baseline or a judge of pairs on a benchmark, and print its measures as a "
        "Markdown table. Answers are cached by content: a run that was killed goes on. docs/benchmarks.md has the "
        "benchmarks. On several GPUs: accelerate launch -m editreward.cli bench ...",
        epilog="Example: editreward bench editreward-bench --model org/EditReward --output results/",
    )
    parser.add_argument("benchmark", choices=BENCHMARK_NAMES, help="which benchmark", metavar="NAME")
    parser.add_argument(
        "--scorer",
        default="editreward",
        metavar="SCORER",
        help=f"{', '.join(SCORER_NAMES)}, or your own: FILE.py:FUNCTION or MODULE:FUNCTION, which returns a scorer or "
        "a judge of pairs and is run (default: %(default)s)",
    )
    add_model_options(parser)
    parser.add_argument("--model-revision", metavar="REVISION", help="commit, branch or tag of a model on the Hub")
    parser.add_argument("--max-batch-tokens", type=int, metavar="N", help="tokens of one pass through the model")
    parser.add_argument(
        "--data",
        metavar="DIR_OR_ID",
        help="the benchmark's data: a folder that was imported or built, a file or folder in the published format, or "
        "a Hub dataset (default: the published one, where the Hub has it in a known format)",
    )
    parser.add_argument("--images", metavar="ROOT", help="folder that image paths of the published format start from")
    parser.add_argument("--split", help="split of a Hub dataset (default: all)")
    parser.add_argument("--revision", help="commit, branch or tag of a Hub dataset")
    parser.add_argument("--output", metavar="DIR", help="write result.json, result.md and the answers there")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N groups, for a quick look")
    parser.add_argument(
        "--shuffle-instructions",
        action="store_true",
        help="show each group another group's instruction: what is still right needed no instruction",
    )
    parser.add_argument(
        "--position-bias", action="store_true", help="ask a judge of pairs about every pair in both orders"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scorers random and coin (default: %(default)s)")
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="where answers and imports are kept (default: $EDITREWARD_CACHE, or beside the Hub's)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no answers, and use none that were kept")
    parser.set_defaults(run=run_bench)


def run_bench(args: argparse.Namespace) -> None:
    """Run a benchmark and print the result."""
    from editreward.evaluation.benchmarks import BENCHMARKS, load_benchmark, run_benchmark
    from editreward.evaluation.cache import cache_folder
    from editreward.evaluation.processes import Processes
    from editreward.evaluation.runner import Runner

    processes = Processes()
    benchmark = BENCHMARKS[args.benchmark]
    cache = Path(args.cache) if args.cache else cache_folder()
    data = load_benchmark(
        benchmark,
        args.data,
        images=args.images,
        split=args.split,
        revision=args.revision,
        cache=cache,
        processes=processes,
    )
    result = run_benchmark(
        benchmark,
        data,
        make_scorer(args, processes.device),
        Runner(cache=None if args.no_cache else cache, processes=processes),
        limit=args.limit,
        shuffle_instructions=args.shuffle_instructions,
        with_position_bias=args.position_bias,
    )
    if processes.is_main:
        print(result.markdown())
        if args.output:
            for file in result.write(Path(args.output)):
                print(f"Wrote {file}")


def make_scorer(args: argparse.Namespace, device: str | None) -> "Scorer | PairwiseJudge":
    """The scorer or judge that the options ask for.

    Args:
        args: the options.
        device: where to run, unless the options say it.

    Raises:
        ValueError: there is no such scorer, or it cannot be loaded.
    """
    from editreward.evaluation import baselines
    from editreward.evaluation.scorers import CoinPerPair, PairwiseJudge, RandomScores, RewardModelScorer, Scorer
    from editreward.functions import load_function

    device = args.device or device
    if args.scorer == "editreward":
        return RewardModelScorer(_load_model(args, device))
    if args.scorer in ("clip", "clip-directional"):
        return baselines.Clip.from_pretrained(args.model, args.scorer == "clip-directional", device or "cpu")
    if args.model is not None:
        raise ValueError(f"The scorer {args.scorer!r} has no --model.")
    if args.scorer == "random":
        return RandomScores(args.seed)
    if args.scorer == "coin":
        return CoinPerPair(args.seed)
    if args.scorer in baselines.LIKENESSES:
        return baselines.SourceLikeness(args.scorer)
    if args.scorer == "lpips":
        return baselines.Lpips(device=device or "cpu")
    if ":" not in args.scorer:
        raise ValueError(
            f"There is no scorer {args.scorer!r}: choose {', '.join(SCORER_NAMES)}, or FILE.py:FUNCTION for your own."
        )
    made = load_function(args.scorer, "--scorer")()
    if not isinstance(made, Scorer | PairwiseJudge):
        raise ValueError(
            f"--scorer: {args.scorer} returned a {type(made).__name__}, which is no scorer: it needs `name`, "
            "`fingerprint`, and `__call__` or `compare` (docs/benchmarks.md)."
        )
    return made


def _load_model(args: argparse.Namespace, device: str | None) -> Any:
    import transformers
    from huggingface_hub.utils.tqdm import enable_progress_bars

    from editreward.scoring import EditRewardScorer

    transformers.logging.disable_progress_bar()
    enable_progress_bars()  # of downloads: the line above turns these off too
    revision = {"revision": args.model_revision} if args.model_revision else {}
    return EditRewardScorer.from_pretrained(
        args.model, device=device, dtype=args.dtype, max_batch_tokens=args.max_batch_tokens, **revision
    )
