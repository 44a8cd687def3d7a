"""Options that `editreward bench` and its subcommands share, and the scorer that they ask for."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from editreward.scorers.scorers import PairwiseJudge, Scorer

SCORER_NAMES = ("editreward", "random", "coin", "psnr", "ssim", "pixels", "phash", "clip", "clip-directional", "lpips")


def add_scorer_options(parser: argparse.ArgumentParser) -> None:
    """Who scores."""
    from editreward.cli.main import add_model_options

    parser.add_argument(
        "--scorer",
        default="editreward",
        metavar="SCORER",
        help=f"{', '.join(SCORER_NAMES)}, or your own: FILE.py:FUNCTION or MODULE:FUNCTION, which returns a scorer or "
        "a judge of pairs and is run (default: %(default)s)",
    )
    add_model_options(parser)
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
        ValueError: there is no such scorer, it cannot be loaded, or has no such option.
    """
    from editreward.cli.main import load_scorer
    from editreward.functions import load_function
    from editreward.scorers import baselines
    from editreward.scorers.scorers import CoinPerPair, PairwiseJudge, RandomScores, RewardModelScorer, Scorer

    device = args.device or device
    if args.scorer == "editreward":
        return RewardModelScorer(load_scorer(argparse.Namespace(**{**vars(args), "device": device})))
    is_clip = args.scorer in ("clip", "clip-directional")
    of_models = {"--model": args.model, "--model-revision": args.model_revision} if not is_clip else {}
    of_models |= {"--dtype": args.dtype, "--max-batch-tokens": args.max_batch_tokens}
    if given := [option for option, value in of_models.items() if value is not None]:
        raise ValueError(f"The scorer {args.scorer!r} has no {', '.join(given)}.")
    if is_clip:
        is_directional = args.scorer == "clip-directional"
        return baselines.Clip.from_pretrained(args.model, is_directional, device or "cpu", args.model_revision)
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
