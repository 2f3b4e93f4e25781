"""From a prepared dataset and a model to configurations that fit them: reference, critic, policy, and a study of all.

    uv run wmtp data --import problems.jsonl --name mine
    uv run wmtp recipe mine --model HuggingFaceTB/SmolLM2-135M-Instruct   # or: --model micro

What depends on the data (lengths, steps, whether there are pairs and tests) is measured; the rest is the recipe of
`configs/`, said in each file. They are a start to be changed, not the best there is.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import PreTrainedTokenizerBase

from weighted_mtp.data.preparation.prepare import prepare_embedded
from weighted_mtp.data.preparation.registry import MICRO, TRAIN
from weighted_mtp.data.prepared import require_manifest
from weighted_mtp.data.prompts import encode_solutions
from weighted_mtp.data.tables import read_problems, read_verdicts, stream_solutions, untested
from weighted_mtp.data.template import Template
from weighted_mtp.errors import UserError
from weighted_mtp.files import atomic_file
from weighted_mtp.models.adapters import holds_adapters
from weighted_mtp.models.build import MICRO_SOURCE, ModelConfig
from weighted_mtp.models.checkpoint import load_tokenizer, read_config
from weighted_mtp.models.convert import find_model

_LARGE = 60_000_000  # bytes of weights from which adapters are trained instead of everything
_LONGEST, _LEAST_TOKENS = 2048, 2048  # of a sample; of a microbatch
_MEASURED = 2000  # solutions
_EPOCHS, _FEWEST, _MOST = 3, 20, 2000  # of the data; optimizer steps
_HEADS = 4


@dataclass(frozen=True)
class Facts:
    """What the configurations depend on.

    splits    those the dataset has
    samples   correct programs of the training split
    pairs     of the training split
    longest   tokens of the longest sample among those that were measured; `typical` of the middle one
    """

    dataset: str
    storage: Path
    model: str
    template: Template
    is_large: bool
    splits: tuple[str, ...]
    has_tests: bool
    samples: int
    pairs: int
    can_validate_pairs: bool
    longest: int
    typical: int

    @property
    def max_length(self) -> int:
        return min(_LONGEST, max(64, -(-self.longest // 64) * 64))

    def steps(self, samples: int) -> int:
        """Optimizer steps of some epochs, a microbatch each."""
        batch = max(1, _LEAST_TOKENS // max(1, self.typical))
        return min(_MOST, max(_FEWEST, math.ceil(_EPOCHS * samples / batch)))


def gather(dataset: str, model: str, storage: Path) -> Facts:
    """Look at the dataset and at the model's tokenizer and size; a hub's model is fetched, `micro`'s tokenizer made.

    Raises UserError for a dataset that is not prepared or has no correct program to learn from, and for what
    `find_model` refuses.
    """
    folder = storage / "datasets" / dataset
    manifest = require_manifest(folder)
    splits = tuple(manifest["splits"])
    if manifest["splits"].get(TRAIN, {}).get("correct", 0) == 0:
        raise UserError(f"{folder}: no correct program in its split {TRAIN}, so there is nothing to learn from")
    tokenizer, is_large = _model(model, storage)
    template = _template(tokenizer)
    verdicts = [(problem, is_correct) for problem, is_correct in read_verdicts(folder / TRAIN)]
    lengths = _lengths(folder / TRAIN, tokenizer, template, min(_MEASURED, len(verdicts)))
    return Facts(
        dataset,
        storage,
        model,
        template,
        is_large,
        splits,
        "test" in splits and not untested(folder / "test"),
        sum(is_correct for _, is_correct in verdicts),
        _pairs(verdicts),
        "validation" in splits and _pairs(read_verdicts(folder / "validation")) > 0,
        int(lengths.max()),
        int(np.median(lengths)),
    )


def _model(model: str, storage: Path) -> tuple[PreTrainedTokenizerBase, bool]:
    """A model's tokenizer, and whether adapters are trained instead of all of it."""
    if model == MICRO_SOURCE:
        prepare_embedded(MICRO, root=storage / "datasets")
        return load_tokenizer(_micro_tokenizer(storage)), False
    path = find_model(model)
    if path.is_file():
        return load_tokenizer(path.parent, gguf_file=path.name), _bytes_of_weights(path) >= _LARGE
    if read_config(path).get("n_future_tokens", 1) > 1:
        raise UserError(
            f"--model {model}: a policy with several heads, and the reference needs a plain causal LM: give the model "
            f"it was made from, `micro`, or what `wmtp models export {model} OUTPUT` writes"
        )
    return load_tokenizer(path), holds_adapters(path) or _bytes_of_weights(path) >= _LARGE


def _micro_tokenizer(storage: Path) -> Path:
    return storage / "datasets" / MICRO / "tokenizer"


def _pairs(verdicts: Iterable[tuple[str, bool]]) -> int:
    """Pairs of a correct and an incorrect program for one problem, each program in one."""
    labels = Counter((problem, bool(is_correct)) for problem, is_correct in verdicts)
    return sum(min(labels[problem, True], labels[problem, False]) for problem in {problem for problem, _ in labels})


def _template(tokenizer: PreTrainedTokenizerBase) -> Template:
    """The model's own where it has one; a micro model's few thousand tokens would spell alpaca's text out."""
    if tokenizer.chat_template:
        return "chat"
    return "alpaca" if len(tokenizer) > 10_000 else "plain"


def _lengths(split: Path, tokenizer: PreTrainedTokenizerBase, template: Template, most: int) -> np.ndarray:
    """Tokens of each of the first samples."""
    samples = encode_solutions(tokenizer, template, read_problems(split), stream_solutions(split, range(most)))
    return np.asarray([len(example.input_ids) for _, example in samples])


def _bytes_of_weights(path: Path) -> int:
    files = [path] if path.is_file() else [f for end in ("*.safetensors", "*.bin") for f in path.glob(end)]
    return sum(file.stat().st_size for file in files)


def configurations(facts: Facts) -> dict[str, tuple[str, dict[str, Any]]]:
    """File name → what its comment says, and its options; without pairs no critic and what it weights, without tests no
    study."""
    found = {"reference": _reference(facts), "baseline": _baseline(facts)}
    if facts.pairs:
        found |= {"critic": _critic(facts), "policy": _policy(facts)}
    if facts.has_tests:
        found["study"] = _study(facts)
    return found


def _common(facts: Facts, name: str, steps: int) -> dict[str, Any]:
    return {
        "run": {"name": f"{facts.dataset}/{name}", "root": str(facts.storage / "runs")},
        "data": {
            "root": str(facts.storage / "datasets"),
            "dataset": facts.dataset,
            "template": facts.template,
            "max_length": facts.max_length,
            "max_tokens": max(_LEAST_TOKENS, facts.max_length),
            **({} if "validation" in facts.splits else {"validation": None}),
        },
        "training": {"max_steps": steps, "validate_every": max(1, steps // 4), "save_every": max(1, steps // 2)},
        "mlflow": {"tracking_uri": f"sqlite:///{facts.storage / 'mlflow.db'}"},
    }


def _source(facts: Facts) -> dict[str, Any]:
    """The model, as options of the `model:` section."""
    if facts.model != MICRO_SOURCE:
        return {"source": facts.model}
    tokenizer = _micro_tokenizer(facts.storage)
    is_usual = tokenizer == ModelConfig().micro_tokenizer
    return {"source": MICRO_SOURCE, **({} if is_usual else {"micro_tokenizer": str(tokenizer)})}


def _optim(facts: Facts, large: float, small: float, steps: int) -> dict[str, Any]:
    return {"lr": large if facts.is_large else small, "warmup_steps": max(1, min(20, steps // 10))}


def _reference(facts: Facts) -> tuple[str, dict[str, Any]]:
    steps = facts.steps(facts.samples)
    adapters = {"lora": {"r": 16, "alpha": 32}} if facts.is_large else {}
    return "The reference, next token only: critics start from it.", {
        "pipeline": "ref_tuning",
        **_common(facts, "reference", steps),
        "model": {**_source(facts), "n_future_tokens": 1, **adapters},
        "optim": _optim(facts, 2e-4, 1e-3, steps),
    }


def _baseline(facts: Facts) -> tuple[str, dict[str, Any]]:
    steps = facts.steps(facts.samples)
    adapters = {"lora": {"r": 16, "alpha": 32, "full_heads": True}} if facts.is_large else {}
    return "All tokens weighted equally: what a weighting is compared with. Extra heads leave the trunk alone.", {
        "pipeline": "baseline",
        **_common(facts, "baseline", steps),
        "model": {**_source(facts), "n_future_tokens": _HEADS, **adapters},
        "loss": {"detach_extra_heads": True},
        "optim": _optim(facts, 2e-4, 1e-3, steps),
    }


def _critic(facts: Facts) -> tuple[str, dict[str, Any]]:
    steps = facts.steps(2 * facts.pairs)
    common = _common(facts, "critic", steps)
    few = facts.pairs < 1000
    if few:
        common["data"]["pairs"] = {"length_balanced": False}
    if not facts.can_validate_pairs:
        common["data"]["validation"] = None
    why = " Of so few programs hardly any are of one length, so pairs are of any (data.pairs)." if few else ""
    return f"The critic, on pairs of correct and incorrect programs; starts from the reference.{why}", {
        "pipeline": "critic",
        **common,
        "value": {
            "source": str(facts.storage / "runs" / facts.dataset / "reference"),
            **({"backbone": "lora"} if facts.is_large else {}),
        },
        "critic": {"objective": "implicit"},
        "optim": _optim(facts, 2e-4, 5e-4, steps),
    }


def _policy(facts: Facts) -> tuple[str, dict[str, Any]]:
    return (
        "The baseline with a critic's token weights, times the policy's own confidence. A critic of few pairs is "
        "not trusted with taking weight away (weighting.w_min).",
        {
            "extends": "baseline.yaml",
            "pipeline": "verifiable",
            "run": {"name": f"{facts.dataset}/policy"},
            "critic": str(facts.storage / "runs" / facts.dataset / "critic"),
            "loss": {"confidence": "each_head"},
            **({"weighting": {"w_min": 1.0}} if facts.pairs < 1000 else {}),
        },
    )


def _study(facts: Facts) -> tuple[str, dict[str, Any]]:
    stages = {
        "reference": {"pipeline": "ref_tuning", "config": "reference.yaml"},
        "critic": {"pipeline": "critic", "config": "critic.yaml", "override": {"value": {"source": "${reference}"}}},
    }
    baseline = {"pipeline": "baseline", "config": "baseline.yaml"}
    weighted = {"pipeline": "verifiable", "config": "policy.yaml"}
    arms: dict[str, Any] = {
        "uniform": baseline,
        "confidence": {**baseline, "override": {"loss": {"confidence": "each_head"}}},
    }
    if facts.pairs:
        critic = {"critic": "${critic}"}
        arms["weighted"] = {**weighted, "override": critic, "against": "shuffled"}
        arms["shuffled"] = {**weighted, "override": {**critic, "control": "shuffled"}, "against": "confidence"}
    return "All of it over two seeds, compared on the test split, with the weights shuffled as a control.", {
        "name": f"{facts.dataset}-study",
        "storage": str(facts.storage),
        "benchmark": facts.dataset,
        "seeds": [0, 1],
        **({"stages": stages} if facts.pairs else {}),
        "arms": arms,
        "sampling": {"n_samples": 4, "temperature": 0.8, "max_new_tokens": facts.max_length},
    }


def write_recipe(facts: Facts, target: Path) -> list[Path]:
    """Write the configurations to a folder. Raises UserError for a file that is there and was changed."""
    texts = {
        target / f"{name}.yaml": _wrapped(comment) + yaml.safe_dump(options, sort_keys=False)
        for name, (comment, options) in configurations(facts).items()
    }
    for file, text in texts.items():
        if file.exists() and file.read_text(encoding="utf-8") != text:
            raise UserError(f"{file} is there with other content: give another --output, or move it away")
    for file, text in texts.items():
        with atomic_file(file) as partial:
            partial.write_text(text, encoding="utf-8")
    return list(texts)


def commands(facts: Facts, target: Path) -> list[str]:
    """What to run, in order, and what is missing for the rest."""
    runs = facts.storage / "runs" / facts.dataset
    lines = [f"wmtp train ref-tuning --config {target}/reference.yaml"] if facts.pairs else []
    trained = "policy" if facts.pairs else "baseline"
    if facts.pairs:
        lines += [f"wmtp train critic --config {target}/critic.yaml"]
    lines += [f"wmtp train {'verifiable' if facts.pairs else 'baseline'} --config {target}/{trained}.yaml"]
    if facts.has_tests:
        root = "" if facts.storage == Path("storage") else f" --data-root {facts.storage / 'datasets'}"
        output = facts.storage / "evaluations" / facts.dataset
        lines += [
            f"wmtp evaluate --checkpoint {runs / trained} --benchmark {facts.dataset} --output {output}{root}",
            f"wmtp study --config {target}/study.yaml   # instead: all arms, over seeds, compared",
        ]
    else:
        lines += [
            '# no evaluation, no study: no problem has `"split": "test"` and `tests`; give some both, import again'
        ]
    return lines if facts.pairs else [*lines, "# no critic: no problem of the split `train` has `incorrect` programs"]


def _wrapped(comment: str) -> str:
    words, lines = comment.split(), ["#"]
    for word in words:
        if len(lines[-1]) + len(word) > 118:
            lines.append("#")
        lines[-1] += f" {word}"
    return "\n".join(lines) + "\n"
