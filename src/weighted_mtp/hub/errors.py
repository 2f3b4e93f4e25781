"""What went wrong, in one line: the repository, the cause, what fixes it and what serves in place of the hub."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from huggingface_hub import constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RevisionNotFoundError,
)

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.hub.repository import Repository
from weighted_mtp.hub.retry import HubError, asked_wait

TOKEN = "put HF_TOKEN=… in .env and repeat, or log in with `hf auth login`"


@contextmanager
def in_one_line(repository: Repository, instead: str) -> Iterator[None]:
    """Raise UserError for whatever goes wrong inside."""
    try:
        yield
    except (HubError, httpx2.HTTPError, httpx2.InvalidURL, HFValidationError, OSError) as error:
        raise UserError(f"{repository.id}: {cause(error, repository)}; {instead}") from error


def cause(error: Exception, repository: Repository) -> str:
    """What is wrong and what fixes it, in words that follow the repository's name."""
    hub = repository.endpoint
    match error:
        case HubError():
            return str(error)
        case HFValidationError():
            return "not an id on the hub, which is OWNER/NAME"
        case OfflineModeIsEnabled():
            return "HF_HUB_OFFLINE is set, so the hub is not contacted; unset it to fetch what is missing"
        case HfHubHTTPError():
            return _refusal(error, repository)
        case httpx2.TimeoutException():
            return f"{hub} did not answer in {constants.HF_HUB_DOWNLOAD_TIMEOUT} s; try again later"
        case httpx2.ConnectError() | httpx2.ProxyError() | httpx2.UnsupportedProtocol() | httpx2.InvalidURL():
            return f"{hub} cannot be reached ({first_line(error)}); check the network and HF_ENDPOINT"
        case httpx2.HTTPError():
            return f"the connection to {hub} broke off ({first_line(error)}); the same command resumes from there"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return (
                f"the disk is full ({error.filename or 'the download'}); free some space and run the same command again"
            )
        case _:
            return f"writing failed ({first_line(error)}); choose a folder that you may write to"


def _refusal(error: HfHubHTTPError, repository: Repository) -> str:
    status = error.response.status_code
    if isinstance(error, GatedRepoError):
        licence = f" (licence: {repository.licence})" if repository.licence else ""
        return f"gated{licence}; accept its terms at {repository.page}, then {TOKEN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{repository.page} has no revision main; check the name"
    if isinstance(error, RemoteEntryNotFoundError):
        return f"the hub lists a file that it does not have ({error.response.request.url.path}); try again later"
    if status == 401 and get_token():
        tokens = f"{repository.endpoint}/settings/tokens"
        return f"the hub does not accept the token (401); make another at {tokens}, then {TOKEN}"
    if status in (401, 404):
        return f"no such {repository.kind} at {repository.endpoint}, or a private one; check the name, or {TOKEN}"
    if status == 403:
        what = "read it" if error.response.request.method in ("GET", "HEAD") else "write there"
        who = f"the token may not {what}" if get_token() else "cannot be read without a token"
        return f"{who} (403); take one of an account that may, and {TOKEN}"
    if status == 429:
        asked = asked_wait(error)
        when = f"in {asked:.0f} s" if asked else "later"
        return f"the hub asks for fewer requests (429); try again {when}"
    if status >= 500:
        return f"the hub has trouble ({status} {error.response.reason_phrase}); try again later"
    said = (error.server_message or "try again later").splitlines()[0]
    return f"the hub answers {status} {error.response.reason_phrase}: {said}"
