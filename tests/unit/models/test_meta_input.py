"""What the conversion of Meta's checkpoints refuses: in one line, and with nothing left behind."""

import json
import os
import resource
from pathlib import Path

import pytest
import torch
from meta_checkpoints import PARAMS, VOCABULARY, one_line, random_state, train_sentencepiece

from weighted_mtp.models.checkpoint import load_policy
from weighted_mtp.models.meta import convert_meta, export_meta, is_meta_checkpoint


def refused(source: Path, pattern: str, **more: object) -> None:
    output = source.parent.parent / "policy"
    one_line(pattern, convert_meta, source, output, **more)
    assert [path.name for path in output.parent.iterdir() if "policy" in path.name] == []


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
        (
            {"n_kv_heads": 4},
            r"layers\.0\.attention\.wk\.weight has shape \(16, 32\), but params.json calls for \(32, 32\)",
        ),
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
    refused(
        source, r"extra_heads\.0\.feed_forward\.w2\.weight has shape \(32, 95\), but params.json calls for \(32, 96\)"
    )


def test_weights_of_two_dtypes(source: Path) -> None:
    change_state(source, {"norm.weight": torch.ones(32, dtype=torch.bfloat16)})
    refused(source, "its weights are of bfloat16 and float32; save them all in one")


def test_weights_that_are_no_floating_point_numbers_of_a_policy(source: Path) -> None:
    torch.save({name: w.to(torch.int8) for name, w in random_state(PARAMS).items()}, source / "consolidated.pth")
    refused(source, "its weights are int8; give a checkpoint in float32, bfloat16 or float16")


@pytest.mark.parametrize("freqs", [torch.ones(4), torch.ones(3)])
def test_rope_freqs_of_another_theta(freqs: torch.Tensor, source: Path) -> None:
    change_state(source, {"rope.freqs": freqs})
    refused(source, r"its rope\.freqs are not those of rope_theta=500\.0 with 8 channels per head")


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
    refused(source, r"tokenizer\.model: cannot be read as a SentencePiece model")


def test_an_output_that_exists_is_left_alone(source: Path, tmp_path: Path) -> None:
    convert_meta(source, tmp_path / "policy")
    for write_it, origin in ((convert_meta, source), (export_meta, tmp_path / "policy")):
        one_line("policy: exists already", write_it, origin, tmp_path / "policy")
    assert load_policy(tmp_path / "policy")


@pytest.mark.parametrize("small_disk", [300], indirect=True)  # room for some of the weights (0.5 MB), not for all
def test_a_disk_that_fills_up_in_mid_conversion(source: Path, small_disk: Path) -> None:
    fails = r"disk/policy: writing the model failed: .*No space left on device.*; make room"
    one_line(fails, convert_meta, source, small_disk / "policy", shard_bytes=100_000)
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("small_disk", [300], indirect=True)
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
