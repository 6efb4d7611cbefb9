"""Files of torch and numpy for crates/model/tests/tensor_files.rs, and what they hold.

    pip install torch numpy safetensors
    python bench/peers/tensor_files.py           # writes the committed ones
    python bench/peers/tensor_files.py --check   # many seeds, read by the example `tensors` of directrix-model

Random state dicts: element types, tensors that are not contiguous, storages shared by several, nested dictionaries and
lists, Parameters, numbers of numpy, in both of torch's forms and several protocols. Beside each file lies a safetensors
file of what torch itself loads from it.
"""
import collections
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

ROOT = Path(__file__).parents[2]
OUT = ROOT / "crates/model/tests/fixtures/tensor-files"
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
WHOLE = [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def tensor(rng: np.random.Generator) -> torch.Tensor:
    shape = [int(n) for n in rng.integers(1, 5, rng.integers(0, 4))]
    dtype = (FLOATS + WHOLE)[rng.integers(len(FLOATS) + len(WHOLE))]
    base = torch.from_numpy(np.asarray(rng.normal(size=[2 * n for n in shape]) * 3)).to(dtype)
    kind = rng.integers(4)
    if kind == 0:
        base = base[tuple(slice(None, None, 2) for _ in shape)]
    elif kind == 1:
        base = base[tuple(slice(1, 1 + n) for n in shape)]
    elif kind == 2 and shape:
        base = base.transpose(0, len(shape) - 1)
    return base


def state(rng: np.random.Generator) -> dict:
    shared = torch.from_numpy(rng.normal(size=(6, 4))).float()
    linear = torch.nn.Linear(3, 2)
    linear.weight.data = torch.from_numpy(rng.normal(size=(2, 3))).float()
    linear.bias.data = torch.from_numpy(rng.normal(size=2)).float()
    tree = {f"t{i}": tensor(rng) for i in range(5)} | {
        "shared": {"whole": shared, "rows": shared[1:4], "turned": shared.T},
        "list": [tensor(rng), {"a": tensor(rng)}],
        "module": linear.state_dict(),
        "parameter": torch.nn.Parameter(torch.from_numpy(rng.normal(size=3)).float()),
        "step": int(rng.integers(1 << 40)), "norm": float(rng.normal()), "flag": True, "name": "text ü",
        "numpy": np.float64(rng.normal()), "numpy32": np.float32(1.5), "none": None, 7: torch.arange(3),
        "empty": torch.zeros(0, 3), "order": collections.OrderedDict(x=tensor(rng)),
    }
    return tree if rng.integers(2) else collections.OrderedDict(tree)


def flat(value, name=""):
    inside = lambda key: f"{name}.{key}" if name else str(key)
    if isinstance(value, torch.Tensor):
        yield name, value.detach().to(torch.float32).contiguous().clone()
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, inside(key))
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from flat(item, inside(i))


def write(seed: int, folder: Path) -> list[Path]:
    rng = np.random.default_rng(seed)
    tree, files = state(rng), []
    for name, options in {
        "zip.pt": {}, "legacy.pth": {"_use_new_zipfile_serialization": False}, "protocol4.bin": {"pickle_protocol": 4},
    }.items():
        path = folder / f"{seed}-{name}"
        torch.save(tree, path, **options)
        save_file(dict(flat(torch.load(path, weights_only=False))), f"{path}.safetensors")
        files.append(path)
    arrays = {f"a{i}": t.numpy() for i in range(6) if (t := tensor(rng)).dtype != torch.bfloat16}
    arrays["columns"] = np.asfortranarray(rng.normal(size=(3, 4)).astype(np.float32))
    for name, save in {"stored.npz": np.savez, "deflated.npz": np.savez_compressed}.items():
        path = folder / f"{seed}-{name}"
        save(path, **arrays)
        save_file({k: torch.from_numpy(np.array(v, order='C')).float() for k, v in arrays.items()}, f"{path}.safetensors")
        files.append(path)
    return files


if "--check" in sys.argv:
    subprocess.run(["cargo", "build", "--release", "-q", "--workspace", "--example", "tensors"], cwd=ROOT, check=True)
    checked = 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(100, 160):
            for path in write(seed, Path(folder)):
                out = f"{path}.read"
                subprocess.run([ROOT / "target/release/examples/tensors", path, out], check=True)
                found, wanted = load_file(out), load_file(f"{path}.safetensors")
                assert found.keys() == wanted.keys(), (path, found.keys() ^ wanted.keys())
                for name, tensor_ in wanted.items():
                    assert found[name].shape == tensor_.shape and torch.equal(found[name], tensor_), (path, name)
                    checked += 1
    print(checked, "tensors agree")
else:
    OUT.mkdir(parents=True, exist_ok=True)
    for seed in range(2):
        print(*(path.name for path in write(seed, OUT)))
