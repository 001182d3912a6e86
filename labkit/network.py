"""A picture of the chain: who predicts whom, where errors go, what is clamped, what is local."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, FancyBboxPatch, Patch, Wedge

from labkit import plot

THIN = {"color": plot.BLACK, "lw": 0.8}
DOT = {"ls": "", "mec": plot.BLACK, "ms": 9}
SOLID = {"color": plot.BLUE, "lw": 1.8}
DASHED = {"color": plot.RED, "lw": 1.4, "ls": (0, (3, 2))}


def network(names: Sequence[str], tasks: Mapping, *, title: str, both=False, local=None):
    """Show a chain of `names`, first to last, once for each task, with alternative text.

    `tasks` names what each clamps: {"train": {"x": 1, "y": 1}}, a share below 1 clamps a part.
    `both` predicts in both directions; `local` frames, in the first task, what that weight needs.
    """
    if len(names) < 2 or not tasks:
        raise ValueError("a network needs at least two names and one task")
    if unknown := {name for clamped in tasks.values() for name in clamped} - set(names):
        raise ValueError(f"clamped but not in the chain {list(names)}: {sorted(unknown)}")
    if local is not None and (both or not 1 <= local < len(names)):
        raise ValueError(f"local={local}: in one direction, weights are 1 to {len(names) - 1}")
    height = (1.9 if both else 1.25) * len(tasks) + 0.9
    figure, rows = plt.subplots(len(tasks), figsize=(7.2, height), squeeze=False)
    for axes, (task, clamped) in zip(rows[:, 0], tasks.items(), strict=True):
        axes.set(xlim=(-0.6, 2 * len(names) - 1.4), ylim=(-1.2, 1.2) if both else (-0.8, 0.6))
        axes.set_aspect("equal")
        axes.axis("off")
        axes.set_title(task, fontsize=10)
        _chain(axes, names, clamped, both)
    if local is not None:
        frame = FancyBboxPatch((2 * local - 2.45, -0.65), 1.9, 1.1, boxstyle="round,pad=0")
        frame.set(fill=False, edgecolor=plot.GREEN, linewidth=2)
        rows[0, 0].add_patch(frame)
    figure.suptitle(title, x=0.13, ha="left", fontsize=11)
    key = [
        Line2D([], [], **SOLID, label="prediction"),
        Line2D([], [], **DASHED, label="error, to what may move"),
        Line2D([], [], **THIN, label="compared with"),
        Line2D([], [], **DOT, marker="o", mfc=plot.SKY, label="clamped activity"),
        Line2D([], [], **DOT, marker="o", mfc=plot.PAPER, label="free activity"),
    ]
    unit = r"error unit ($f$ forward, $b$ backward)" if both else "error unit"
    key.append(Line2D([], [], **DOT | {"mec": plot.RED}, marker="D", mfc=plot.PAPER, label=unit))
    if local is not None:
        words = f"all that $W_{local}$ needs to learn"
        key.append(Patch(fill=False, edgecolor=plot.GREEN, lw=2, label=words))
    figure.legend(handles=key, loc="upper center", bbox_to_anchor=(0.5, 0.08), ncols=3)
    known = "; ".join(f"{task}: {_words(clamped)}" for task, clamped in tasks.items())
    way = "in both directions" if both else "the next"
    alt = f"A chain of circles, {', '.join(names)}; each predicts {way}, with an error unit "
    alt += f"{'for each direction ' if both else ''}between neighbours. Clamped, {known}."
    if local is not None:
        alt += (
            f" A frame holds {names[local - 1]} and error {local}, all that weight {local} needs."
        )
    alt = alt.replace("\n", " ").replace("$", "")
    plot.show(figure, alt=alt)


def _words(clamped):
    return " and ".join(n if s == 1 else f"part of {n}" for n, s in clamped.items()) or "nothing"


def _chain(axes, names, clamped, both):
    def arrow(start, end, style, bend=0.0):
        shape = {"arrowstyle": "-|>", "shrinkA": 13, "shrinkB": 13, **style}
        shape["shrinkB"] = 21 if style is DASHED else 13
        shape["connectionstyle"] = f"arc3,rad={bend}"
        axes.annotate("", end, start, arrowprops=shape)

    for number in range(1, len(names)):
        left, right = (2 * number - 2, 0), (2 * number, 0)
        for way, sign in (("f", 1), ("b", -1)) if both else (("", 0),):
            error = (2 * number - 1, 0.75 * sign)
            arrow(right if sign < 0 else left, error, SOLID)
            axes.plot(*zip(error, left if sign < 0 else right, strict=True), **THIN)
            for end, bend in ((left, -0.4), (right, 0.4)):
                if clamped.get(names[round(end[0] / 2)], 0) < 1:
                    arrow(error, end, DASHED, bend * (-1 if sign > 0 else 1))
            axes.plot(*error, "D", ms=19, mfc=plot.PAPER, mec=plot.RED)
            symbol = rf"$\varepsilon_{{{number}}}^{{{way}}}$" if way else rf"$\varepsilon_{number}$"
            axes.text(*error, symbol, ha="center", va="center", fontsize=9)
    for place, name in enumerate(names):
        share = clamped.get(name, 0)
        axes.add_patch(Circle((2 * place, 0), 0.36, fc=plot.PAPER, ec=plot.BLACK, zorder=3))
        if share:
            axes.add_patch(Wedge((2 * place, 0), 0.35, 90, 90 + 360 * share, fc=plot.SKY, zorder=3))
        axes.text(2 * place, 0, name, ha="center", va="center", fontsize=9, zorder=4)
