import copy
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from hub_server import HubServer
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from tiny_models import ARCHITECTURES, byte_tokenizer, padded_batch, tiny_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from weighted_mtp.data.prompts import encode_problem
from weighted_mtp.data.schema import Problem
from weighted_mtp.errors import UserError
from weighted_mtp.models.build import ModelConfig, build_policy
from weighted_mtp.models.checkpoint import check_embedded, load_policy
from weighted_mtp.models.convert import convert, export_plain, load_base, to_causal_lm
from weighted_mtp.models.model_folder import check_model
from weighted_mtp.models.mtp import MTPForCausalLM


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A saved causal LM with its tokenizer."""
    tiny_model().save_pretrained(tmp_path / "plain")
    byte_tokenizer().save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def logits(model: PreTrainedModel) -> torch.Tensor:
    ids, mask = padded_batch()
    return model(input_ids=ids, attention_mask=mask).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_plain_model_of_a_policy_is_the_base_bit_for_bit(architecture: str) -> None:
    base = tiny_model(architecture)
    plain = to_causal_lm(MTPForCausalLM.from_base(copy.deepcopy(base), 3, "random"))
    assert type(plain) is type(base)
    assert plain.state_dict().keys() == base.state_dict().keys()
    assert torch.equal(logits(plain), logits(base))


def with_special(folder: Path, *tokens: str) -> None:
    """Give the tokenizer special tokens for which no model was made."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": list(tokens)})
    tokenizer.save_pretrained(folder)


def test_special_tokens_beyond_the_embedding_are_said_and_do_no_harm(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with_special(plain, "[PAD]", "<image>")
    _, tokenizer = load_base(str(plain))
    said = capsys.readouterr().err
    assert f"{plain}: the tokenizer's [PAD], <image> are beyond the model's 257 embeddings; used without" in said
    problem = Problem("p", "s", "test", "An <image> and a [PAD].")
    assert max(encode_problem(tokenizer, "alpaca", problem)) < 257
    convert(str(plain), tmp_path / "policy", 2)
    assert check_model(tmp_path / "policy").startswith("policy with 2 heads")


def test_a_prompt_with_a_token_beyond_the_embedding_is_refused(plain: Path) -> None:
    with_special(plain, "<user>")
    model, tokenizer = load_base(str(plain))
    tokenizer.chat_template = "<user>{{ messages[0]['content'] }}"
    ids = encode_problem(tokenizer, "chat", Problem("p", "s", "test", "text"))
    with pytest.raises(
        UserError, match=r"p holds '<user>' \(token 257\), but the model embeds 257 tokens; use template"
    ):
        check_embedded(model, tokenizer, lambda: max(ids), "p")


@pytest.mark.parametrize("role", ["eos_token", "bos_token"])
def test_an_end_or_a_beginning_beyond_the_embedding_is_refused(plain: Path, role: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({role: "<new>"})
    tokenizer.save_pretrained(plain)
    with pytest.raises(UserError, match=r"'<new>' \(token 257\) has no embedding; give the tokenizer"):
        load_base(str(plain))


def test_a_word_beyond_the_embedding_is_refused(plain: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["def "])
    tokenizer.save_pretrained(plain)
    with pytest.raises(UserError, match=r"has 258 tokens but the model embeds 257, so that 'def '"):
        load_base(str(plain))


def test_the_plain_model_is_a_copy() -> None:
    policy = MTPForCausalLM.from_base(tiny_model(), 3)
    before = logits(policy)
    for parameter in to_causal_lm(policy).parameters():
        parameter.data.zero_()
    assert torch.equal(logits(policy), before)


def test_tied_embeddings_stay_tied_in_the_plain_model() -> None:
    plain = to_causal_lm(MTPForCausalLM.from_base(tiny_model("llama_tied"), 3))
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight


def test_convert_writes_a_policy_whose_head_1_is_the_base(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "policy", 3, "random")
    policy, tokenizer = load_policy(tmp_path / "policy")
    assert policy.config.n_future_tokens == 3
    assert torch.equal(logits(policy), logits(tiny_model()))
    assert tokenizer.get_vocab() == byte_tokenizer().get_vocab()


def test_random_heads_are_a_function_of_the_seed(plain: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert(str(plain), tmp_path / name, 2, "random", seed=seed)
    first, again, other = (
        load_policy(tmp_path / name)[0].heads.heads[1].mlp.up_proj.weight for name in ("a", "b", "c")
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_convert_stores_the_dtype_asked_for(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "policy", 2, dtype="bfloat16")
    assert load_policy(tmp_path / "policy")[0].dtype == torch.bfloat16


@pytest.mark.parametrize(("heads", "stored"), [("as stored", 4), (2, 2), (None, None)])
def test_a_plain_model_gets_the_heads_asked_for(
    plain: Path, tmp_path: Path, heads: int | None, stored: int | None
) -> None:
    convert(str(plain), tmp_path / "out", heads)
    assert json.loads((tmp_path / "out" / "config.json").read_text()).get("n_future_tokens") == stored


def test_a_policy_keeps_its_heads_or_loses_them_all(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "policy", 3, "random")
    convert(str(tmp_path / "policy"), tmp_path / "again")
    convert(str(tmp_path / "policy"), tmp_path / "none", None)
    again, none = (load_base(str(tmp_path / name))[0] for name in ("again", "none"))
    policy = load_policy(tmp_path / "policy")[0].state_dict()
    assert all(torch.equal(value, policy[name]) for name, value in again.state_dict().items())
    assert torch.equal(logits(none), logits(tiny_model()))
    with pytest.raises(UserError, match="already has n_future_tokens = 3"):
        convert(str(tmp_path / "policy"), tmp_path / "more", 5)


def test_a_policy_of_one_head_is_a_causal_lm_to_put_heads_on(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "one", 1)
    convert(str(tmp_path / "one"), tmp_path / "three", 3)
    convert(str(plain), tmp_path / "expected", 3)
    built, _ = build_policy(ModelConfig(source=str(tmp_path / "one"), n_future_tokens=3), seed=0)
    expected = load_policy(tmp_path / "expected")[0].state_dict()
    for found in (built, load_policy(tmp_path / "three")[0]):
        assert found.state_dict().keys() == expected.keys()
        assert all(torch.equal(value, expected[name]) for name, value in found.state_dict().items())


def test_export_writes_what_auto_classes_load_with_head_1s_logits(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "policy", 3, "random")
    export_plain(tmp_path / "policy", tmp_path / "exported")
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "exported")
    assert exported.config.model_type == "llama"
    assert torch.equal(logits(exported), logits(tiny_model()))
    assert len(AutoTokenizer.from_pretrained(tmp_path / "exported")) == 257


def test_load_base_gives_a_policy_folder_as_a_policy(plain: Path, tmp_path: Path) -> None:
    convert(str(plain), tmp_path / "policy", 2)
    assert isinstance(load_base(str(tmp_path / "policy"))[0], MTPForCausalLM)


def write_gguf(path: Path) -> None:
    """A llama of 2 layers in llama.cpp's format, in half precision, with a byte tokenizer."""
    torch.manual_seed(0)
    d, f, tokens = 32, 64, 260
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(f)
    writer.add_head_count(4)
    writer.add_head_count_kv(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(tokens)
    vocabulary = byte_tokenizer().get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*sorted(vocabulary, key=vocabulary.get)[:256], "<|endoftext|>", "ab", "<b>", "<c>"])
    writer.add_token_types([1] * 256 + [3, 1, 3, 3])
    writer.add_token_merges(["a b"])
    writer.add_eos_token_id(256)
    shapes = {"token_embd": (tokens, d), "output_norm": (d,), "output": (tokens, d)}
    for layer in range(2):
        names = {"attn_norm": (d,), "ffn_norm": (d,), "ffn_gate": (f, d), "ffn_up": (f, d), "ffn_down": (d, f)}
        names |= {f"attn_{x}": (d, d) for x in ("q", "k", "v", "output")}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in names.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape).numpy().astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_becomes_an_ordinary_fp32_folder(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    base, tokenizer = load_base(str(tmp_path / "model.gguf"))
    assert base.dtype == torch.float32
    assert tokenizer.eos_token == "<|endoftext|>"
    expected = logits(base)
    base.save_pretrained(tmp_path / "folder")
    assert "gguf" not in (tmp_path / "folder" / "config.json").read_text()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "folder")), expected)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError, match="not a GGUF file"):
        load_base(str(tmp_path / "model.gguf"))


def test_a_truncated_gguf_file_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf")
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:20_000])
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_base(str(tmp_path / "model.gguf"))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no model \(config\.json\)"):
        load_base(str(tmp_path))


def test_an_architecture_that_transformers_does_not_know_is_refused(plain: Path) -> None:
    (plain / "config.json").write_text('{"model_type": "no such thing"}')
    with pytest.raises(UserError, match="cannot be read as a model"):
        load_base(str(plain))


@pytest.mark.parametrize("source", ["/nowhere/at/all", "./nowhere", "no/such/folder", "nowhere.gguf "])
def test_a_path_that_does_not_exist_is_refused_without_asking_the_hub(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: pytest.fail("asked the network"))
    with pytest.raises(UserError, match="no such path"):
        load_base(source)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback, without repositories."""
    (tmp_path / "hub" / "models").mkdir(parents=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with HubServer(tmp_path / "hub") as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
        close_session()


def test_a_hub_id_gives_the_model_of_the_hub_and_then_of_its_cache(
    hub: HubServer, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(plain, hub.root / "models" / "org" / "plain")
    assert torch.equal(logits(load_base("org/plain")[0]), logits(tiny_model()))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    model, tokenizer = load_base("org/plain")
    assert torch.equal(logits(model), logits(tiny_model()))
    assert len(tokenizer) == 257


def test_a_hub_id_of_a_policy_gives_its_heads(hub: HubServer, plain: Path) -> None:
    convert(str(plain), hub.root / "models" / "org" / "policy", 3)
    policy, _ = load_base("org/policy")
    assert isinstance(policy, MTPForCausalLM)
    assert policy.config.n_future_tokens == 3


def test_what_the_hub_refuses_ends_with_what_serves_instead(hub: HubServer) -> None:
    with pytest.raises(UserError, match=r"^org/none: no such model.*; there is no such path here either: give a model"):
        load_base("org/none")


@pytest.mark.parametrize("write", [convert, export_plain])
def test_an_output_that_exists_is_left_alone(write: object, plain: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        write(str(plain), plain)
    assert AutoModelForCausalLM.from_pretrained(plain)


def test_a_failed_conversion_leaves_nothing_behind(
    plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MTPForCausalLM, "save_pretrained", full)
    with pytest.raises(UserError, match=r"policy: writing the model failed: .*No space left"):
        convert(str(plain), tmp_path / "policy")
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
