"""What is sampled, and how: the options that `wmtp evaluate` and `wmtp generate` share."""

import datetime
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from weighted_mtp.config import Section
from weighted_mtp.data.prompts import Template, names_a_date
from weighted_mtp.decoding.engine import EngineName
from weighted_mtp.decoding.sample import SamplingConfig
from weighted_mtp.decoding.server import ServerConfig
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.respondents import Respondent, load_respondent, served_respondent, vllm_respondent
from weighted_mtp.models.convert import find_model
from weighted_mtp.runtime.device import RuntimeConfig, pick_device
from weighted_mtp.runtime.distributed import by_first_rank


class SampledModel(Section):
    """A model that this process or vLLM samples, or a server that has one."""

    checkpoint: str | None = None
    """A run, a checkpoint, a model folder, a .gguf file or a hub id."""
    engine: EngineName = "torch"
    """What draws from the checkpoint: this process with torch, the reference, or vLLM on the plain export."""
    server: ServerConfig | None = None
    """Or a server that completions are asked of."""
    template: Template | None = None
    """How a problem is asked. Default: as the run was trained, else `chat` if the tokenizer can, else `alpaca`."""
    date: datetime.date | None = None
    """What a chat template takes for today, where it names a date. Default: what the run's training took, else the day
    on which the evaluation started."""
    sampling: SamplingConfig = SamplingConfig()
    dtype: Literal["float32", "bfloat16"] = "float32"
    runtime: RuntimeConfig = RuntimeConfig()

    @model_validator(mode="after")
    def _the_servers_options_have_an_effect(self) -> Self:
        if self.server is None:
            return self
        if given := sorted({"dtype", "engine", "runtime"} & self.model_fields_set):
            raise ValueError(
                f"{flag(given[0])} has no effect with --base-url: the server decides; set it where it is started"
            )
        if self.server.tokenizer is not None and self.template not in (None, "chat"):
            raise ValueError(
                f"--tokenizer has no effect with --template {self.template}, a text that the server tokenizes; leave "
                "it out"
            )
        if self.date is not None and self.server.tokenizer is None:
            raise ValueError("--date has no effect: the server renders prompts; give --tokenizer, or leave it out")
        return self

    @model_validator(mode="after")
    def _only_this_process_drafts(self) -> Self:
        if self.sampling.draft is not None and (self.server is not None or self.engine != "torch"):
            raise ValueError(
                f"--draft {self.sampling.draft} has no effect with --base-url or --engine {self.engine}: only this "
                "process' own engine drafts with a policy's heads; leave it out"
            )
        return self

    def find(self) -> Path | None:
        """The checkpoint's model folder or `.gguf` file, for all ranks; None of a server. Raises as `find_model`."""
        source = self.checkpoint
        return None if source is None else by_first_rank(lambda: find_model(source))

    @contextmanager
    def respondent(self, model: Path | None, day: datetime.date | None, scratch: Path) -> Iterator[Respondent]:
        """What is asked, for as long as it is.

        model    what `find` returned
        scratch  folder for what vLLM reads, made if it is missing

        Raises UserError for whatever keeps the model from being sampled, and for a `date` that no prompt names.
        """
        if self.server is not None:
            yield self._dated(served_respondent(self.server, self.template, day))
            return
        assert model is not None
        if self.engine == "torch":
            yield self._dated(load_respondent(model, self.template, self.dtype, pick_device(self.runtime), day))
            return
        batch_size = self.sampling.batch_size
        with vllm_respondent(model, self.template, self.dtype, batch_size, scratch, day) as respondent:
            yield self._dated(respondent)

    def _dated(self, respondent: Respondent) -> Respondent:
        tokenizer = respondent.tokenizer
        if self.date is not None and (tokenizer is None or not names_a_date(respondent.template, tokenizer)):
            source = self.checkpoint or (self.server.tokenizer if self.server is not None else None)
            raise UserError(
                f"--date {self.date} has no effect: the {respondent.template} template of {source} names no date; "
                "leave it out"
            )
        return respondent

    @property
    def described(self) -> str:
        """What draws, at how many at a time."""
        size = self.sampling.batch_size
        if self.server is not None:
            return f"{self.server.base_url}, {size} requests at a time"
        return f"{self.dtype} on {'vLLM' if self.engine == 'vllm' else pick_device(self.runtime)}, {size} at a time"


def flag(field: str) -> str:
    """An option as it is typed."""
    names = {"n_samples": "n", "runtime": "device"}
    return "--" + names.get(field, field).replace("_", "-")
