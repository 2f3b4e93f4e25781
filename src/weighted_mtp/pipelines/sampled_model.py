"""The model or server that `wmtp evaluate` and `wmtp generate` sample."""

import datetime
from pathlib import Path

from weighted_mtp.data.prompts import names_a_date
from weighted_mtp.decoding.config import SampledDtype
from weighted_mtp.errors import UserError
from weighted_mtp.evaluation.respondents import Respondent, load_respondent, served_respondent, vllm_respondent
from weighted_mtp.models.convert import find_model
from weighted_mtp.pipelines.config import SampledModel
from weighted_mtp.runtime.device import has_bf16, pick_device
from weighted_mtp.runtime.distributed import by_first_rank


def sampled_folder(config: SampledModel) -> Path | None:
    """The checkpoint's model folder or `.gguf` file, for all ranks; None of a server. Raises as `find_model`."""
    source = config.checkpoint
    return None if source is None else by_first_rank(lambda: find_model(source))


def respondent_of(config: SampledModel, model: Path | None, day: datetime.date | None, scratch: Path) -> Respondent:
    """What is asked.

    model    what `sampled_folder` returned
    scratch  folder for what vLLM reads, made if it is missing

    Raises UserError for whatever keeps the model from being sampled, and for a `date` that no prompt names.
    """
    if config.server is not None:
        return _dated(config, served_respondent(config.server, config.template, day))
    assert model is not None
    if config.engine == "torch":
        device = pick_device(config.runtime)
        return _dated(config, load_respondent(model, config.template, sampled_dtype(config), device, day))
    size, arguments = config.sampling.batch_size, config.vllm_args
    of_vllm = vllm_respondent(model, config.template, sampled_dtype(config), size, scratch, day, arguments)
    return _dated(config, of_vllm)


def _dated(config: SampledModel, respondent: Respondent) -> Respondent:
    tokenizer = respondent.tokenizer
    if config.date is not None and (tokenizer is None or not names_a_date(respondent.template, tokenizer)):
        source = config.checkpoint or (config.server.tokenizer if config.server is not None else None)
        raise UserError(
            f"--date {config.date} has no effect: the {respondent.template} template of {source} names no date; "
            "leave it out"
        )
    return respondent


def sampled_dtype(config: SampledModel) -> SampledDtype:
    """The precision of a checkpoint's weights: what is given, else what suits the device."""
    if config.dtype is not None:
        return config.dtype
    device = pick_device(config.runtime)
    return "bfloat16" if device.type == "cuda" and has_bf16(device) else "float32"


def described(config: SampledModel) -> str:
    """What draws, at how many at a time."""
    size = config.sampling.batch_size
    if config.server is not None:
        return f"{config.server.base_url}, {size} requests at a time"
    where = "vLLM" if config.engine == "vllm" else pick_device(config.runtime)
    return f"{sampled_dtype(config)} on {where}, {size} at a time"
