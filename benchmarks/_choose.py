"""Write the measured table of docs/choose.md from a result of `python -m benchmarks solvers`.

python -m benchmarks._choose [RESULT.json]; without a file, the newest result in benchmarks/results.
"""

import json
import sys
from pathlib import Path

from benchmarks.__main__ import FOLDER
from redrift._core.files import write_atomically

PAGE = FOLDER.parent / "docs" / "choose.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
SHOWN = {
    "hard-vp": "narrow mixtures (VP)",
    "digits": "digits network",
    "cifar10": "colour network",
}


def table(record):
    """Return the Markdown of the measured part."""
    result = record["result"]
    budgets = result["budgets"]
    lines = [
        f"Median / 90th percentile of the distance to the exact flow, {record['date']}, commit "
        f"{record['commit'][:7]} (`python -m benchmarks solvers`, then `python -m benchmarks._choose`).",
        "",
    ]
    for name, title in SHOWN.items():
        found = result["problems"].get(name)
        if found is None:
            continue
        lines += [f"**{title}**", "", "| evaluations | `best_plan` | best other here | best of diffusers |",
                  "|---|---|---|---|"]  # fmt: skip
        for i, budget in enumerate(budgets):
            mine = found["redrift"]["best_plan"]
            others = {
                plan: rows
                for plan, rows in found["redrift"].items()
                if plan != "best_plan" and rows["median"][i] is not None
            }
            other = min(others, key=lambda plan: others[plan]["median"][i])
            rival = found["best"][i]
            lines.append(
                f"| {budget} | {pair(mine, i)} | {other}: {pair(others[other], i)} | "
                f"{rival['median']:.1e} ({rival['config']['median']}) / {rival['p90']:.1e} |"
            )
        lines.append("")
    return "\n".join(lines)


def pair(rows, i):
    return f"{rows['median'][i]:.1e} / {rows['p90'][i]:.1e}"


def main():
    files = sorted((FOLDER / "results").glob("*-solvers.json"))
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else files[-1]
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before}{BEGIN}\n{table(json.loads(path.read_text()))}\n{END}{after}"
    write_atomically(PAGE, lambda target: Path(target).write_text(made, encoding="utf-8"))
    print(f"wrote {PAGE.name} from {path.name}")


if __name__ == "__main__":
    main()
