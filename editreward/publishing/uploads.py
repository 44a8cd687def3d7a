"""Uploading a prepared folder to a repository of the Hub."""

from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi

from editreward.hub_ids import check_hub_id


def upload(
    folder: Path,
    repo_id: str,
    *,
    repo_type: str,
    message: str,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    replaces: Sequence[str] = (),
    variables: dict[str, str] | None = None,
) -> str:
    """Make the repository, unless it is there, and upload the folder in one commit.

    Args:
        folder: What to upload.
        repo_id: The repository, "organisation/name".
        repo_type: `model` or `space`.
        message: Of the commit.
        private: Whether a new repository is private. One that is there stays as it is.
        revision: Branch to push to, made if it is missing.
        create_pr: Open a pull request instead of committing to the branch.
        replaces: Patterns of files that are deleted where the folder has them no more.
        variables: Environment variables of a Space.

    Returns:
        The address of the pull request or of the commit.
    """
    check_hub_id(repo_id)
    api = HfApi()
    sdk = "gradio" if repo_type == "space" else None
    api.create_repo(repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk)
    for name, value in (variables or {}).items():
        api.add_space_variable(repo_id, name, value)
    if revision is not None and not create_pr:
        api.create_branch(repo_id, branch=revision, repo_type=repo_type, exist_ok=True)
    commit = api.upload_folder(
        repo_id=repo_id,
        repo_type=repo_type,
        folder_path=folder,
        commit_message=message,
        revision=revision,
        create_pr=create_pr,
        delete_patterns=list(replaces) or None,
    )
    return str(commit.pr_url or commit.commit_url)
