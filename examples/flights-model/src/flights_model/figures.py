"""The plots of the evaluation, made without a screen and without pyplot's global state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, roc_auc_score, roc_curve

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt
    from matplotlib.axes import Axes

_BINS: Final = 15
_SIZE: Final = (6.0, 5.0)
_NAMES: Final = ("on time", "late")


def roc_figure(late: npt.NDArray[np.int64], probabilities: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """ROC curves, one for each name in `probabilities`, with their areas."""
    figure, axes = _figure("How well late flights are told from punctual ones")
    for name, probability in probabilities.items():
        false_alarms, found, _ = roc_curve(late, probability)
        axes.plot(false_alarms, found, label=f"{name} (area {roc_auc_score(late, probability):.3f})")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="chance")
    axes.set(xlabel="punctual flights taken for late", ylabel="late flights found")
    axes.legend(loc="lower right")
    return figure


def calibration_figure(late: npt.NDArray[np.int64], probabilities: Mapping[str, npt.NDArray[np.float64]]) -> Figure:
    """Said against happened, in bins of equally many flights, one curve for each name in `probabilities`."""
    figure, axes = _figure("When it says 30 %, are 30 % late?")
    for name, probability in probabilities.items():
        happened, said = calibration_curve(late, probability, n_bins=_BINS, strategy="quantile")
        axes.plot(said, happened, marker="o", markersize=4, label=name)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="perfect")
    axes.set(xlabel="predicted probability", ylabel="share that was late")
    axes.legend(loc="upper left")
    return figure


def confusion_figure(late: npt.NDArray[np.int64], predicted: npt.NDArray[np.bool_]) -> Figure:
    """The confusion matrix with counts and shares of all flights."""
    figure, axes = _figure("What was said and what happened")
    counts = confusion_matrix(late, predicted, labels=[0, 1])
    axes.imshow(counts, cmap="Blues", vmin=0)
    for row, column in np.ndindex(2, 2):
        count = int(counts[row, column])
        axes.text(
            column,
            row,
            f"{count:,}\n{count / max(len(late), 1):.1%}",
            ha="center",
            va="center",
            color="white" if count > counts.max() / 2 else "black",
        )
    axes.set(xlabel="predicted", ylabel="actual", xticks=[0, 1], yticks=[0, 1], xticklabels=_NAMES, yticklabels=_NAMES)
    return figure


def _figure(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    return figure, axes
