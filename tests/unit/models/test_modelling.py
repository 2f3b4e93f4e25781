"""A policy's folder loads where this package is not installed, and by the Auto classes where it is."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_models import byte_tokenizer, tiny_model
from transformers import AutoModelForCausalLM

from weighted_mtp.models.build import save_policy
from weighted_mtp.models.checkpoint import load_policy
from weighted_mtp.models.modelling import MODULE
from weighted_mtp.models.mtp import MTPForCausalLM

IDS = [[72, 101, 108, 108]]

ELSEWHERE = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "weighted_mtp":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline
folder, again, ids = sys.argv[1], sys.argv[2], torch.tensor(json.loads(sys.argv[3]))
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
drawn = model.generate(ids, max_new_tokens=6, do_sample=False).tolist()
writer = pipeline("text-generation", model=folder, trust_remote_code=True)
model.save_pretrained(again)
loss = model(input_ids=ids, labels=ids).loss
loss.backward()
found = {
    "type": type(model).__module__,
    "logits": model(input_ids=ids).logits.flatten().tolist(),
    "heads": model.head_states(ids).shape,
    "drawn": drawn,
    "piped": writer("Hell", max_new_tokens=4, do_sample=False)[0]["generated_text"],
    "ours": sorted(name for name in sys.modules if name.partition(".")[0] == "weighted_mtp"),
}
print("FOUND " + json.dumps(found))
"""

HERE = """
import sys
import weighted_mtp
print("BEFORE", *sorted({"torch", "transformers"} & sys.modules.keys()))
from transformers import AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
print("TYPE", type(model).__module__)
"""

ITS_CONFIG = """
import sys
for name in sys.argv[2:]:
    exec(name)
config = AutoConfig.from_pretrained(sys.argv[1])
print("TYPE", type(config).__module__, config.n_future_tokens)
"""
OURS, THEIRS = "import weighted_mtp", "from transformers import AutoConfig"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("policy")
    save_policy(MTPForCausalLM.from_base(tiny_model(), 3, "random"), byte_tokenizer(), folder)
    return folder


def run(program: str, *arguments: str, home: Path) -> str:
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, env=environment, cwd=home
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_loads_generates_learns_and_is_saved_again_without_this_package(folder: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    said = run(ELSEWHERE, str(folder), str(again), json.dumps(IDS), home=tmp_path)
    found = json.loads(said.rpartition("FOUND ")[2])
    assert found["ours"] == []
    assert found["type"].endswith(MODULE)
    policy, _ = load_policy(folder)
    ids = torch.tensor(IDS)
    assert found["logits"] == policy(input_ids=ids).logits.flatten().tolist()
    assert found["heads"] == [3, 1, 4, policy.config.hidden_size]
    drawn = policy.generate(ids, max_new_tokens=6, do_sample=False)
    assert found["drawn"] == drawn.tolist()
    assert found["piped"].startswith("Hell")
    assert len(found["piped"]) > len("Hell")
    saved, _ = load_policy(_with_tokenizer(again, folder))
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), policy.parameters(), strict=True))


def _with_tokenizer(target: Path, source: Path) -> Path:
    for file in source.glob("tokenizer*"):
        (target / file.name).write_bytes(file.read_bytes())
    return target


def test_importing_the_package_registers_policies_and_imports_nothing_large(folder: Path, tmp_path: Path) -> None:
    said = run(HERE, str(folder), home=tmp_path)
    assert "BEFORE\n" in said
    assert "TYPE weighted_mtp.models.mtp" in said


@pytest.mark.parametrize("order", [(OURS, THEIRS), (THEIRS, OURS)], ids=["imported first", "imported last"])
def test_a_policys_configuration_alone_loads_too(folder: Path, tmp_path: Path, order: tuple[str, str]) -> None:
    assert "TYPE weighted_mtp.models.mtp 3" in run(ITS_CONFIG, str(folder), *order, home=tmp_path)


def test_here_the_installed_class_is_used_whether_or_not_the_folders_code_is_trusted(folder: Path) -> None:
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is MTPForCausalLM


def test_the_modelling_file_is_the_source_itself_and_names_its_classes(folder: Path) -> None:
    import weighted_mtp.models.mtp as source

    assert (folder / f"{MODULE}.py").read_bytes() == Path(source.__file__).read_bytes()
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": f"{MODULE}.MTPConfig",
        "AutoModelForCausalLM": f"{MODULE}.MTPForCausalLM",
    }
