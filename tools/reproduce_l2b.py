r"""L2B on CIFAR with its authors' hyper-parameters, or on scikit-learn's digits.

    python tools/reproduce_l2b.py --dataset digits
    python tools/reproduce_l2b.py --dataset cifar10 --data cifar-10-batches-py --device cuda
    python tools/reproduce_l2b.py --dataset cifar100 --data cifar-100-python --device cuda

CIFAR, as in the published code (the supplement names none of it): pre-activation ResNet-18, SGD
with momentum 0.9 and weight decay 5e-4, a cosine from 0.15 over 300 epochs; batches of 512 and
gradients clipped at 0.25 for ten classes, 256 and 0.80 for a hundred; 10 epochs of plain training
first; a noisy label is any class, the true one too (`any`); 1,000 trusted images, which
`plain + trusted` reads too. Ours: the look-ahead is the plain
gradient step of Eqs. 15-24, not an optimizer's with momentum. Needs a GPU: days for a table.
"""

import argparse
from dataclasses import replace
from typing import Any

from bench_robust import CHOSEN
from robust_runs import accuracies, arguments_of, cifar_setup, digits_setup
from robust_tasks import Noise
from robust_training import Schedule

from facetrain.core.artifact import write_json


def main(given: list[str] | None = None) -> None:
    """Parse, run, print."""
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments = arguments_of(parser, given, ("digits", "cifar10", "cifar100"), "preact_resnet18", 3)
    own: dict[str, Any]
    if arguments.dataset == "digits":
        setup, (_, own) = digits_setup(), CHOSEN["digits"]["l2b"]
    else:
        ten = arguments.dataset == "cifar10"
        schedule = Schedule(300, 512 if ten else 256, 0.15, weight_decay=5e-4)
        schedule = replace(schedule, clip_norm=0.25 if ten else 0.8)
        setup = cifar_setup(
            arguments.data, 10 if ten else 100, arguments.network, schedule, arguments.device
        )
        own = {"warm_up": 10}
    noises: list[tuple[Noise, float]]
    noises = [("any", rate) for rate in arguments.rates or (0.2, 0.3, 0.4)]
    methods: dict[str, tuple[str, dict[str, Any]]] = {
        "plain": ("plain", {}),
        "plain + trusted": ("plain + trusted", {}),
        "l2b": ("l2b", own),
    }
    found = accuracies(setup, methods, noises, arguments)
    if arguments.json:
        write_json(arguments.json, found)


if __name__ == "__main__":
    main()
