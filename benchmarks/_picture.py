"""The picture of the benchmark `solvers`."""

import math

HIGHLIGHTED = {"best_plan": "C3", "DEIS 4": "C0", "RES 2S": "C2"}


def draw(result: dict, path: str, kinds: tuple[str, ...], tiers: tuple[str, ...]) -> None:
    """Draw one column a problem, one row a figure."""
    import matplotlib.pyplot as plt

    names = list(result["problems"])
    budgets = result["budgets"]
    figure, axes = plt.subplots(
        2, len(names), figsize=(3.1 * len(names), 6), sharex=True, squeeze=False
    )
    for column, name in enumerate(names):
        found = result["problems"][name]
        finite = name == "digits-empirical"  # a step to zero noise meets a finite set exactly
        for row, kind in enumerate(kinds):
            panel(axes[row][column], budgets, found, kind, tiers[2 if finite else 0])
            if not row:
                axes[row][column].set_title(f"{name}, noise left" if finite else name, fontsize=10)
            if not column:
                axes[row][column].set_ylabel(f"{kind} of the defect")
        axes[-1][column].set_xlabel("evaluations")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=6, fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0.09, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)


def panel(axis, budgets: list[int], found: dict, kind: str, tier: str) -> None:
    """Draw one figure of one problem: diffusers as a band, redrift's plans as lines."""
    axis.set(xscale="log", yscale="log")
    axis.set_xticks([5, 10, 20, 50], labels=["5", "10", "20", "50"])
    axis.minorticks_off()
    axis.set_xlim(budgets[0] * 0.93, budgets[-1] * 1.07)
    rows = [d[kind].replace("~", "").split() for d in found["diffusers"].values()]
    columns = [[float(v) for v in column if v != "-"] for column in zip(*rows)]
    best = [b[kind] for b in found[tier]]
    middle = [max(sorted(c)[len(c) // 2], b) for c, b in zip(columns, best)]
    axis.fill_between(budgets, best, middle, color="0.85", label="diffusers, the better half")
    axis.plot(budgets, best, color="0.35", lw=2, label="diffusers, best of all at each budget")
    for name, r in found["redrift"].items():
        values = [math.nan if v is None else v for v in r[kind]]
        if all(map(math.isnan, values)):
            continue
        if name in HIGHLIGHTED:
            color = HIGHLIGHTED[name]
            axis.plot(budgets, values, "o-", ms=3, color=color, label=f"redrift {name}")
        else:
            axis.plot(budgets, values, color="C0", lw=0.6, alpha=0.3)
