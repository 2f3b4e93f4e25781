"""Synthetic checkpoints in Meta's format, converted, computed, and exported again."""

import json
import subprocess
from pathlib import Path

import pytest
import sentencepiece
import torch
from meta_checkpoints import PARAMS, VOCABULARY, one_line, random_state, rope_freqs, truncate, write
from meta_reference import reference_logits
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from weighted_mtp.models.build import save_policy
from weighted_mtp.models.card import ModelOrigin
from weighted_mtp.models.checkpoint import load_policy
from weighted_mtp.models.convert import convert, export_plain
from weighted_mtp.models.meta import convert_meta, export_meta, is_meta_checkpoint
from weighted_mtp.models.meta_format import Weight, read_meta
from weighted_mtp.models.model_folder import check_model

IDS = [1, 300, 17, 5, 410, 333, 290, 8, 100]


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


def test_weights_are_mapped_in_the_way_that_works_for_files_larger_than_memory(source: Path) -> None:
    checkpoint = read_meta(source)
    maps = Path("/proc/self/maps").read_text().splitlines()
    flags = {line.split()[1] for line in maps if line.endswith(str(source / "consolidated.pth"))}
    assert flags == {"rw-s"}  # shared; Linux may refuse a private one ("rw-p")
    assert checkpoint.dtype == torch.float32


def test_the_checkpoint_itself_is_not_changed(source: Path, tmp_path: Path) -> None:
    before = (source / "consolidated.pth").read_bytes()
    convert_meta(source, tmp_path / "policy")
    assert (source / "consolidated.pth").read_bytes() == before


def test_a_policy_that_was_trained_keeps_the_tokenizer_that_its_export_needs(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    model, tokenizer = load_policy(tmp_path / "policy")
    with torch.no_grad():
        model.heads.heads[2].self_attn.q_proj.weight += 1
    save_policy(model, tokenizer, tmp_path / "trained")
    export_meta(tmp_path / "trained", tmp_path / "back")
    back, state = torch.load(tmp_path / "back" / "consolidated.pth", weights_only=True), random_state(PARAMS)
    state["extra_heads.1.attention.wq.weight"] += 1
    assert all(torch.equal(back[name], state[name]) for name in state)


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, framework="pt") as stored:
        return {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118


def test_context_and_end_of_text_are_read_off_params_and_tokenizer(tmp_path: Path, tokenizer_model: Path) -> None:
    params = PARAMS | {"max_seq_len": 77}
    config = convert_meta(write(tmp_path / "m" / "x", params, random_state(params), tokenizer_model), tmp_path / "out")
    assert config.base_config.max_position_embeddings == 77
    model, tokenizer = load_policy(tmp_path / "out")
    assert (model.generation_config.eos_token_id, tokenizer.eos_token_id, tokenizer.eos_token) == (2, 2, "</s>")


def test_the_folder_is_one_that_checks_find_sound(source: Path, tmp_path: Path) -> None:
    convert(str(source), tmp_path / "policy", origin=ModelOrigin("facebook/multi-token-prediction", "Converted."))
    assert check_model(tmp_path / "policy").startswith("policy with 4 heads")
    assert "facebook/multi-token-prediction" in (tmp_path / "policy" / "README.md").read_text()


@pytest.mark.parametrize("heads", [2, None])
def test_another_number_of_heads_is_refused(heads: int | None, source: Path, tmp_path: Path) -> None:
    one_line("has n_future_tokens = 4 heads", convert_meta, source, tmp_path / "policy", heads=heads)
    convert_meta(source, tmp_path / "policy", heads=4)


def test_a_plain_model_of_the_trunk_and_head_1_is_exported(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    export_plain(tmp_path / "policy", tmp_path / "plain")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    assert plain.config.model_type == "llama"
    assert plain.config.num_hidden_layers == PARAMS["n_layers"] - (PARAMS["n_future_tokens"] - 1)
    with torch.no_grad():
        assert torch.equal(plain(torch.tensor([IDS])).logits[0], policy_logits(tmp_path / "policy")[0])
    text = "  def f():\n"
    assert AutoTokenizer.from_pretrained(tmp_path / "plain").encode(text) == [1, *shards_of(source).encode(text)]


def shards_of(source: Path) -> sentencepiece.SentencePieceProcessor:
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
    one_line(r"model\.safetensors: cannot be read", export_meta, tmp_path / "policy", tmp_path / "back")


def test_export_of_a_policy_that_lacks_a_shard_is_one_line(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy", shard_bytes=100_000)
    max((tmp_path / "policy").glob("*.safetensors")).unlink()
    one_line(r"policy: lacks \d+ weights", export_meta, tmp_path / "policy", tmp_path / "back")


def test_what_is_a_meta_checkpoint(source: Path, tmp_path: Path) -> None:
    assert is_meta_checkpoint(source)
    (source / "params.json").unlink()
    assert is_meta_checkpoint(source)  # an incomplete one
    assert not is_meta_checkpoint(source.parent)
    assert not is_meta_checkpoint(source / "consolidated.pth")


def test_a_tokenizer_given_serves_where_the_checkpoint_has_none(
    tmp_path: Path, source: Path, tokenizer_model: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    bare = source.rename(tmp_path / "elsewhere" / "bare")
    one_line(r"no tokenizer.model .* give --tokenizer", convert, str(bare), tmp_path / "policy")
    convert(str(bare), tmp_path / "policy", tokenizer=tokenizer_model)
    assert (tmp_path / "policy" / "tokenizer.model").read_bytes() == tokenizer_model.read_bytes()


def test_a_tokenizer_for_another_format_is_refused(source: Path, tmp_path: Path, tokenizer_model: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    one_line(
        "--tokenizer .*tokenizer.model: is only useful for Meta's format",
        *(convert, str(tmp_path / "policy"), tmp_path / "again"),
        tokenizer=tokenizer_model,
    )
