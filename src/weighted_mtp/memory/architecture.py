"""A model's architecture without its weights: what memory is planned from."""

from pathlib import Path
from typing import cast

from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PreTrainedConfig

from weighted_mtp.errors import UserError, first_line
from weighted_mtp.models.checkpoint import READ_ERRORS, quiet, read_config
from weighted_mtp.models.mtp import MTPConfig, MTPForCausalLM
from weighted_mtp.models.value import ValueModelConfig

# The catalogue's models, as their publishers describe them.
_KNOWN: dict[str, PreTrainedConfig] = {
    "meta-llama-mtp": MTPConfig(
        base_config=LlamaConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=29, num_attention_heads=32
        ),
        n_future_tokens=4,
    ),
    "ref-sheared-llama": LlamaConfig(
        vocab_size=32000, hidden_size=2560, intermediate_size=6912, num_hidden_layers=32, num_attention_heads=20
    ),
}


def stored_architecture(source: str) -> PreTrainedConfig:
    """The architecture of a model folder, or of a model of the catalogue that is not set up yet
    (`storage/models/<name>`).

    Raises UserError if there is neither.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir() and folder.name in _KNOWN:
        return _KNOWN[folder.name]
    read_config(folder)
    with quiet():
        try:
            return AutoConfig.from_pretrained(folder)
        except READ_ERRORS as error:
            raise UserError(f"{folder / 'config.json'}: describes no model ({first_line(error)})") from error


def plain_architecture(config: PreTrainedConfig) -> PreTrainedConfig:
    """The architecture of the causal LM that a policy's trunk and head 1 are, or that is under a value head."""
    return cast(PreTrainedConfig, config.base_config) if isinstance(config, MTPConfig | ValueModelConfig) else config


def policy_of(config: PreTrainedConfig, heads: int) -> MTPForCausalLM:
    """A policy of this architecture with this many heads, on torch's default device.

    Raises UserError for an architecture that cannot have heads.
    """
    try:
        policy = AutoModelForCausalLM.from_config(
            MTPConfig(base_config=plain_architecture(config), n_future_tokens=heads)
        )
    except UserError:
        raise
    except READ_ERRORS as error:
        raise UserError(f"a {config.model_type} model is no causal LM to put heads on: {first_line(error)}") from error
    return cast(MTPForCausalLM, policy)
