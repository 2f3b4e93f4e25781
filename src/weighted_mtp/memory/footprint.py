"""How much memory a training step takes, found without weights, data or the machine it is for.

The model is built of shapes only and one microbatch is passed through it, forward and backward, by the code that
trains: every tensor that this makes is counted until it is freed. So activations, logits and temporaries are those of
the model's own architecture, precision, adapters and activation checkpointing. What ranks share (parameters, gradients,
optimizer states) is counted, not simulated: `memory.layout` puts both together.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, cast
from weakref import finalize

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import PreTrainedModel

from weighted_mtp.data.batches import Batch
from weighted_mtp.losses.mtp_loss import LossConfig, mtp_loss
from weighted_mtp.losses.token_ce import next_token_cross_entropies
from weighted_mtp.models.mtp import MTPForCausalLM
from weighted_mtp.models.value import ValueModel

FP32 = 4  # bytes of a parameter, a gradient and each of Adam's two states: all stay in fp32


@dataclass(frozen=True)
class Microbatch:
    """The largest that `data.max_tokens` allows: rows of full length, every token one of a response."""

    rows: int
    length: int


@dataclass(frozen=True)
class Weights:
    """How many parameters a model has, and how they are gathered when ranks share them.

    root, root_trained    those outside of all parts: embeddings, final norm, unembedding or value head
    part, part_trained    those of the largest part, a decoder layer or head
    """

    total: int
    trained: int
    root: int
    root_trained: int
    part: int
    part_trained: int


@dataclass(frozen=True)
class PassMemory:
    """Bytes of one microbatch's forward and backward, beside the parameters.

    kept     what backward needs of the forward, and the states that the loss starts from
    moments  gradient bytes of the parts so far → the most that there was of everything else meanwhile
    """

    kept: int
    moments: dict[int, int]

    @property
    def most(self) -> int:
        """The most at any moment, gradients of parts aside."""
        return max(self.moments.values())

    def most_with_gradients(self, shards: int) -> float:
        """The same with gradients that are spread over this many ranks as soon as they are there."""
        return max(gradients / shards + other for gradients, other in self.moments.items())


class MemoryCounter(TorchDispatchMode):
    """Counts the bytes of all tensors made while it is active, each until it is freed."""

    def __init__(self, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self._known = {p.untyped_storage()._cdata for p in parameters}
        self.now, self.gradients = 0, 0
        self.moments = {0: 0}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._note(tensor.untyped_storage())
        return result

    def _note(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        self.moments[self.gradients] = max(self.moments.get(self.gradients, 0), self.now)
        finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size

    def take_gradient(self, parameter: Tensor) -> None:
        """Count a finished gradient among the gradients, and let it go."""
        size = parameter.numel() * FP32
        parameter.grad = None
        self.gradients += size
        self.moments[self.gradients] = max(self.moments.get(self.gradients, 0), self.now)


def weights_of(model: PreTrainedModel) -> Weights:
    """Counts of a model's parameters; tied ones count once."""
    parts = [list(part.parameters()) for part in _parts(model)]
    everything = list(model.parameters())
    inside = {id(p) for part in parts for p in part}
    root = [p for p in everything if id(p) not in inside]
    return Weights(
        total=_count(everything),
        trained=_count(everything, trained=True),
        root=_count(root),
        root_trained=_count(root, trained=True),
        part=max(_count(part) for part in parts),
        part_trained=max(_count(part, trained=True) for part in parts),
    )


def _parts(model: PreTrainedModel) -> Sequence[nn.Module]:
    """What ranks that share a model gather one at a time: decoder layers, and each head."""
    return cast(MTPForCausalLM | ValueModel, model).parts_to_gather()


def _count(parameters: Sequence[Tensor], trained: bool = False) -> int:
    return sum(p.numel() for p in parameters if p.requires_grad or not trained)


@contextmanager
def on_meta(model: PreTrainedModel, parts_dtype: torch.dtype) -> Iterator[PreTrainedModel]:
    """A model on the meta device as one that computes with shapes, in place: its parts in a dtype, the rest in fp32."""
    in_parts = {id(p) for part in _parts(model) for p in part.parameters()}
    made: dict[int, Tensor] = {}
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in model.modules():
            for name, p in [*module._parameters.items(), *module._buffers.items()]:
                if p is None:
                    continue
                if id(p) not in made:
                    dtype = parts_dtype if id(p) in in_parts else p.dtype
                    empty = torch.empty(p.shape, dtype=dtype)
                    is_parameter = isinstance(p, nn.Parameter)
                    made[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad) if is_parameter else empty
                registry: Any = module._parameters if name in module._parameters else module._buffers
                registry[name] = made[id(p)]
        yield model


def training_pass(
    model: PreTrainedModel, batch: Microbatch, context: Callable[[], AbstractContextManager[object]], detach: bool
) -> PassMemory:
    """One microbatch forward and backward through a `on_meta` model: its loss is a policy's, or a value model's.

    detach  `loss.detach_extra_heads`
    """
    model.train()
    counter = MemoryCounter([*model.parameters(), *model.buffers()])
    inside = {id(p) for part in _parts(model) for p in part.parameters()}
    hooks = [
        p.register_post_accumulate_grad_hook(counter.take_gradient)
        for p in model.parameters()
        if p.requires_grad and id(p) in inside
    ]
    data = _data(batch, _heads(model))
    with counter:
        with context():
            states = _states(model, data, detach)
            kept = counter.now
            loss = states.sum() if isinstance(model, ValueModel) else _policy_loss(model, states, data)
        del states
        loss.backward()
    for hook in hooks:
        hook.remove()
    return PassMemory(kept, dict(counter.moments))


def inference_pass(
    model: PreTrainedModel, batch: Microbatch, context: Callable[[], AbstractContextManager[object]]
) -> int:
    """The most bytes at any moment while a frozen critic or reference judges a microbatch, beside its parameters."""
    model.eval()
    counter = MemoryCounter([*model.parameters(), *model.buffers()])
    data = _data(batch, _heads(model))
    with counter, torch.no_grad(), context():
        if isinstance(model, MTPForCausalLM):
            next_token_cross_entropies(model, data)
        else:
            model(data.input_ids)
    return max(counter.moments.values())


def _data(microbatch: Microbatch, heads: int) -> Batch:
    """Rows that are one response each, but for a prompt as long as the heads reach: real indices of fake states."""
    with unset_fake_temporarily():
        ids = torch.zeros(microbatch.rows, microbatch.length, dtype=torch.int64)
        everything = torch.ones_like(ids, dtype=torch.bool)
        response = everything.clone()
        response[:, :heads] = False
        return Batch(ids, everything, response, torch.arange(microbatch.rows), torch.zeros_like(ids, dtype=torch.uint8))


def _heads(model: PreTrainedModel) -> int:
    return model.config.n_future_tokens if isinstance(model, MTPForCausalLM) else 1


def _states(model: PreTrainedModel, data: Batch, detach: bool) -> Tensor:
    if isinstance(model, MTPForCausalLM):
        return model.head_states(data.input_ids, detach_extra=detach)
    assert isinstance(model, ValueModel)
    return model.scores(data.input_ids)


def _policy_loss(model: PreTrainedModel, states: Tensor, data: Batch) -> Tensor:
    assert isinstance(model, MTPForCausalLM)
    return mtp_loss(model, states, data, torch.ones(data.input_ids.shape), LossConfig()).loss
