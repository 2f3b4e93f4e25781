"""Memory and time of converting a checkpoint in Meta's format and back, and how far logits are from a reference.

    python benchmarks/meta_conversion.py [--blocks 19] [--folder DIR]

Writes a synthetic checkpoint (bf16, Llama-like, 4 heads, about 0.1 GB a block: 2 GB by default) in a temporary folder,
converts it and exports it again, each in a process of its own whose memory is sampled, and compares every head's logits
in fp32 with the tests' complex-number reference in fp64.
"""

import argparse
import hashlib
import io
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sentencepiece
import torch

from weighted_mtp.models.checkpoint import load_policy

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "unit" / "models"))
from meta_reference import reference_logits

DIM, WIDTH, VOCABULARY, HEADS = 2048, 5632, 4096, 4
SAMPLE_SECONDS = 0.005
IDS = [1, 4000, 17, 295, 1033, 2]

CHILD = """
import sys
from pathlib import Path
from weighted_mtp.models.meta import convert_meta, export_meta
print("ready", flush=True)
sys.stdin.readline()
{"convert": convert_meta, "export": export_meta}[sys.argv[1]](Path(sys.argv[2]), Path(sys.argv[3]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=19, help="trunk and heads together")
    parser.add_argument("--folder", type=Path, help="where to make the temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        params = write_checkpoint(folder / "meta", options.blocks)
        size = (folder / "meta" / "consolidated.pth").stat().st_size
        print(f"checkpoint: {size / 1e9:.2f} GB, {options.blocks} blocks, {HEADS} heads, bf16")
        measure("convert", folder / "meta", folder / "policy", size)
        measure("export", folder / "policy", folder / "back", size)
        same = digest(folder / "meta") == digest(folder / "back")
        print(f"the exported tensors are {'the same bit for bit' if same else 'DIFFERENT'}")
        for head, difference in enumerate(compare(folder, params), start=1):
            print(f"head {head}: largest |logit difference| {difference:.2e} over {len(IDS)} tokens")


def write_checkpoint(folder: Path, blocks: int) -> dict:
    """Random weights with the usual scale, and a SentencePiece model of random words."""
    folder.mkdir()
    params = {
        "dim": DIM,
        "n_layers": blocks,
        "n_heads": DIM // 128,
        "vocab_size": -1,
        "multiple_of": 256,
        "norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "n_future_tokens": HEADS,
    }
    (folder / "params.json").write_text(json.dumps(params))
    names = [f"layers.{i}" for i in range(blocks - HEADS + 1)] + [f"extra_heads.{i}" for i in range(HEADS - 1)]
    shapes: dict[str, tuple[int, ...]] = {"tok_embeddings": (VOCABULARY, DIM)}
    for name in names:
        shapes |= {f"{name}.attention.{w}": (DIM, DIM) for w in ("wq", "wk", "wv", "wo")}
        shapes |= {f"{name}.feed_forward.{w}": (WIDTH, DIM) for w in ("w1", "w3")}
        shapes |= {f"{name}.feed_forward.w2": (DIM, WIDTH)}
        shapes |= {f"{name}.{w}": (DIM,) for w in ("attention_norm", "ffn_norm")}
    shapes |= {"norm": (DIM,), "output": (VOCABULARY, DIM)}
    torch.manual_seed(0)
    torch.save({f"{name}.weight": draw(shape) for name, shape in shapes.items()}, folder / "consolidated.pth")
    write_tokenizer(folder / "tokenizer.model")
    return params


def draw(shape: tuple[int, ...]) -> torch.Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=shape[1] ** -0.5)


def write_tokenizer(file: Path) -> None:
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(20_000)]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(" ".join(words[i : i + 10]) for i in range(0, len(words), 10)),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())


def measure(what: str, source: Path, output: Path, size: int) -> None:
    """Run one direction in a process of its own and print its time and its peak memory."""
    command = [sys.executable, "-c", CHILD, what, str(source), str(output)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        idle = peak = memory(child.pid)["RssAnon"]
        start = time.perf_counter()
        child.stdin.write("\n")
        child.stdin.close()
        resident = 0
        while child.poll() is None:
            now = memory(child.pid)
            peak, resident = max(peak, now.get("RssAnon", 0)), max(resident, now.get("VmHWM", 0))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
    if child.returncode:
        raise SystemExit(f"{what} failed")
    print(
        f"{what}: {seconds:.1f} s, {size / 1e6 / seconds:.0f} MB/s; peak RSS {resident / 1e9:.2f} GB (pages of mapped"
        f" files among them), peak anonymous {peak / 1e9:.2f} GB, of which {idle / 1e9:.2f} GB before the start"
    )


def memory(pid: int) -> dict[str, int]:
    """Bytes by name from /proc/PID/status; nothing once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except ProcessLookupError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(value) * 1024 for name, value, _ in fields}


def digest(folder: Path) -> str:
    """Of names, dtypes and values of all tensors."""
    tensors = torch.load(folder / "consolidated.pth", mmap=True, weights_only=True)
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tensors[name].dtype}".encode())
        found.update(tensors[name].contiguous().view(torch.uint8).numpy())
    return found.hexdigest()


@torch.no_grad()
def compare(folder: Path, params: dict) -> list[float]:
    state = torch.load(folder / "meta" / "consolidated.pth", mmap=True, weights_only=True)
    expected = reference_logits(state, params, IDS)
    model, _ = load_policy(folder / "policy", "float32")
    found = model.unembed(model.eval().head_states(torch.tensor([IDS])))[:, 0]
    return [float((ours - theirs).abs().max()) for ours, theirs in zip(found, expected, strict=True)]


if __name__ == "__main__":
    main()
