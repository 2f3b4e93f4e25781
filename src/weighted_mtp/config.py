"""Configurations read and written: defaults → YAML (`extends:`) → `--override a.b=c`, validated, saved resolved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from weighted_mtp.configurations import beside
from weighted_mtp.errors import UserError, first_line
from weighted_mtp.section import Section, validated

T = TypeVar("T", bound=Section)
Override = str | Mapping[str, Any]
"""`a.b=value`, as it is typed, or options nested as in a file."""


def load_config(schema: type[T], path: Path | None, overrides: Sequence[Override] = ()) -> T:
    """Read `path` (or nothing but the defaults), merge what it extends and `overrides`, and check it.

    Raises `UserError` for a missing or broken file, a circular `extends`, an unknown key (with the nearest known
    one), a wrong type or a failed check: always one line that names the option.
    """
    return validated(schema, read_options(path, overrides, schema.interpolated), f"{path or 'configuration'}: ")


def read_options(path: Path | None, overrides: Sequence[Override] = (), resolve: bool = True) -> dict[str, Any]:
    """What `path`, what it extends and `overrides` say, merged, not checked. Raises `UserError` as `load_config`.

    resolve  whether `${name}` is replaced by what the option of that name says
    """
    merged = _read_with_bases(path, ()) if path else OmegaConf.create()
    for override in overrides:
        if isinstance(override, str):
            merged = _merge(merged, _parse_override(override), f"--override {override}")
        else:
            merged = _merge(merged, OmegaConf.create(dict(override)), f"{path}")
    try:
        return cast(dict[str, Any], OmegaConf.to_container(merged, resolve=resolve))
    except OmegaConfBaseException as error:
        raise UserError(f"{path}: {_about(error)}") from error


def filled(options: Mapping[str, Any], values: Mapping[str, str]) -> dict[str, Any]:
    """Nested options with `${name}` replaced by `values[name]`. Raises `UserError` for what cannot be replaced."""
    try:
        tree = OmegaConf.create(dict(options), parent=OmegaConf.create(dict(values)))
        return cast(dict[str, Any], OmegaConf.to_container(tree, resolve=True))
    except OmegaConfBaseException as error:
        raise UserError(_about(error)) from error


def _about(error: OmegaConfBaseException) -> str:
    """What OmegaConf says, with the option that it says it of."""
    return f"`{error.full_key}`: {first_line(error)}" if error.full_key else first_line(error)


def save_config(config: Section, path: Path) -> None:
    """Write the resolved configuration as YAML that `load_config` reads back to an equal object."""
    path.write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def _read_with_bases(path: Path, children: tuple[Path, ...]) -> DictConfig:
    if path.resolve() in children:
        raise UserError(f"{path}: `extends` goes in a circle: {' → '.join(str(c) for c in (*children, path))}")
    config = _read_yaml(path)
    base = config.pop("extends", None)
    if base is None:
        return config
    if not isinstance(base, str):
        raise UserError(f"{path}: `extends` must be the path of one YAML file, not {base!r}")
    inherited = _read_with_bases(beside(path.parent, Path(base)), (*children, path.resolve()))
    for name in config:
        if config[name] is None and isinstance(inherited.get(name), DictConfig):
            raise UserError(
                f"{path}: `{name!s}` is empty, which would drop that of {base}: give an option of it, or none"
            )
    return _merge(inherited, config, str(path))


def _read_yaml(path: Path) -> DictConfig:
    try:
        config = OmegaConf.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such configuration file; `wmtp configs list` shows those there are") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{path}:{where} is not valid YAML: {getattr(error, 'problem', None) or error}") from error
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a YAML text file ({error})") from error
    except OmegaConfBaseException as error:  # a `${` that nothing closes
        raise UserError(f"{path}: {_about(error)}") from error
    if not isinstance(config, DictConfig):
        raise UserError(f"{path}: must hold options (`key: value`), not a list")
    return config


def _parse_override(override: str) -> DictConfig:
    key, equals, _ = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--override {override}: must have the form a.b=value, for example training.max_steps=100")
    try:
        return OmegaConf.from_dotlist([override])
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise UserError(f"--override {override}: {first_line(error)}") from error


def _merge(base: DictConfig, changes: DictConfig, where: str) -> DictConfig:
    try:
        merged = OmegaConf.merge(base, changes)
    except (OmegaConfBaseException, TypeError, ValueError) as error:  # a list where a section was, and so on
        raise UserError(f"{where}: {first_line(error)}") from error
    assert isinstance(merged, DictConfig)
    return merged
