"""What a comparison says to people: the table, the sentences below it, and its files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from .compare import Comparison
from .output import csv_table, markdown_table, write_json, write_text
from .techniques import PEER

RESULTS: Final = "results.json"
FILES: Final = (RESULTS, "table.csv", "table.md", "curves.png", "summary.png")
"""What a comparison writes into its folder."""
REPORT_TOLERANCE: Final = 0.01
_BUSY: Final = 3
"""A median this many times the fastest step says that other programs took the processor."""


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows; the report's columns only where its figures belong."""
    heading = ["technique", "eval", "test", "std"]
    heading += ["report", "diff."] if comparison.is_mnist else []
    heading += ["us/step", "/torch"]
    rows = []
    for row in comparison.summary():
        cells = [
            row["label"],
            *(_fixed(row[f"{key}"]) for key in ("eval_accuracy_mean", "test_accuracy_mean")),
        ]
        cells.append(_fixed(row["test_accuracy_std"]))
        if comparison.is_mnist:
            cells += [_fixed(row["report_test_accuracy"]), _fixed(row["test_minus_report"], sign="+")]
        ratio = row["step_time_ratio_to_torch"]
        cells += [f"{row['step_seconds'] * 1e6:.0f}", "-" if ratio is None else f"{ratio:.3f}"]
        rows.append(cells)
    return heading, rows


def statements(comparison: Comparison) -> list[str]:
    """What the table means, in sentences."""
    said = [
        "eval, test: accuracy of the model of lowest evaluation loss on images held out and on unseen ones, "
        f"mean of {_seeds(len(comparison.seeds))}; std: of test; /torch: time of a step over torch's.",
        *_on_the_drop_in(comparison),
        "torch.optim.Rprop is iRprop-: a weight whose gradient changes its sign stays for one step, and "
        'nothing is taken back. (The report calls it "Rprop+ PyTorch".)',
    ]
    for row in comparison.summary():
        if row["technique"] == PEER:
            fastest = row["fastest_step_seconds"]
            if row["step_seconds"] > _BUSY * fastest:
                said.append(
                    "The times are NOT to be trusted: the machine was busy (torch.optim.Rprop's fastest step "
                    f"took {fastest * 1e6:.0f} us). Run it again on an idle one."
                )
            said.append(
                f"A step of torch.optim.Rprop took {row['step_seconds'] * 1e6:.0f} us (median), all steps "
                f"{row['share_of_training']:.1%} of its training; most of the rest is forward and backward."
            )
    if comparison.settings["train_batch_size"] < comparison.settings["train_set_size"]:
        said.append(
            "Rprop is a full-batch method: with mini-batches signs flip by chance, and iRprop+ compares "
            "losses of different batches."
        )
    return [*said, *_on_the_report(comparison)]


def write_results(comparison: Comparison, folder: Path) -> None:
    """The JSON file, from which a comparison can be resumed."""
    write_json(folder / RESULTS, comparison.as_dict() | {"statements": statements(comparison)})


def write(comparison: Comparison, folder: Path) -> None:
    """All of ``FILES``."""
    from . import plots

    write_results(comparison, folder)
    write_text(folder / "table.csv", csv_table(comparison.summary()))
    sentences = "".join(f"- {statement}\n" for statement in statements(comparison))
    write_text(folder / "table.md", markdown_table(*table(comparison)) + "\n" + sentences)
    plots.write(folder / "curves.png", plots.comparison_curves(comparison))
    plots.write(folder / "summary.png", plots.comparison_summary(comparison))


def _on_the_drop_in(comparison: Comparison) -> Iterator[str]:
    results = [result["drop_in"] for result in comparison.seeds if "drop_in" in result]
    if not results:
        return
    bad = [result for result in results if result["differences"]]
    if not bad:
        yield (
            f"The drop-in's {results[0]['parameters']} parameters and {results[0]['states']} state tensors "
            f"are the same bits as torch.optim.Rprop's at the end ({_seeds(len(results))})."
        )
        return
    differ = (
        f"The drop-in's parameters and state are NOT the same bits as torch.optim.Rprop's at the end, in "
        f"{len(bad)} of {_seeds(len(results))}: {', '.join(bad[0]['differences'])}."
    )
    if any(result["torch_repeats_itself"] is False for result in bad):
        yield (
            f"{differ} But a second training with torch.optim.Rprop differs from the first too: gradients "
            "are not reproducible here, so this says nothing about the optimizers."
        )
    else:
        yield f"{differ} That is a bug; please report it with {RESULTS}."


def _on_the_report(comparison: Comparison) -> Iterator[str]:
    if not comparison.is_mnist:
        yield f"The report has no figures for this data ({comparison.settings['data_origin']}); it used MNIST."
        return
    if comparison.deviations:
        yield (
            f"Not the report's settings: {'; '.join(comparison.deviations)}. Its figures stand here for orientation."
        )
    else:
        off = [
            row["label"]
            for row in comparison.summary()
            if row["report_test_accuracy"] is not None and not abs(row["test_minus_report"] or 1.0) <= REPORT_TOLERANCE
        ]
        verdict = f"all but {', '.join(off)}" if off else "all"
        yield f"Mean test accuracy within {REPORT_TOLERANCE} of the report's Table 3.1: {verdict}."
    yield (
        "The report has one run a technique and no row for iRprop-; torch's row stands there, being the "
        "same rule. Its IRprop+ was never told the loss, ours is."
    )


def _fixed(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.4f}"


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"
