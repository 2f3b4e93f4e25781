"""What this machine and this environment offer: Python, PyTorch, device, precision, disk, storage, token, extras."""

import os
import platform
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, get_args

import torch
from huggingface_hub import get_token

from weighted_mtp.extras import Extra, has, install
from weighted_mtp.hub.token import read_token
from weighted_mtp.manifest import MANIFEST
from weighted_mtp.runtime.config import RuntimeConfig
from weighted_mtp.runtime.device import has_bf16, pick_device, why_no_cuda

SUPPORTED = ((3, 11), (3, 14))
_GB = 1e9
_LITTLE_DISK = 20 * _GB  # a 1.5B policy's checkpoint with its optimizer state


@dataclass(frozen=True)
class Check:
    """What was found of one thing, and what to do about it; `fix` is "" if there is nothing to do.

    state  `good`; `limited`: what needs it does without, or worse; `bad`: something will not work
    """

    name: str
    state: Literal["good", "limited", "bad"]
    found: str
    fix: str = ""


def environment(storage: Path) -> list[Check]:
    """All checks but that of the isolation, in the order in which they matter. Nothing is fetched or written."""
    device = pick_device(RuntimeConfig())
    parts: list[Callable[[], Check]] = [
        _python,
        lambda: _device(device),
        lambda: _precision(device),
        lambda: _disk(storage),
        lambda: _storage(storage),
        _token,
        _extras,
    ]
    return [part() for part in parts]


def _python() -> Check:
    here = f"Python {platform.python_version()}, PyTorch {torch.__version__}, weighted-mtp {version('weighted-mtp')}"
    first, last = SUPPORTED
    if first <= sys.version_info[:2] <= last:
        return Check("packages", "good", here)
    return Check("packages", "limited", here, f"take a Python from 3.{first[1]} to 3.{last[1]}: others are not tested")


def _device(device: torch.device) -> Check:
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        found = f"{torch.cuda.device_count()} × {about.name}, {about.total_memory / _GB:.0f} GB"
        return Check("device", "good", found)
    if device.type == "mps":
        return Check("device", "good", "Apple's GPU")
    found = f"CPU, {torch.get_num_threads()} threads"
    if why := why_no_cuda():
        return Check(
            "device",
            "limited",
            found + why,
            "install a driver for that CUDA, or a PyTorch for the driver's: https://pytorch.org/get-started",
        )
    return Check("device", "good", found)


def _precision(device: torch.device) -> Check:
    if has_bf16(device):
        return Check("precision", "good", "bf16, which the device has instructions for")
    return Check("precision", "limited", "fp32: no bf16 instructions are used here", "nothing; bf16 would be slower")


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def _disk(storage: Path) -> Check:
    place = _existing(storage)
    free = shutil.disk_usage(place).free
    found = f"{free / _GB:,.0f} GB free in {place}"
    if free >= _LITTLE_DISK:
        return Check("disk", "good", found)
    fix = "free some space, or put storage elsewhere: run.root, data.root, --storage"
    return Check("disk", "limited", found, fix)


def _storage(storage: Path) -> Check:
    place = _existing(storage)
    if not (place.is_dir() and os.access(place, os.W_OK)):
        return Check("storage", "bad", f"{place} cannot be written", "choose another folder: --storage, run.root")
    made = {
        kind: sorted(file.parent.name for file in (storage / kind).glob(f"*/{MANIFEST}"))
        for kind in ("datasets", "models")
    }
    runs = len([*(storage / "runs").glob("**/run.json")])
    found = f"{', '.join(made['datasets']) or 'no dataset'}; {len(made['models'])} models, {runs} runs in {storage}"
    fix = "" if made["datasets"] else "`wmtp data` prepares datasets; `micro` needs no network"
    return Check("storage", "good" if made["datasets"] else "limited", found, fix)


def _token() -> Check:
    read_token(Path(".env"))
    if get_token():
        return Check("hub token", "good", "there is one; the hub was not asked whether it is accepted")
    fix = "put HF_TOKEN=… in .env, or log in with `hf auth login`"
    return Check("hub token", "limited", "none: public downloads work, gated models and `models push` do not", fix)


def _extras() -> Check:
    extras: tuple[Extra, ...] = get_args(Extra)
    missing = [extra for extra in extras if not has(extra)]
    found = ", ".join(extra for extra in extras if has(extra)) or "none"
    return Check("extras", "limited" if missing else "good", found, "; ".join(map(install, missing)))
