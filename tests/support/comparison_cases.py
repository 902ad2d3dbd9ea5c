"""A small comparison: a config and a variant."""

from __future__ import annotations

TINY = """# first
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 1, enable_progress_bar: false, enable_model_summary: false}
data:
  reader:
    class_path: captioner.data.readers.SyntheticShapes
    init_args: {root: PICTURES, num_train: 4, num_dev: 2}
  transform: {size: 64, fit: squash}
  vocabulary: {class_path: captioner.tokenizer.WordLevel, init_args: {min_count: 1}}
  batch_size: 2
  num_workers: 0
model:
  encoder: {class_path: captioner.models.GridEncoder, init_args: {name: timm/test_efficientnet, weights: none}}
  decoder: {class_path: captioner.models.ShowAttendTell, init_args: {embed_dim: 8, hidden_dim: 8}}
"""


NO_ATTENTION = """# blind
model:
  decoder: {class_path: captioner.models.ShowAndTell, init_args: {embed_dim: 8, hidden_dim: 8}}
"""
