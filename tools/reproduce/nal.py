r"""NAL on CIFAR with the appendix's hyper-parameters, or on scikit-learn's digits.

    python -m tools.reproduce.nal --dataset digits
    python -m tools.reproduce.nal --dataset cifar10 --data cifar-10-batches-py --device cuda
    python -m tools.reproduce.nal --dataset cifar100 --data cifar-100-python --device cuda

CIFAR (B.3, B.4, and the authors' code where the appendix is silent): ResNet-34, SGD with momentum
0.9 and weight decay 1e-3, batches of 64, 500 epochs in cosine cycles of 10 from 0.02 to 0.001;
boost 0.5 for ten classes, 10 for a hundred; targets with a memory of 0.9, begun after 60 epochs
and renewed in every tenth, where the learning rate is lowest; a symmetrically noisy label is any
class, the true one too (`any`). Ours: no warm-up is needed without a margin; the targets keep the
10 most probable classes, all of CIFAR-10's. Last epoch, three seeds. Needs a GPU: days for a table.
"""

from facetrain.engine.schedule import ScheduleConfig
from tools.benchmarks.common import make_parser, write_report
from tools.benchmarks.robust import runs
from tools.benchmarks.robust.run import DIGITS_NAL
from tools.benchmarks.robust.runs import Row
from tools.benchmarks.robust.tasks import Noise

NOISES: list[tuple[Noise, float]] = [
    ("any", 0.2),
    ("any", 0.4),
    ("any", 0.6),
    ("any", 0.8),
    ("asymmetric", 0.4),
]


def main(given: list[str] | None = None) -> None:
    """Parse, run, print."""
    parser = make_parser(__doc__)
    arguments = runs.arguments_of(parser, given, ("digits", "cifar10", "cifar100"), "resnet34", 3)
    if arguments.dataset == "digits":
        setup, own, targets = runs.digits_setup(), DIGITS_NAL, {"count": 10, "warmup_epochs": 30}
    else:
        num_classes = 10 if arguments.dataset == "cifar10" else 100
        falls = ScheduleConfig(cycle_epochs=10, final_factor=0.001 / 0.02)
        config = runs.sgd(500, 64, 0.02, weight_decay=1e-3, falls=falls)
        setup = runs.cifar_setup(
            arguments.data, num_classes, arguments.network, config, arguments.device
        )
        targets = {"count": 10, "warmup_epochs": 60, "every_epochs": 10}
        boost = 0.5 if num_classes == 10 else 10.0
        own = DIGITS_NAL.but(boost=boost, warmup_epochs=0)
    noises = NOISES
    if arguments.rates:
        noises = [("any", rate) for rate in arguments.rates]
    rows = {"plain": Row(), "nal": own, "nal + targets": own.but(targets=targets)}
    write_report(runs.accuracies(setup, rows, noises, arguments), arguments.json, show=False)


if __name__ == "__main__":
    main()
