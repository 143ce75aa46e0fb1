"""A tiny run of rendered faces that cleans its labels, and what its tests read of it."""

from pathlib import Path

NUM_CLASSES, PER_CLASS = 24, 8
STAGES = ("train", "evaluate", "embed", "graph", "clean", "retrain", "evaluate_retrain")
TRAININGS = ("train", "retrain")
EASY = {
    "difficulty": 0.2,
    "pose_shares": (0, 0, 0, 1, 0, 0, 0),
    "occlusion_shares": (1, 0, 0, 0, 0),
}

RECIPE = """
data: {{path: {faces}, overlay: {noise}/overlay.npz, workers: 0}}
model: {{name: small, image_size: 32, embedding_size: 32, width: 8}}
head: {{scale: 16, cosine_margin: 0.1}}
optimizer: {{learning_rate: 0.1}}
train: {{batch_size: 32, epochs: 8, log_every: 8}}
embed: {{batch_size: 64, workers: 0}}
clean:
  pretrain: {{num_draws: 24}}
  meta: {{num_rounds: 1, num_steps: 4}}
  adapter: {{num_draws: 2}}
evaluate: {{bins: [{faces}/pairs.bin], batch_size: 64, workers: 1}}
"""


def manifests(run: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in run.glob("*/manifest.json")}
