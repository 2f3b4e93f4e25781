"""How completions are drawn, and where: the `sampling:` and `server:` sections."""

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from weighted_mtp.errors import UserError
from weighted_mtp.section import Flag, Section

Draft = Literal["heads", "none"]
EngineName = Literal["torch", "vllm"]
"""What draws from a model folder: this process with torch, or vLLM on the plain export."""
SampledDtype = Literal["float32", "bfloat16"]
"""Precision of the weights of a model that is sampled."""


class SamplingConfig(Section):
    """How completions are drawn."""

    max_new_tokens: int = Field(256, ge=1)
    """Longest completion; shorter where prompt and completion would outgrow the model's context."""
    temperature: float = Field(0.0, ge=0)
    """0 takes the likeliest token; else logits are divided by it."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw from the fewest likeliest tokens whose probabilities sum to this."""
    n_samples: Annotated[int, Flag("n", "n-samples")] = Field(1, ge=1)
    """Completions of each prompt."""
    batch_size: int = Field(64, ge=1)
    """Completions decoded together, or requests to a server at a time. Changes no result."""
    seed: int = Field(0, ge=0, lt=2**32)
    """With the prompt's number, the sample's and the position it determines every draw."""
    stop: tuple[str, ...] = ()
    """A completion ends before the first of these; a benchmark's own are added if a starter is continued."""
    draft: Draft | None = None
    """`heads`: a policy's further heads draft, which changes speed and no token; `none`: they do not. Default: where a
    batch is small enough, and as long as enough of their drafts are right to be faster."""

    @model_validator(mode="after")
    def _every_option_has_an_effect(self) -> "SamplingConfig":
        if self.temperature == 0 and self.top_p < 1:
            raise ValueError(f"top_p={self.top_p} has no effect at temperature=0; set temperature, or top_p=1")
        if self.temperature == 0 and self.n_samples > 1:
            raise ValueError(f"n_samples={self.n_samples} would be equal at temperature=0; set temperature")
        if "" in self.stop:
            raise ValueError("stop: an empty string would end every completion at once; remove it")
        return self


class ServerConfig(Section):
    """A server that completions come from."""

    base_url: str
    """Where its API begins, as `http://127.0.0.1:8000/v1`."""
    model: str | None = None
    """Its name for the model; where it serves only one, that one."""
    api_key_env: str | None = None
    """The environment variable that holds its key."""
    tokenizer: str | None = None
    """Folder or hub id: prompts of template `chat` are rendered with it and continued; without it the server's own chat
    template is used."""
    request_timeout: float = Field(600.0, gt=0)
    """Longest wait for an answer, the time in the server's queue included."""

    @field_validator("base_url")
    @classmethod
    def _is_an_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")):
            raise ValueError(f"{value} is no address; give one like http://127.0.0.1:8000/v1")
        return value.rstrip("/")

    def headers(self) -> dict[str, str]:
        """With the key, where there is one. Raises UserError if the variable is not set."""
        if self.api_key_env is None:
            return {}
        key = os.environ.get(self.api_key_env, "").strip()
        if not key:
            raise UserError(f"--api-key-env {self.api_key_env}: that environment variable is not set; export it")
        return {"Authorization": f"Bearer {key}"}
