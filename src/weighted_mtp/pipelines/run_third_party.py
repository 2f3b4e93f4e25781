"""A token weighting of your own, by import path, or another package's, by entry point (`value_weighting/plugins.py`).

    PYTHONPATH=src python src/weighted_mtp/pipelines/run_third_party.py --config FILE
    torchrun --nproc_per_node=8 -m weighted_mtp.pipelines.run_third_party --config FILE
    … --override token_weighting=my_package.module:MyWeighting --override options.temperature=0.5

Stopped by Ctrl-C, SIGTERM or a crash, the same command resumes from the newest checkpoint.
"""

from pathlib import Path
from typing import Any, ClassVar, Literal

import typer
from transformers import PreTrainedTokenizerBase

from weighted_mtp.errors import UserError
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.pipelines.policy import PolicyConfig, train_policy
from weighted_mtp.value_weighting.base import TokenWeighting
from weighted_mtp.value_weighting.plugins import weighting_named


class ThirdPartyConfig(PolicyConfig):
    """All options of a run with a token weighting of your own or of another package."""

    pipeline: Literal["third_party"] = "third_party"
    token_weighting: str
    """The weighting: an import path `module:Class`, of a file in the current folder or of a package, or a name that an
    installed package gives it (entry point of `weighted_mtp.token_weightings`)."""
    options: dict[str, Any] = {}  # noqa: RUF012  # pydantic copies it
    """Keyword arguments of the weighting, after the policy."""
    gives_credit: ClassVar[bool] = True


def run_third_party(config: ThirdPartyConfig) -> Path | None:
    """Train with the weighting that `config` names; returns the run's folder, None if it was stopped.

    Raises UserError for a weighting that is not found, and for options that it does not take.
    """
    factory = weighting_named(config.token_weighting)

    def weighting(policy: MTPForCausalLM, _tokenizer: PreTrainedTokenizerBase) -> TokenWeighting:
        try:
            return factory(policy, **config.options)
        except TypeError as error:
            raise UserError(f"options of {config.token_weighting}: {error}; see its package's documents") from error

    return train_policy(config, weighting)


if __name__ == "__main__":
    from weighted_mtp.pipelines.commands.train import third_party

    typer.run(third_party)
