"""Synthetic checkpoints in Meta's format, converted, computed, and exported again."""

import io
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import given
from hypothesis import strategies as st
from meta_reference import reference_logits
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from weighted_mtp.data.prompts import decode_response, encode_example
from weighted_mtp.errors import UserError
from weighted_mtp.models.convert import convert, export_plain
from weighted_mtp.models.meta import convert_meta, export_meta, is_meta_checkpoint
from weighted_mtp.models.meta_format import Weight
from weighted_mtp.models.meta_tokenizer import llama_tokenizer
from weighted_mtp.models.mtp import load_policy

VOCABULARY = 420
IDS = [1, 300, 17, 5, 410, 333, 290, 8, 100]
PARAMS = {
    "dim": 32,
    "n_layers": 6,
    "n_heads": 4,
    "n_kv_heads": 2,
    "vocab_size": -1,
    "multiple_of": 16,
    "norm_eps": 1e-4,
    "rope_theta": 500.0,
    "n_future_tokens": 4,
}
CODE = [
    "def solve(xs):\n    total = 0\n    for x in xs:\n        if x > 0:\n            total += x * x\n    return total"
]
TEXTS = [*CODE, "a  b   c    d\n\tindented by a tab\n\t\ttwice", "Write a response that completes the request.</s>"] * 8


def train_sentencepiece(file: Path, vocabulary: int = VOCABULARY, **changes: object) -> Path:
    """A SentencePiece model with the settings of Llama 2's."""
    options = {
        "model_type": "bpe",
        "byte_fallback": True,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "allow_whitespace_only_pieces": True,
        "character_coverage": 1.0,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=vocabulary, minloglevel=2, **options | changes
    )
    file.write_bytes(model.getvalue())
    return file


@pytest.fixture(scope="module")
def tokenizer_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model")


def random_state(params: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """A state dict as Meta names it."""
    generator = torch.Generator().manual_seed(0)
    dim, heads = params["dim"], params.get("n_future_tokens", 1)
    keys = dim // params["n_heads"] * (params.get("n_kv_heads") or params["n_heads"])
    width = -(-(8 * dim // 3) // params["multiple_of"]) * params["multiple_of"]
    blocks = [f"layers.{i}" for i in range(params["n_layers"] - heads + 1)]
    shapes = {"tok_embeddings": (VOCABULARY, dim), "norm": (dim,), "output": (VOCABULARY, dim)}
    for block in blocks + [f"extra_heads.{i}" for i in range(heads - 1)]:
        shapes |= {f"{block}.attention.{w}": (dim, dim) for w in ("wq", "wo")}
        shapes |= {f"{block}.attention.{w}": (keys, dim) for w in ("wk", "wv")}
        shapes |= {f"{block}.feed_forward.{w}": (width, dim) for w in ("w1", "w3")}
        shapes |= {f"{block}.feed_forward.w2": (dim, width)}
        shapes |= {f"{block}.{norm}": (dim,) for norm in ("attention_norm", "ffn_norm")}
    state = {}
    for name, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        state[f"{name}.weight"] = (1 + 0.3 * noise if noise.ndim == 1 else noise / dim**0.5).to(dtype)
    return state


def rope_freqs(params: dict) -> torch.Tensor:
    channels = params["dim"] // params["n_heads"]
    return 1.0 / params["rope_theta"] ** (torch.arange(0, channels, 2).float() / channels)


def write(folder: Path, params: dict, state: dict, tokenizer_model: Path) -> Path:
    """As in Meta's repository: a folder of weights and params, the tokenizer above it."""
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps(params))
    torch.save(state, folder / "consolidated.pth")
    (folder.parent / "tokenizer.model").write_bytes(tokenizer_model.read_bytes())
    return folder


@pytest.fixture
def source(tmp_path: Path, tokenizer_model: Path) -> Path:
    return write(tmp_path / "meta" / "7B_1T_4", PARAMS, random_state(PARAMS), tokenizer_model)


def policy_logits(folder: Path) -> torch.Tensor:
    """(H, T, V) in fp32."""
    model, _ = load_policy(folder, "float32")
    with torch.no_grad():
        return model.unembed(model.eval().head_states(torch.tensor([IDS])))[:, 0]


def largest_differences(folder: Path, state: dict, params: dict) -> list[float]:
    expected = reference_logits(state, params, IDS)
    found = policy_logits(folder)
    assert len(found) == len(expected)
    return [float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True)]


WITHOUT_GROUPS = {key: value for key, value in PARAMS.items() if key != "n_kv_heads"}
VARIANTS = {
    "grouped queries": PARAMS,
    "every query its own key": WITHOUT_GROUPS,
    "no vocab_size": {key: value for key, value in PARAMS.items() if key != "vocab_size"},
    "vocab_size and null": WITHOUT_GROUPS | {"vocab_size": VOCABULARY, "n_kv_heads": None, "ffn_dim_multiplier": None},
    "two heads": PARAMS | {"n_future_tokens": 2},
    "one head": PARAMS | {"n_future_tokens": 1},
    "defaults": {key: value for key, value in PARAMS.items() if key not in ("norm_eps", "rope_theta")},
}


@pytest.mark.parametrize("params", VARIANTS.values(), ids=list(VARIANTS))
def test_every_head_computes_what_the_complex_number_reference_does(
    params: dict, tmp_path: Path, tokenizer_model: Path
) -> None:
    state = random_state(params)
    convert_meta(write(tmp_path / "meta" / "x", params, state, tokenizer_model), tmp_path / "policy")
    differences = largest_differences(tmp_path / "policy", state, params)
    print("largest |logit difference| per head:", differences)
    assert len(differences) == params["n_future_tokens"]
    assert max(differences) < 1e-5


def test_the_reference_tells_heads_apart_that_were_not_permuted(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    permute = Weight.to_policy
    monkeypatch.setattr(
        Weight, "to_policy", lambda self, t: t if self.meta.startswith("extra_heads") else permute(self, t)
    )
    convert_meta(source, tmp_path / "policy")
    first, *others = largest_differences(tmp_path / "policy", random_state(PARAMS), PARAMS)
    assert first < 1e-5
    assert min(others) > 0.1


def test_rope_freqs_that_params_imply_are_ignored(tmp_path: Path, tokenizer_model: Path) -> None:
    state = random_state(PARAMS) | {"rope.freqs": rope_freqs(PARAMS)}
    convert_meta(write(tmp_path / "meta" / "x", PARAMS, state, tokenizer_model), tmp_path / "policy")
    assert max(largest_differences(tmp_path / "policy", state, PARAMS)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_the_stored_dtype_is_kept(dtype: torch.dtype, tmp_path: Path, tokenizer_model: Path) -> None:
    state = random_state(PARAMS, dtype) | {"rope.freqs": rope_freqs(PARAMS).to(dtype)}
    config = convert_meta(write(tmp_path / "meta" / "x", PARAMS, state, tokenizer_model), tmp_path / "policy")
    assert config.dtype == dtype
    assert load_policy(tmp_path / "policy")[0].dtype == dtype
    assert max(largest_differences(tmp_path / "policy", state, PARAMS)) < 1e-5


def test_a_tied_checkpoint_becomes_two_matrices(tmp_path: Path, tokenizer_model: Path) -> None:
    state = random_state(PARAMS)
    state["output.weight"] = state["tok_embeddings.weight"]
    convert_meta(write(tmp_path / "meta" / "x", PARAMS, state, tokenizer_model), tmp_path / "policy")
    assert max(largest_differences(tmp_path / "policy", state, PARAMS)) < 1e-5


def test_shards_hold_no_more_than_asked_and_load_as_one(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy", shard_bytes=100_000)
    files = sorted((tmp_path / "policy").glob("model-*.safetensors"))
    assert len(files) > 2
    assert all(sum(t.nbytes for t in tensors_of(file).values()) <= 100_000 for file in files)
    assert max(largest_differences(tmp_path / "policy", random_state(PARAMS), PARAMS)) < 1e-5


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def test_context_and_end_of_text_are_read_off_params_and_tokenizer(tmp_path: Path, tokenizer_model: Path) -> None:
    params = PARAMS | {"max_seq_len": 77}
    config = convert_meta(write(tmp_path / "m" / "x", params, random_state(params), tokenizer_model), tmp_path / "out")
    assert config.base_config.max_position_embeddings == 77
    model, tokenizer = load_policy(tmp_path / "out")
    assert (model.generation_config.eos_token_id, tokenizer.eos_token_id, tokenizer.eos_token) == (2, 2, "</s>")


def test_a_plain_model_of_the_trunk_and_head_1_is_exported(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    export_plain(tmp_path / "policy", tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.model_type == "llama"
    assert plain.config.num_hidden_layers == PARAMS["n_layers"] - (PARAMS["n_future_tokens"] - 1)
    with torch.no_grad():
        assert torch.equal(plain(torch.tensor([IDS])).logits[0], policy_logits(tmp_path / "policy")[0])
    text = "  def f():\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").encode(text) == [1, *pieces_of(source).encode(text)]


def pieces_of(source: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(source.parent / "tokenizer.model"))


# The way back.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("params", [PARAMS, WITHOUT_GROUPS | {"n_future_tokens": 1}], ids=["grouped", "one head"])
def test_export_gives_back_the_checkpoint_bit_for_bit(
    params: dict, dtype: torch.dtype, tmp_path: Path, tokenizer_model: Path
) -> None:
    state = random_state(params, dtype)
    convert_meta(
        write(tmp_path / "meta" / "x", params, state, tokenizer_model), tmp_path / "policy", shard_bytes=50_000
    )
    export_meta(tmp_path / "policy", tmp_path / "back")
    assert sorted(file.name for file in (tmp_path / "back").iterdir()) == [
        "consolidated.pth",
        "params.json",
        "tokenizer.model",
    ]
    back = torch.load(tmp_path / "back" / "consolidated.pth", weights_only=True)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], state[name]) and back[name].dtype == dtype for name in state)
    assert (tmp_path / "back" / "tokenizer.model").read_bytes() == tokenizer_model.read_bytes()


@pytest.mark.parametrize("multiple", [16, 256, 96, 100], ids="multiple_of={}".format)
def test_exported_params_convert_again_to_the_same_policy(multiple: int, tmp_path: Path, tokenizer_model: Path) -> None:
    params = PARAMS | {"multiple_of": multiple}
    convert_meta(write(tmp_path / "m" / "x", params, random_state(params), tokenizer_model), tmp_path / "policy")
    export_meta(tmp_path / "policy", tmp_path / "back")
    convert_meta(tmp_path / "back", tmp_path / "again")
    for name in ("config.json", "model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "policy" / name).read_bytes()


def test_an_exported_file_is_a_sound_archive(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    export_meta(tmp_path / "policy", tmp_path / "back")
    subprocess.run(["python3", "-m", "zipfile", "-t", tmp_path / "back" / "consolidated.pth"], check=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tie_word_embeddings": True}, "has tie_word_embeddings=true"),
        ({"attention_bias": True}, "has attention_bias=true"),
        ({"mlp_bias": True}, "has mlp_bias=true"),
        ({"hidden_act": "gelu"}, "has hidden_act=gelu"),
        ({"head_dim": 16}, "has head_dim=16"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}}, "has rope_type=linear"),
        ({"model_type": "qwen2"}, "a policy on qwen2"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_export_refuses_what_metas_format_has_no_place_for(
    change: dict, said: str, source: Path, tmp_path: Path
) -> None:
    convert_meta(source, tmp_path / "policy")
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    config["base_config"] |= change
    (tmp_path / "policy" / "config.json").write_text(json.dumps(config))
    one_line(f"policy: {said}.*export the plain model", export_meta, tmp_path / "policy", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def one_line(pattern: str, function: object, *arguments: object, **more: object) -> None:
    with pytest.raises(UserError, match=pattern) as caught:
        function(*arguments, **more)
    assert "\n" not in str(caught.value)


def test_export_of_a_plain_model_is_refused(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    export_plain(tmp_path / "policy", tmp_path / "plain")
    one_line("no prediction heads", export_meta, tmp_path / "plain", tmp_path / "back")


def test_export_without_a_sentencepiece_model_asks_for_one(source: Path, tmp_path: Path, tokenizer_model: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    (tmp_path / "policy" / "tokenizer.model").unlink()
    one_line(r"no tokenizer\.model.*--tokenizer", export_meta, tmp_path / "policy", tmp_path / "back")
    export_meta(tmp_path / "policy", tmp_path / "back", tokenizer=tokenizer_model)
    assert (tmp_path / "back" / "tokenizer.model").is_file()


def test_export_of_a_truncated_policy_is_one_line(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    truncate(tmp_path / "policy" / "model.safetensors")
    one_line(r"model\.safetensors: not to be read", export_meta, tmp_path / "policy", tmp_path / "back")


def test_export_of_a_policy_that_lacks_a_shard_is_one_line(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy", shard_bytes=100_000)
    max((tmp_path / "policy").glob("*.safetensors")).unlink()
    one_line(r"policy: lacks \d+ weights", export_meta, tmp_path / "policy", tmp_path / "back")


# The tokenizer.


@pytest.fixture(scope="module")
def tokenizer(tokenizer_model: Path, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    """Saved and loaded, as a policy's is."""
    folder = tmp_path_factory.mktemp("tokenizer")
    llama_tokenizer(tokenizer_model, VOCABULARY).save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


WORDS = [
    "def",
    " ",
    "  ",
    "    ",
    "\n",
    "\t",
    "solve",
    "(xs)",
    ":",
    "</s>",
    "<s>",
    "<unk>",
    "<0x0A>",
    "é",
    "中",
    "😀",
    "ﬁ",
]
programs = st.one_of(st.text(), st.lists(st.sampled_from(WORDS), max_size=12).map("".join)).filter(
    lambda text: text.isascii() or text.encode("utf-8", "ignore").decode() == text
)


@pytest.fixture(scope="module")
def pieces(tokenizer_model: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(tokenizer_model))


@given(text=programs)
def test_ids_are_sentencepieces_own(
    text: str, tokenizer: PreTrainedTokenizerBase, pieces: sentencepiece.SentencePieceProcessor
) -> None:
    assert tokenizer.encode(text, split_special_tokens=True) == [1, *pieces.encode(text)]


@given(text=programs.filter(lambda text: "▁" not in text))
def test_white_space_of_programs_survives(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    sample = encode_example(tokenizer, "Task:\n", text)
    assert sample.input_ids[0] == tokenizer.bos_token_id
    assert sample.input_ids.count(tokenizer.eos_token_id) == 1
    prompt, response = sample.input_ids[: sample.response_start], sample.input_ids[sample.response_start :]
    assert decode_response(tokenizer, prompt, response) == text


@pytest.mark.parametrize(
    "changes",
    [
        {"model_type": "unigram"},
        {"normalization_rule_name": "nmt_nfkc"},
        {"remove_extra_whitespaces": True},
        {"byte_fallback": False},
        {"add_dummy_prefix": False},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_tokenizer_unlike_llama_2s_is_refused(changes: dict, tmp_path: Path) -> None:
    size = 300 if changes.get("byte_fallback", True) else 100
    file = train_sentencepiece(tmp_path / "tokenizer.model", size, **changes)
    one_line(r"tokenizer\.model: not like Llama 2's", llama_tokenizer, file, size)


# Bad input: one line, nothing left behind.


def refused(source: Path, pattern: str, **more: object) -> None:
    output = source.parent.parent / "policy"
    one_line(pattern, convert_meta, source, output, **more)
    assert [path.name for path in output.parent.iterdir() if "policy" in path.name] == []


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


@pytest.mark.parametrize("left", [0, 100, -1, -30_000])
def test_a_truncated_checkpoint(left: int, source: Path) -> None:
    data = (source / "consolidated.pth").read_bytes()
    (source / "consolidated.pth").write_bytes(data[:left])
    refused(source, r"consolidated\.pth: (truncated|cannot be read).*download it again")


def change_params(source: Path, **changes: object) -> None:
    (source / "params.json").write_text(json.dumps(PARAMS | changes))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_layers": 7}, r"has 3 layers and 3 extra_heads, but params.json with n_layers=7.*calls for 4 and 3"),
        ({"n_future_tokens": 1}, r"has 3 layers and 3 extra_heads, .* n_future_tokens=1 calls for 6 and 0"),
        ({"n_layers": 4}, r"params\.json: n_layers=4 leaves no trunk under n_future_tokens=4"),
        ({"n_layers": "many"}, r"params\.json: n_layers: Input should be a valid integer"),
        ({"n_heads": 5}, r"params\.json: dim=32 is no even multiple of n_heads=5"),
        ({"n_kv_heads": 3}, r"params\.json: n_heads=4 is no multiple of n_kv_heads=3"),
        ({"n_kv_heads": 4}, r"layers\.0\.attention\.wk\.weight has shape \(16, 32\) instead of \(32, 32\)"),
        ({"vocab_size": 32000}, r"params\.json: vocab_size=32000, but consolidated\.pth embeds 420 tokens"),
        ({"multiple_of": 64}, r"params\.json: multiple_of=64 .* make an MLP 128 wide, but .* has 96"),
        ({"ffn_dim_multiplier": 1.3}, r"params\.json: .*ffn_dim_multiplier=1\.3 make an MLP 112 wide"),
        ({"use_scaled_rope": True}, r"params\.json: use_scaled_rope=True is not known here"),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else None,
)
def test_params_of_another_checkpoint(changes: dict, said: str, source: Path) -> None:
    change_params(source, **changes)
    refused(source, said)


def test_a_setting_that_is_off_does_not_matter(source: Path, tmp_path: Path) -> None:
    change_params(source, use_scaled_rope=False, max_batch_size=32)
    convert_meta(source, tmp_path / "policy")


def test_params_with_a_key_missing(source: Path) -> None:
    (source / "params.json").write_text(json.dumps({key: PARAMS[key] for key in PARAMS if key != "dim"}))
    refused(source, r"params\.json: dim: Field required; give the params\.json that came with")


@pytest.mark.parametrize("text", ['{"dim": 32,', "[]", "\udcff"])
def test_params_that_are_no_json_object(text: str, source: Path) -> None:
    (source / "params.json").write_text(text, errors="surrogateescape")
    refused(source, r"params\.json: .*; give the params\.json that came with")


def test_no_params(source: Path) -> None:
    (source / "params.json").unlink()
    refused(source, r"params\.json: cannot be read \(No such file")


def test_no_weights(source: Path) -> None:
    (source / "consolidated.pth").unlink()
    refused(source, r"consolidated\.pth: does not exist")


def test_the_numbered_name_of_a_single_file_is_read_too(source: Path, tmp_path: Path) -> None:
    (source / "consolidated.pth").rename(source / "consolidated.00.pth")
    assert is_meta_checkpoint(source)
    convert_meta(source, tmp_path / "policy")


def test_weights_split_for_model_parallelism(source: Path) -> None:
    for part in ("00", "01"):
        (source / f"consolidated.{part}.pth").write_bytes(b"")
    (source / "consolidated.pth").unlink()
    refused(source, r"split over 2 files \(consolidated\.00\.pth")


def change_state(source: Path, changes: dict, without: str = "nothing") -> None:
    state = random_state(PARAMS) | changes
    torch.save({name: state[name] for name in state if not name.startswith(without)}, source / "consolidated.pth")


def test_a_missing_extra_head(source: Path) -> None:
    change_state(source, {}, without="extra_heads.2.")
    refused(source, r"has 3 layers and 2 extra_heads, but .* calls for 3 and 3")


@pytest.mark.parametrize("name", ["extra_heads.1.attention.wq.weight", "norm.weight"])
def test_a_missing_weight(name: str, source: Path) -> None:
    change_state(source, {}, without=name)
    refused(source, rf"consolidated\.pth: lacks 1 weights, the first {name}")


@pytest.mark.parametrize("name", ["tok_embeddings.weight", "layers.0.feed_forward.w1.weight"])
def test_a_missing_matrix_that_says_how_large_the_rest_is(name: str, source: Path) -> None:
    change_state(source, {}, without=name)
    refused(source, rf"consolidated\.pth: lacks the matrix {name}")


def test_an_unknown_weight(source: Path) -> None:
    change_state(source, {"layers.0.attention.wq.bias": torch.zeros(32)})
    refused(source, r"holds 1 weights that such a model has no place for, the first layers\.0\.attention\.wq\.bias")


def test_a_weight_of_another_shape(source: Path) -> None:
    change_state(source, {"extra_heads.0.feed_forward.w2.weight": torch.zeros(32, 95)})
    refused(source, r"extra_heads\.0\.feed_forward\.w2\.weight has shape \(32, 95\) instead of \(32, 96\)")


def test_weights_of_two_dtypes(source: Path) -> None:
    change_state(source, {"norm.weight": torch.ones(32, dtype=torch.bfloat16)})
    refused(source, "its weights are of bfloat16 and float32; save them all in one")


def test_weights_that_are_no_floating_point_numbers_of_a_policy(source: Path) -> None:
    torch.save({name: w.to(torch.int8) for name, w in random_state(PARAMS).items()}, source / "consolidated.pth")
    refused(source, "its weights are int8; give a checkpoint in float32, bfloat16 or float16")


@pytest.mark.parametrize("freqs", [torch.ones(4), torch.ones(3)])
def test_rope_freqs_of_another_theta(freqs: torch.Tensor, source: Path) -> None:
    change_state(source, {"rope.freqs": freqs})
    refused(source, r"its rope\.freqs are not those of rope_theta=500\.0 with 8 channels a head")


def test_something_other_than_a_state_dict(source: Path) -> None:
    torch.save({"model": random_state(PARAMS)}, source / "consolidated.pth")
    refused(source, "something other than a state dict")


class Code:
    """Pickles as a call of os.system."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def test_a_pickle_that_would_run_code_does_not(source: Path, tmp_path: Path) -> None:
    torch.save(random_state(PARAMS) | {"hook": Code(f"touch {tmp_path}/ran")}, source / "consolidated.pth")
    refused(source, r"consolidated\.pth: refused, .* more than weights \(posix\.system\)")
    assert not (tmp_path / "ran").exists()
    torch.load(source / "consolidated.pth", weights_only=False)
    assert (tmp_path / "ran").exists()  # so the file was a dangerous one


def test_no_tokenizer(source: Path) -> None:
    (source.parent / "tokenizer.model").unlink()
    refused(source, r"7B_1T_4: no tokenizer\.model in it or in the folder above; give --tokenizer")


def test_a_tokenizer_that_is_given_is_used(source: Path, tmp_path: Path) -> None:
    (source.parent / "tokenizer.model").rename(tmp_path / "other.model")
    refused(source, r"nowhere\.model: no such file", tokenizer=tmp_path / "nowhere.model")
    convert_meta(source, tmp_path / "policy", tokenizer=tmp_path / "other.model")


def test_a_tokenizer_of_another_size(source: Path) -> None:
    train_sentencepiece(source.parent / "tokenizer.model", VOCABULARY - 1)
    refused(source, r"tokenizer\.model: has 419 tokens, but the model embeds 420")


def test_a_tokenizer_that_is_none(source: Path) -> None:
    (source.parent / "tokenizer.model").write_bytes(b"nothing of the kind")
    refused(source, r"tokenizer\.model: not to be read as a SentencePiece model")


def test_an_output_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    for write_it, origin in ((convert_meta, source), (export_meta, tmp_path / "policy")):
        one_line("policy: exists already", write_it, origin, tmp_path / "policy")
    assert load_policy(tmp_path / "policy")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for some of the weights (0.5 MB), not for all."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", disk], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a small tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)  # lazily: a caught error's frames may still map its files


def test_a_disk_that_fills_up_in_mid_conversion(source: Path, small_disk: Path) -> None:
    fails = r"disk/policy: writing the model failed: .*No space left on device.*; make room"
    one_line(fails, convert_meta, source, small_disk / "policy", shard_bytes=100_000)
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_in_mid_export(source: Path, tmp_path: Path, small_disk: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    fails = r"disk/back: writing the model failed: .*No space left on device.*; make room"
    one_line(fails, export_meta, tmp_path / "policy", small_disk / "back")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("room", [2_000, 10_000, 100_000])
def test_a_file_that_may_not_grow_leaves_nothing(room: int, source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy", shard_bytes=1_000)  # so that the tokenizer's file is among the largest
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    for write_it, origin, output in (
        (convert_meta, source, tmp_path / "out"),
        (export_meta, tmp_path / "policy", tmp_path / "back"),
    ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            one_line("writing the model failed: .*too large", write_it, origin, output)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["meta", "policy"]


def test_what_is_a_meta_checkpoint(source: Path, tmp_path: Path) -> None:
    assert is_meta_checkpoint(source)
    (source / "params.json").unlink()
    assert is_meta_checkpoint(source)  # an incomplete one
    assert not is_meta_checkpoint(source.parent)
    assert not is_meta_checkpoint(source / "consolidated.pth")


def test_a_converted_policy_is_not_given_heads_again(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    one_line("already has n_future_tokens = 4 heads", convert, str(tmp_path / "policy"), tmp_path / "again")
