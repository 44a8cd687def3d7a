"""Options that `editreward bench` and its subcommands share, and the scorer that they ask for."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from editreward.evaluation.scorers import PairwiseJudge, Scorer

SCORER_NAMES = ("editreward", "random", "coin", "psnr", "ssim", "pixels", "phash", "clip", "clip-directional", "lpips")


def add_scorer_options(parser: argparse.ArgumentParser) -> None:
    """Who scores."""
    from editreward.cli import add_model_options

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
    parser.add_argument("--seed", type=int, default=0, help="of the scorers random and coin (default: %(default)s)")


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Where answers are kept."""
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="where answers and imports are kept (default: $EDITREWARD_CACHE, or beside the Hub's)",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep no answers, and use none that were kept")


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
