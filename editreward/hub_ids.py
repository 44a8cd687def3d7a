"""Names on the Hub: ids of repositories, how to tell them from paths of this machine, and the task of our models."""

import os

from huggingface_hub.utils import HFValidationError, validate_repo_id  # type: ignore[attr-defined]

PIPELINE_TAG = "image-text-to-text"  # by what goes in; the Hub has no task of rewards


def check_hub_id(name: str) -> None:
    """Raise a `ValueError` unless `name` is an id as the Hub takes it."""
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no id of a Hub repository: {error}") from error


def is_hub_id(name: object) -> bool:
    """Whether `name` may be the id of a repository on the Hub: it looks like one, and there is no such path here."""
    if not isinstance(name, str) or os.path.exists(name):
        return False
    try:
        check_hub_id(name)
    except ValueError:
        return False
    return True


def hub_commit(name: str, revision: str | None = None) -> str | None:
    """The commit that a dataset on the Hub is at; None where the Hub does not answer."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(name, revision=revision).sha
    except Exception:  # offline, gone, private: whoever reads the dataset will say so, or has it in the cache
        return None
