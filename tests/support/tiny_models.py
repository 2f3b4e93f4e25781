"""Tiny random causal LMs of each architecture, and a tokenizer, for tests of models and decoding."""

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

torch.set_num_threads(1)  # handing work to a second thread costs more than work this small

VOCABULARY = 257  # every byte, and the end of the text
END = 256
WINDOW = 6  # sliding attention, shorter than the sequences of the tests

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "bos_token_id": None,
    "eos_token_id": END,
    "pad_token_id": None,
    "initializer_range": 0.2,  # large enough that greedy decoding does not repeat one token
}
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8}

ARCHITECTURES: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "llama_tied": LlamaConfig(**GROUPED, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=WINDOW),
    "gemma": GemmaConfig(**GROUPED),
    "gemma2": Gemma2Config(**GROUPED, sliding_window=WINDOW, final_logit_softcapping=2.0),
    "gemma3": Gemma3TextConfig(**GROUPED, sliding_window=WINDOW),
    "phi": PhiConfig(**SIZES),
}


def tiny_model(architecture: str = "llama", seed: int = 0) -> PreTrainedModel:
    """A base model drawn at random, in eval mode and fp32."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(ARCHITECTURES[architecture]).eval()


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte of UTF-8 (so that any text round-trips and characters straddle tokens), and `<end>`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def padded_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (2, 11) and a mask of which the second row has 7 tokens, padded on the right."""
    ids = torch.randint(0, VOCABULARY, (2, 11), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, 7:] = False
    return ids, mask


def letter_tokenizer() -> PreTrainedTokenizerFast:
    """A letter of its own for every token: whatever a random model says, equal texts are equal tokens."""
    letters = {chr(0x4E00 + i): i for i in range(END)}
    tokenizer = Tokenizer(models.BPE(vocab=letters, merges=[]))
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")
