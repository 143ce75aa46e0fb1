import pytest
import torch
from torch import nn

from facetrain.core.rng import torch_generator
from facetrain.models.backbone import ModelConfig, build_backbone
from facetrain.models.folding import fold_normalisations


@torch.no_grad()
def a_network(**options: object) -> nn.Module:
    """Freshly drawn, with statistics that are not those of a fresh normalisation."""
    torch.manual_seed(0)
    network = build_backbone(ModelConfig.model_validate({"image_size": 32, **options})).eval()
    generator = torch_generator(0, "statistics")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2.0, generator=generator)
    return network


@torch.no_grad()
@pytest.mark.parametrize(
    ("options", "left"),
    [
        # bn1 of each of 8 blocks, which comes before a convolution, bn2 and features of the whole
        ({"name": "iresnet18"}, 10),
        ({"name": "mobilefacenet"}, 1),  # features, after a linear layer
        ({"name": "small", "width": 8}, 2),  # norm and features
    ],
    ids=["iresnet", "mobilefacenet", "small"],
)
def test_folded_is_the_same_function(options: dict[str, object], left: int) -> None:
    image = torch.rand(3, 3, 32, 32, generator=torch_generator(0, "image"))
    expected = a_network(**options)(image)
    folded = fold_normalisations(a_network(**options))
    # Sums of float32 in another order; a normalisation left out is off by a third of the largest.
    largest = float(expected.abs().max())
    torch.testing.assert_close(folded(image), expected, rtol=0, atol=1e-5 * largest)
    kinds = (nn.BatchNorm2d, nn.BatchNorm1d)
    assert sum(isinstance(module, kinds) for module in folded.modules()) == left


def test_another_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    assert isinstance(fold_normalisations(network)[1], nn.BatchNorm2d)
