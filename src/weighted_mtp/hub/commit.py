"""One commit that gives a repository on the hub the files of a folder, and no others."""

import warnings
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import RepositoryNotFoundError

from weighted_mtp.errors import first_line
from weighted_mtp.hub.errors import TOKEN, in_one_line
from weighted_mtp.hub.repository import Listing, Repository
from weighted_mtp.hub.retry import HubError
from weighted_mtp.hub.token import read_token
from weighted_mtp.progress import say

_OF_THE_HUB = ".gitattributes"  # which every new repository has


def commit(folder: Path, repo_id: str, *, private: bool, update: bool, message: str) -> str:
    """Make the model repository `repo_id` hold the files of `folder`, in one commit; returns its page.

    The hub checks the model card before anything is uploaded. A broken upload leaves the repository as it was, and the
    same call repeats it.

    private  who may read a repository that is not there yet: only its owner, or everybody
    update   whether files that the repository holds may be replaced and deleted; its history keeps them

    Raises UserError, one line, if there is no token or one that may not write, if the repository holds other files
    without `update`, for a card that the hub refuses, and for whatever the network does.
    """
    read_token(Path(".env"))
    repository = Repository(repo_id, "model")
    with in_one_line(repository, "nothing was committed"):
        if get_token() is None:
            raise HubError(
                f"a token that may write is needed: make one at {repository.endpoint}/settings/tokens, {TOKEN}"
            )
        listing = _listing(repository)
        operations = _operations(folder, listing, repository, update)
        if operations:
            _send(repository, operations, listing, private, message)
    return repository.page


def _listing(repository: Repository) -> Listing | None:
    try:
        return repository.listing(patient=False)
    except RepositoryNotFoundError:
        return None


def _operations(
    folder: Path, listing: Listing | None, repository: Repository, update: bool
) -> list[CommitOperationAdd | CommitOperationDelete]:
    there = {file.name: file for file in listing.files if file.name != _OF_THE_HUB} if listing else {}
    ours = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    same = {name for name, path in ours.items() if name in there and there[name].is_whole(path)}
    if not update and (other := sorted(there.keys() - same)):
        raise HubError(
            f"{repository.page} holds other files already ({', '.join(other[:3])}{' …' if len(other) > 3 else ''}); "
            "give another name, or --update to replace them (its history keeps them)"
        )
    return [
        *(CommitOperationDelete(name, is_folder=False) for name in sorted(there.keys() - ours.keys())),
        *(CommitOperationAdd(name, path) for name, path in ours.items() if name not in same),
    ]


def _send(
    repository: Repository,
    operations: list[CommitOperationAdd | CommitOperationDelete],
    listing: Listing | None,
    private: bool,
    message: str,
) -> None:
    api = HfApi(endpoint=repository.endpoint)
    if listing is None:
        api.create_repo(repository.id, private=private)
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            api.create_commit(
                repository.id, operations, commit_message=message, parent_commit=listing.revision if listing else None
            )
    except RuntimeError as error:  # the client names the file; what went wrong with it is the cause
        if isinstance(error.__cause__, httpx2.HTTPError | OSError):
            raise error.__cause__ from error
        raise HubError(f"the upload failed ({first_line(error)}); the same command repeats it") from error
    except ValueError as error:
        if isinstance(error, OSError):  # a refusal of the hub's with a status
            raise
        raise HubError(f"the hub refuses the model card: {' '.join(str(error).split())}") from error
    for warning in (w for w in said if w.category is UserWarning):  # what the hub finds lacking in the card
        say(" ".join(str(warning.message).split()))
