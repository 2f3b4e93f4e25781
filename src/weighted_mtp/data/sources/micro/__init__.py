"""The micro benchmark: problems whose every decisive token is known, generated from a seed."""

from weighted_mtp.data.sources.micro.dataset import write_micro
from weighted_mtp.data.sources.micro.generator import MicroConfig, generate_micro
from weighted_mtp.data.sources.micro.tokenizer import train_tokenizer

__all__ = ["MicroConfig", "generate_micro", "train_tokenizer", "write_micro"]
