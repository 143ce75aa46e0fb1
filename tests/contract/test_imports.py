"""The rooms' order: a room imports only rooms above it, and never a neighbour on its line."""

import ast
import sys
from pathlib import Path

import facetrain

PACKAGE = Path(facetrain.__file__).parent
LINES = (
    {"core"},
    {"dist", "data", "models", "metrics"},
    {"heads", "graph", "robust"},
    {"engine"},
    {"methods"},
    {"pretrain", "embedding", "clean", "evaluate", "export", "report", "finetune", "review"},
    {"recipe"},
    {"pipeline", "api"},
    {"without_recipe", "label_cleaner"},
    {"demo"},
    {"commands"},
    {"cli"},
    {"__main__"},
)
LEVEL = {room: level for level, rooms in enumerate(LINES) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(source: str) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only"
            found |= {node.module or ""} | {f"{node.module}.{a.name}" for a in node.names}
    return found


def violations(room: str, source: str) -> list[str]:
    wrong = []
    for name in imports(source):
        package, _, rest = name.partition(".")
        other = rest.split(".")[0]
        ours = package == "facetrain" and other in LEVEL and other != room
        if ours and LEVEL[other] >= LEVEL[room]:
            wrong.append(f"{room} imports {name}")
        if name.startswith("torch.distributed") and room != "dist":
            wrong.append(f"{room} imports {name}; only dist may")
    return wrong


def test_rooms_import_only_upwards() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]
    files += [path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]
    assert len(files) > 30
    unknown = {room_of(path) for path in files} - LEVEL.keys()
    assert not unknown, f"rooms without a place in the order: {unknown}"
    assert not [v for path in files for v in violations(room_of(path), path.read_text())]


def test_a_wrong_import_is_seen() -> None:
    assert violations("data", "from facetrain.dist.mesh import Mesh")
    assert violations("heads", "from facetrain.engine import loop")
    assert violations("embedding", "import facetrain.evaluate.evaluate")
    assert violations("engine", "import torch.distributed as dist")
    assert not violations("heads", "from facetrain.dist.mesh import Mesh")


def test_no_third_party_import_outside_the_declared() -> None:
    declared = {
        "cleanlab", "click", "cv2", "dgl", "facetrain", "faiss", "jinja2", "matplotlib",
        "mlflow", "numpy", "onnx", "onnxruntime", "pydantic", "safetensors", "scipy",
        "sklearn", "torch", "torchvision", "tqdm", "wandb", "xxhash", "yaml",
    }  # fmt: skip
    used = {
        name.split(".")[0] for path in PACKAGE.rglob("*.py") for name in imports(path.read_text())
    }
    assert used - set(sys.stdlib_module_names) <= declared
