"""What `benchmarks.faces.run` compares: each row by how it changes the recipe."""

DROP = "sub-centres, drop"
CENTRES = ["head.num_centres=3"]
NAL = ["robust.name=nal", "robust.boost=10", "robust.warmup_epochs=8"]
L2B = ["robust.name=l2b", "robust.warmup_epochs=8", "robust.every=2"]
ROWS: dict[str, list[str]] = {
    "l2b": L2B,
    "inter-class filter": ["head.filter_above=0.4"],
    "superloss, lambda 1": ["robust.name=superloss", "robust.lam=1"],
    "superloss, lambda 10": ["robust.name=superloss", "robust.lam=10"],
    "superloss, lambda 10 in units of the mean": [
        "robust.name=superloss", "robust.lam=10", "robust.lam_follows_tau=true",
    ],
    "superloss, dominant": [
        *CENTRES, "robust.name=superloss", "robust.lam=1", "robust.dominant=true",
        "robust.warmup_epochs=8",
    ],
    "nal": NAL,
    "nal with targets": [*NAL, "robust.targets.memory=0.5"],
    "nal, dominant": [*CENTRES, *NAL, "robust.dominant=true"],
}  # fmt: skip
"""Trained on the noisy labels, each by these changes of the recipe."""
COMBINED = {
    "clean + inter-class filter": ROWS["inter-class filter"],
    "clean + nal": NAL,
}
"""Trained on what the last round of cleaning left."""
BEGIN_WITH = {
    "clean, combined": ("posterior alone", "clean", "plain"),
    "posterior alone": ("clean", "plain"),
    "clean": ("plain",),
}
"""Chains that begin with others, whose rows they have too."""
GRID: dict[str, list[str]] = {
    f"{name} {' '.join(settings)}": [*start, *settings]
    for name, start, choices in (
        ("filter", [], [[f"head.filter_above={limit}"] for limit in (0.3, 0.4, 0.5, 0.6)]),
        ("superloss", ["robust.name=superloss"],
         [[f"robust.lam={lam}"] for lam in (0.3, 1, 3, 10)]),
        ("nal", ["robust.name=nal"],
         [[f"robust.boost={b}", f"robust.warmup_epochs={w}"] for b in (1, 10) for w in (4, 8)]),
        ("l2b", ["robust.name=l2b"],
         [[f"robust.warmup_epochs={w}", f"robust.every={e}"] for w in (4, 8) for e in (1, 2)]),
    )
    for settings in choices
}  # fmt: skip
QUICK = [
    "synthetic.num_identities=24", "synthetic.min_images=8", "synthetic.max_images=8",
    "synthetic.size=32", "synthetic.difficulty=0.2", "synthetic.pose_shares=[0,0,0,1,0,0,0]",
    "synthetic.occlusion_shares=[1,0,0,0,0]", "model.image_size=32", "model.width=8",
    "model.embedding_size=32", "head.scale=16", "head.cosine_margin=0.1", "train.batch_size=32",
    "train.epochs=8", "train.margin_warmup_epochs=0", "optimizer.learning_rate=0.1",
    "schedule.warmup_epochs=0", "model.dropout=0", "augment.erase_probability=0",
    "augment.scale=[1,1]", "augment.translate=0", "augment.brightness=0", "train.precision=float32",
    "clean.pretrain.num_draws=16", "clean.meta.num_rounds=1",
    "clean.meta.num_steps=4", "clean.adapter.num_draws=0",
]  # fmt: skip
"""The recipe of `--quick`: small and easy faces, seconds a row."""
