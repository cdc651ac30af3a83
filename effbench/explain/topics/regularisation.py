"""A small network on 200 images, without and with each method against overfitting."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effbench import build
from effbench.config.compose import compose
from effbench.data.modality import Modality
from effbench.data.splits import Splits
from effbench.explain.content import Drawing, Explanation, Paragraph, Part, Request, Table
from effbench.explain.examples import accuracy
from effbench.report.figures import Figure, Series, figure
from effbench.tasks.losses import CrossEntropy
from effbench.training.early_stopping import EarlyStopping
from effbench.training.penalty import L1Penalty
from effbench.training.state import TrainState

TRAIN, VAL, TEST, HIDDEN = 200, 600, 1000, 96  # images, images, images, units
EPOCHS, BATCH, LR, EVERY = 40, 40, 1e-3, 2  # epochs between two evaluations
PATIENCE = 3  # evaluations
REFERENCES = (
    "Srivastava et al. 2014, Dropout, Journal of Machine Learning Research 15, section 4",
    "Loshchilov and Hutter, Decoupled Weight Decay Regularization, arXiv:1711.05101",
    "Szegedy et al., arXiv:1512.00567, section 7: label smoothing; Ioffe and Szegedy, arXiv:1502.03167: batch norm",
    "Prechelt 1998, Early Stopping, but when?; Goodfellow et al. 2016, Deep Learning, chapter 7",
)


@dataclass(frozen=True)
class Method:
    """What differs from plain training.

    Attributes:
        about: what it does.
        images: of the train split.
        dropout: fraction dropped before the head.
        batch_norm: after the hidden layer.
        weight_decay: AdamW's.
        l1: strength of the penalty on absolute weights.
        label_smoothing: fraction of the target's mass spread evenly.
        augmented: crop and flip at random, as augment=basic does.
        stops: stop early, and keep the weights of the best validation loss.
    """

    about: str
    images: int = TRAIN
    dropout: float = 0.0
    batch_norm: bool = False
    weight_decay: float = 0.0
    l1: float = 0.0
    label_smoothing: float = 0.0
    augmented: bool = False
    stops: bool = False


ARMS = {
    "none": Method("nothing"),
    "dropout": Method("half of the hidden units are 0 in each step", dropout=0.5),
    "weight decay": Method("weights shrink by lr x 1 in each step", weight_decay=1.0),
    "l1": Method("adds 0.003 x sum |w| to the loss: many weights become almost 0", l1=3e-3),
    "label smoothing": Method("a tenth of the target is spread over all classes", label_smoothing=0.1),
    "batch norm": Method("normalises the hidden units by the batch, which adds noise", batch_norm=True),
    "augmentation": Method("another crop and flip of each image in each epoch", augmented=True),
    "early stopping": Method("keeps the weights of the best validation loss", stops=True),
    "twice the images": Method("400 images, in twice as many steps: what data would do", images=2 * TRAIN),
}


@dataclass
class Course:
    """What a training showed. Losses are in nats, without penalty and smoothing.

    Attributes:
        train: (epoch, mean loss over the train images) at each evaluation.
        test: likewise, over the test images.
        end: (train loss, test loss) with the weights that are kept.
        accuracies: (train, test) with these weights.
        small: share of the hidden layer's weights below 0.001.
    """

    train: list[tuple[float, float]] = field(default_factory=list)
    test: list[tuple[float, float]] = field(default_factory=list)
    end: tuple[float, float] = (0.0, 0.0)
    accuracies: tuple[float, float] = (0.0, 0.0)
    small: float = 0.0


@dataclass(frozen=True)
class Images:
    """The images of all trainings.

    Attributes:
        data: the splits.
        modality: normalises and augments them.
    """

    data: Splits
    modality: Modality

    def part(self, which: str, count: int) -> tuple[Tensor, Tensor]:
        """Return the first `count` images of a split as float64 (N, features), and their labels."""
        split = self.data.named()[which]
        return self.modality.plain(split.inputs, slice(0, count)).flatten(1).double(), split.labels[:count]

    def augmented(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        """Return train images, cropped and flipped at random."""
        params = self.modality.draw(len(batch), generator)
        changed = self.modality.batch(self.data.train.inputs, batch, params, slice(None))
        return changed.flatten(1).double()


def explain(request: Request) -> Explanation:
    """Explain regularisation: train one network for each method."""
    config = compose(["data=fashion_mnist", "augment=basic"])
    data = build.splits(config)
    images = Images(data, build.modality(config, data, torch.device("cpu")))
    courses = {name: _course(method, images, request.seed) for name, method in ARMS.items()}
    values, rows = dict[str, float](), []
    for name, course in courses.items():
        lowest = min(loss for _, loss in course.test)
        numbers = dict(zip(("train_loss", "test_loss"), course.end, strict=True))
        numbers |= dict(zip(("train_accuracy", "test_accuracy"), course.accuracies, strict=True))
        values |= {
            f"{key} {name}": value for key, value in {**numbers, "lowest": lowest, "small": course.small}.items()
        }
        shares = [f"{100 * share:.1f} %" for share in course.accuracies]
        rows.append([name, *shares, *(f"{loss:.3f}" for loss in (*course.end, lowest))])
    plain = courses["none"]
    error = math.sqrt(plain.accuracies[1] * (1 - plain.accuracies[1]) / TEST)
    values["standard_error"] = error
    steps = EPOCHS * TRAIN // BATCH
    parts: list[Part] = [
        Paragraph(
            f"{TRAIN} images of Fashion-MNIST and a network with {28 * 28 * HIDDEN + HIDDEN + 10 * HIDDEN + 10:,} "
            f"weights: it can learn all images by heart. Each network below has the same first weights, {EPOCHS} "
            f"epochs ({steps} steps) of AdamW with lr {LR:g}, and one method against overfitting. Without any, the "
            f"training loss ends at {plain.end[0]:.3f} nats and the test loss at {plain.end[1]:.3f}, above its lowest "
            f"value of {values['lowest none']:.3f}: the network becomes ever surer, also where it is wrong."
        ),
        Drawing(
            [_figure(name, course, None if name == "none" else plain) for name, course in courses.items()],
            "Loss in nats by epoch. The gap between train and test is what a method should close.",
            across=3,
        ),
        Table(["method", "train acc", "test acc", "train loss", "test loss", "its lowest"], rows),
        Table(["method", "what it does"], [[name, method.about] for name, method in ARMS.items()], texts=2),
        Paragraph(
            f"Accuracies are of {TEST:,} test images: their standard error is about {100 * error:.1f} points, so that "
            "most differences of one run mean nothing. Losses are without penalty and smoothing, and say more. The "
            "strengths are usual ones, not tuned: a fair comparison tunes each with its learning rate and repeats it "
            f"with seeds, as effbench study study=regularisation does. L1 leaves {100 * courses['l1'].small:.0f} % of "
            f"the hidden layer's weights below 0.001; without it {100 * plain.small:.0f} % are."
        ),
    ]
    return Explanation("regularisation", "Regularisation on little data", parts, values, REFERENCES)


def network(features: int, method: Method) -> nn.Sequential:
    """Return the network in float64: one hidden layer."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(hidden=nn.Linear(features, HIDDEN))
    if method.batch_norm:
        layers["norm"] = nn.BatchNorm1d(HIDDEN)
    layers |= {"relu": nn.ReLU(), "dropout": nn.Dropout(method.dropout), "head": nn.Linear(HIDDEN, 10)}
    return nn.Sequential(layers).double()


def _course(method: Method, images: Images, seed: int) -> Course:
    train, val, test = images.part("train", method.images), images.part("val", VAL), images.part("test", TEST)
    torch.manual_seed(seed)
    chance = torch.Generator().manual_seed(seed)  # of the order and the augmentation
    model = network(train[0].shape[1], method)
    loss = CrossEntropy(method.label_smoothing)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=method.weight_decay)
    penalty = L1Penalty([layer.weight for layer in model if isinstance(layer, nn.Linear)], method.l1)
    rule, state, best = EarlyStopping("val/loss", "min", PATIENCE, 0.0, None), TrainState(), dict[str, Tensor]()
    course = Course()
    for epoch in range(1, EPOCHS + 1):
        for batch in torch.randperm(method.images, generator=chance).split(BATCH):
            inputs = images.augmented(batch, chance) if method.augmented else train[0][batch]
            optimizer.zero_grad()
            (loss.summed(model(inputs), train[1][batch]) / len(batch)).backward()
            penalty.add_gradients()
            optimizer.step()
        if epoch % EVERY == 0:
            course.train.append((float(epoch), _loss(model, *train)))
            course.test.append((float(epoch), _loss(model, *test)))
            if method.stops:
                state.measured("val", {"val/loss": _loss(model, *val)})
                rule.check(state)
                if rule.waited == 0:
                    best = {name: value.clone() for name, value in model.state_dict().items()}
                if state.stop_reason is not None:
                    break
    model.load_state_dict(best or model.state_dict())
    model.eval()
    course.end = _loss(model, *train), _loss(model, *test)
    course.accuracies = accuracy(model, *train), accuracy(model, *test)
    course.small = float((model.get_parameter("hidden.weight").abs() < 1e-3).double().mean())
    return course


@torch.no_grad()
def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    training = model.training
    model.eval()
    found = float(F.cross_entropy(model(x), y))
    model.train(training)
    return found


def _figure(name: str, course: Course, plain: Course | None) -> Figure:
    series = [Series("train", 0, course.train, dotted=False), Series("test", 1, course.test, dotted=False)]
    if plain is not None:
        series.append(Series("test of none", 7, plain.test, dotted=False))
    found = figure(name, "epoch", series, "{:.2g}".format, "{:.3f}".format, (0.0, 1.6), (0.0, float(EPOCHS)))
    assert found is not None
    return found
