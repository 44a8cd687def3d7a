"""The one `--scorer` of every command that scores, and the options that go with it."""

import argparse

from editreward.cli.paths import reads
from editreward.groups import PairwiseJudge, Scorer
from editreward.scorers.registry import SCORERS, load_scorer, load_scorer_or_judge

DTYPES = ("float32", "bfloat16", "float16")
DECIDING_OPTIONS = ("dtype", "revision", "seed", "prompts", "passes", "temperature")
"""Options that scores depend on, unlike those of where and how fast they are made."""


class _OneScorer(argparse.Action):
    """`--scorer`, also called `--model`: of two, one would be ignored."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: object, option: str | None = None
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error("--scorer and --model are one option: give it once (a CLIP checkpoint is clip:MODEL)")
        setattr(namespace, self.dest, values)


def add_scorer_options(parser: argparse.ArgumentParser, with_seed: bool = True) -> None:
    """Declare who scores.

    Args:
        parser: of the command.
        with_seed: declare `--seed`; False where the command has one of its own.
    """
    names = ", ".join(name for name in SCORERS if name != "editreward")
    options = parser.add_argument_group("who scores")
    options.add_argument(
        "--scorer",
        "--model",
        action=_OneScorer,
        metavar="SPEC",
        help=f"a reward model (folder or Hub id), {names}, FILE.py:FUNCTION or MODULE:FUNCTION, which is run, or a "
        "YAML file (default: the bundled tiny model)",
    )
    reads(parser, scorer="scorer")
    options.add_argument("--model-revision", metavar="REVISION", help="commit, branch or tag of a model on the Hub")
    options.add_argument("--device", help="cpu, cuda, cuda:1, mps (default: the best one available)")
    options.add_argument(
        "--dtype",
        choices=DTYPES,
        help="precision of the backbone (default: bfloat16 on GPUs that have it, else float32)",
    )
    options.add_argument("--max-batch-tokens", type=int, metavar="N", help="tokens of one pass through the model")
    _add_options_of_written_answers(parser)
    parser.set_defaults(scorer_seed=None)
    if with_seed:
        options.add_argument(
            "--seed", dest="scorer_seed", type=int, metavar="N", help="of scorers that draw (default: 0)"
        )


def _add_options_of_written_answers(parser: argparse.ArgumentParser) -> None:
    options = parser.add_argument_group("scorers that write their answer")
    options.add_argument(
        "--prompts", metavar="NAME_OR_FILE", help="what they are asked, see `editreward prompts` (default: editreward)"
    )
    options.add_argument(
        "--passes", type=int, metavar="N", help="how often they are asked about each edit (default: 1)"
    )
    options.add_argument("--temperature", type=float, metavar="T", help="of their sampling (default: 0.7)")
    options.add_argument("--max-calls", type=int, metavar="N", help="make no more calls of an endpoint than these")
    options.add_argument("--max-cost", type=float, metavar="COST", help="spend no more than this, by `--prices`")
    options.add_argument(
        "--prices",
        nargs=2,
        type=float,
        metavar=("READ", "WRITTEN"),
        help="of a million tokens that an endpoint reads and writes",
    )


def scorer_of(args: argparse.Namespace, device: str | None = None) -> Scorer:
    """The scorer that the options ask for.

    Args:
        args: the options.
        device: where to run, unless the options say it; scorers that run nowhere in particular do not mind.

    Raises:
        ValueError: there is no such scorer, it cannot be loaded, has no such option, or judges pairs.
    """
    return load_scorer(args.scorer, **_options(args, device))


def scorer_or_judge_of(args: argparse.Namespace, device: str | None = None) -> Scorer | PairwiseJudge:
    """As `scorer_of`, for commands that take judges of pairs, too."""
    return load_scorer_or_judge(args.scorer, **_options(args, device))


def options_of_scores(args: argparse.Namespace) -> dict[str, object]:
    """The given options that decide what the scores are: what a file that names the scorer has to keep."""
    given = _options(args, None)
    return {name: given[name] for name in DECIDING_OPTIONS if given[name] is not None}


def _options(args: argparse.Namespace, device: str | None) -> dict[str, object]:
    return {
        "device": args.device,
        "default_device": device,
        "dtype": args.dtype,
        "revision": args.model_revision,
        "max_batch_tokens": args.max_batch_tokens,
        "seed": args.scorer_seed,
        "prompts": args.prompts,
        "passes": args.passes,
        "temperature": args.temperature,
        "max_calls": args.max_calls,
        "max_cost": args.max_cost,
        "prices": None if args.prices is None else tuple(args.prices),
    }
