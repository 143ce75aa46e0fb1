"""The backbones against arcface_torch's facts (tests/golden) and against themselves."""

import hashlib
import importlib.util
from pathlib import Path

import pytest
import torch

from facetrain.core.config import parse_config
from facetrain.core.errors import ConfigError
from facetrain.models.backbone import ModelConfig, build_backbone

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
_spec = importlib.util.spec_from_file_location("facts", GOLDEN / "arcface_torch_facts.py")
assert _spec is not None
assert _spec.loader is not None
facts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(facts)

PEERS = {
    "r18": ModelConfig(name="iresnet18"),
    "r34": ModelConfig(name="iresnet34"),
    "r50": ModelConfig(name="iresnet50"),
    "r100": ModelConfig(name="iresnet100"),
    "r200": ModelConfig(name="iresnet200"),
    "mbf": ModelConfig(name="mobilefacenet"),
    "mbf_large": ModelConfig(name="mobilefacenet", width=256, blocks=(2, 8, 12, 4)),
}
LITTLE = [
    ModelConfig(name="iresnet18", image_size=32, embedding_size=16),
    ModelConfig(name="mobilefacenet", image_size=48, embedding_size=16, width=64),
    ModelConfig(name="small", image_size=48, embedding_size=16, width=8, blocks=(1, 2, 1, 1)),
]


def _names(config):
    return config.name


def _built(config):
    """A backbone with weights and statistics that are not the initial ones."""
    module = build_backbone(config)
    facts.fill(module)
    return module


@pytest.mark.parametrize("peer", ["r100", "mbf"])
def test_names_and_shapes_in_full(peer):
    with torch.device("meta"):
        module = build_backbone(PEERS[peer])
    expected = (GOLDEN / f"arcface_torch_{peer}.txt").read_text()
    assert facts.listing(module.state_dict()).splitlines() == expected.splitlines()


@pytest.mark.parametrize("peer", PEERS)
def test_names_shapes_and_parameter_count_of_every_peer(peer):
    lines = (GOLDEN / "arcface_torch_digests.txt").read_text().splitlines()
    digest, count = {line.split()[0]: line.split()[1:] for line in lines}[peer]
    with torch.device("meta"):
        module = build_backbone(PEERS[peer])
    listing = facts.listing(module.state_dict())
    assert sum(p.numel() for p in module.parameters()) == int(count)
    assert hashlib.sha256(listing.encode()).hexdigest() == digest


@pytest.mark.parametrize("peer", ["r18", "mbf"])
def test_embeddings_equal_those_of_arcface_torch(peer):
    lines = (GOLDEN / "arcface_torch_outputs.txt").read_text().splitlines()
    expected = torch.tensor(
        [[float(v) for v in x.split()[1:]] for x in lines if x.split()[0] == peer]
    )
    module = _built(PEERS[peer]).eval()
    with torch.no_grad():
        found = module(facts.images(112))[:, :8]
    # Six digits are stored; another machine's convolutions sum in another order.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_initial_weights_are_the_fields():
    torch.manual_seed(0)
    module = build_backbone(ModelConfig(name="iresnet18", image_size=32))
    for name, value in module.named_parameters():
        if value.ndim == 4:  # normal(0, 0.1); 1,728 draws at least, so 7 % is 4 sigma
            assert value.std().item() == pytest.approx(0.1, rel=0.07), name
        elif "prelu" in name:
            assert (value == 0.25).all(), name
        elif "bn" in name or name.startswith("features"):
            assert (value == float(name.endswith("weight"))).all(), name
    frozen = [name for name, value in module.named_parameters() if not value.requires_grad]
    assert frozen == ["features.weight"]
    norms = [m for m in module.modules() if hasattr(m, "running_mean")]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-5, 0.1)}


@pytest.mark.parametrize("config", LITTLE, ids=_names)
def test_an_image_has_the_same_embedding_alone_and_in_a_batch(config):
    module = _built(config).eval()
    image = torch.rand(5, 3, config.image_size, config.image_size) * 2 - 1
    with torch.no_grad():
        together = module(image)
        alone = torch.cat([module(image[i : i + 1]) for i in range(5)])
    assert together.shape == (5, 16)
    # The images must matter, or equal rows would prove nothing.
    assert (together[0] - together[1]).abs().max() > 1e-2 * together.abs().max()
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(together.abs().max()))


@pytest.mark.parametrize("config", LITTLE, ids=_names)
def test_channels_last_equals_contiguous(config):
    module = _built(config).eval()
    image = torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1
    with torch.no_grad():
        plain = module(image)
        module.to(memory_format=torch.channels_last)
        other = module(image.contiguous(memory_format=torch.channels_last))
    # The flattening must keep channel-height-width order; float32 sums differ in order only.
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize("config", LITTLE, ids=_names)
def test_the_embedding_layers_stay_float32_under_autocast(config):
    module = _built(config).eval()
    inputs = []
    last = [m for m in module.modules() if isinstance(m, torch.nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, args: inputs.append(args[0].dtype))
    image = torch.rand(2, 3, config.image_size, config.image_size) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        mixed = module(image)
    assert mixed.dtype == torch.float32
    assert inputs == [torch.float32]
    # bfloat16 output of the last layer would have no more than 8 significant bits.
    assert not torch.equal(mixed, mixed.bfloat16().float())


def _two_steps(config, state):
    """Gradients and all state after two SGD steps from `state`."""
    module = build_backbone(config)
    module.load_state_dict(state)
    optimiser = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.01)
    for seed in (0, 1):
        image = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
        optimiser.zero_grad()
        module(image).tanh().sum().backward()
        optimiser.step()
    gradients = {n: p.grad for n, p in module.named_parameters() if p.grad is not None}
    return gradients, module.state_dict()


def test_gradient_checkpointing_changes_nothing_but_memory():
    plain = LITTLE[0]
    state = build_backbone(plain).state_dict()
    saving = plain.model_copy(update={"gradient_checkpointing": True})
    gradients, after = _two_steps(plain, state)
    other_gradients, other_after = _two_steps(saving, state)
    # Bitwise, running statistics and their counters included: a second run of the forward
    # that moved them would show here.
    assert after["bn1.num_batches_tracked"] == after["layer2.0.bn1.num_batches_tracked"]
    for name, value in gradients.items():
        assert torch.equal(value, other_gradients[name]), name
    for name, value in after.items():
        assert torch.equal(value, other_after[name]), name


def test_gradient_checkpointing_keeps_fewer_activations():
    def stored(config):
        sizes = []
        module = build_backbone(config)
        ids = {p.data_ptr() for p in module.parameters()}

        def pack(value):
            if value.data_ptr() not in ids:
                sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            module(torch.rand(2, 3, 32, 32))
        return sum(sizes)

    saving = LITTLE[0].model_copy(update={"gradient_checkpointing": True})
    # Stem and head are not checkpointed; the blocks are most of the rest.
    assert stored(saving) < 0.5 * stored(LITTLE[0])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "resnet50"}, "must be one of iresnet18, iresnet34, iresnet50"),
        ({"name": "small", "image_size": 50}, "multiple of 16"),
        ({"name": "iresnet50", "width": 32}, "iresnet50 has no width, got width=32; remove it"),
        ({"name": "iresnet50", "blocks": [1, 1, 1, 1]}, "iresnet50 has no blocks"),
        ({"name": "mobilefacenet", "dropout": 0.4}, "mobilefacenet has no dropout"),
        ({"name": "small", "gradient_checkpointing": True}, "small has no gradient_checkpointing"),
        ({"name": "mobilefacenet", "width": 100}, "multiple of 64, got 100"),
        ({"name": "small", "dropout": 1.0}, "less than 1"),
        ({"name": "small", "blocks": [1, 0, 1, 1]}, "greater than or equal to 1"),
        ({"name": "small", "depth": 3}, "unknown key 'depth'"),
    ],
)
def test_a_wrong_config_says_what_is_wrong(data, message):
    with pytest.raises(ConfigError) as error:
        parse_config(ModelConfig, data, "recipe.yaml")
    assert message in str(error.value)
    assert "recipe.yaml" in str(error.value)


def test_dropout_acts_in_training_only():
    config = LITTLE[0].model_copy(update={"dropout": 0.5})
    module = _built(config)
    image = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        module.eval()
        assert torch.equal(module(image), module(image))
        for norm in module.modules():  # so that only dropout can tell training from evaluation
            if not isinstance(norm, torch.nn.Dropout):
                norm.training = False
        module.dropout.train()
        assert not torch.equal(module(image), module(image))
