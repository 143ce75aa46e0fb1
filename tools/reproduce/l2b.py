r"""L2B on CIFAR with its authors' hyper-parameters, or on scikit-learn's digits.

    python -m tools.reproduce.l2b --dataset digits
    python -m tools.reproduce.l2b --dataset cifar10 --data cifar-10-batches-py --device cuda
    python -m tools.reproduce.l2b --dataset cifar100 --data cifar-100-python --device cuda

CIFAR, as in the published code (the supplement names none of it): pre-activation ResNet-18, SGD
with momentum 0.9 and weight decay 5e-4, a cosine from 0.15 over 300 epochs; batches of 512 and
gradients clipped at 0.25 for ten classes, 256 and 0.80 for a hundred; 10 epochs of plain training
first; a noisy label is any class, the true one too (`any`); 1,000 trusted images, which
`plain + trusted` reads too. `l2rw` weighs the given labels alone, which is learning to reweight
(the supplement's Figure 4); `--normalisation` and `--temperature` are for its Figure 3. Ours: the
look-ahead is the plain gradient step of Eqs. 15-24, not an optimizer's with momentum. Needs a GPU:
days for a table.
"""

from typing import get_args

from facetrain.robust.l2b import Normalisation
from tools.benchmarks.common import make_parser, write_report
from tools.benchmarks.robust import runs
from tools.benchmarks.robust.run import CHOSEN, CONTROLS
from tools.benchmarks.robust.runs import Row
from tools.benchmarks.robust.tasks import Noise


def main(given: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    parser.add_argument("--normalisation", choices=get_args(Normalisation), default="clamp")
    parser.add_argument("--temperature", type=float, help="of softmax; 1 by default")
    arguments = runs.arguments_of(
        parser, given, ("digits", "cifar10", "cifar100"), "preact_resnet18", 3
    )
    if arguments.dataset == "digits":
        setup, own = runs.digits_setup(), CHOSEN["digits"]["l2b"]
    else:
        ten = arguments.dataset == "cifar10"
        batch, clip_norm = (512, 0.25) if ten else (256, 0.8)
        setup = runs.cifar_setup(
            arguments.data,
            10 if ten else 100,
            arguments.network,
            runs.sgd(300, batch, 0.15, clip_norm=clip_norm),
            arguments.device,
        )
        own = Row({"name": "l2b", "batch_size": batch, "warmup_epochs": 10})
    own = own.but(normalisation=arguments.normalisation)
    if arguments.temperature is not None:
        own = own.but(temperature=arguments.temperature)
    noises: list[tuple[Noise, float]]
    noises = [("any", rate) for rate in arguments.rates or (0.2, 0.3, 0.4)]
    rows = {
        "plain": Row(clip_norm=own.clip_norm),
        "plain + trusted": CONTROLS["plain + trusted"],
        "l2rw": own.but(pseudo_labels=False),
        "l2b": own,
    }
    write_report(runs.accuracies(setup, rows, noises, arguments), arguments.json, show=False)


if __name__ == "__main__":
    main()
