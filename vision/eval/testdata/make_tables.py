"""Writes table-*.json: five tables of labels and answers, and what scikit-learn, statsmodels, SciPy and NumPy
make of them. The Go tests compare the package with these figures.

    python -m venv venv && venv/bin/pip install scikit-learn statsmodels scipy
    venv/bin/python make_tables.py

Nothing here is taken from the Go code, except the generator of the bootstrap (PCG-DXSM, as in Go's math/rand/v2
and in NumPy) and its seed.
"""

import json
import pathlib
import platform

import numpy as np
import scipy
import sklearn
import statsmodels
import statsmodels.api as sm
from sklearn import calibration, metrics
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint
from statsmodels.stats.weightstats import DescrStatsW

HERE = pathlib.Path(__file__).parent
BINS = 15
REFUSED, BROKEN = "(refused)", "(broken)"


class PCG:
    """Go's rand.NewPCG(high, low).Uint64()."""

    MUL = (2549297995355413924 << 64) | 4865540595714422341
    INC = (6364136223846793005 << 64) | 1442695040888963407
    M64, M128 = (1 << 64) - 1, (1 << 128) - 1

    def __init__(self, high, low):
        self.state = (high << 64) | low

    def uint64(self):
        self.state = (self.state * self.MUL + self.INC) & self.M128
        hi, lo = self.state >> 64, self.state & self.M64
        hi ^= hi >> 32
        hi = hi * 0xDA942042E4DD58B5 & self.M64
        hi ^= hi >> 48
        return hi * (lo | 1) & self.M64


def ece(confidence, right):
    """From scikit-learn's reliability curve, weighed by the bins' counts."""
    true, mean = calibration.calibration_curve(right, confidence, n_bins=BINS, strategy="uniform")
    edges = np.linspace(0, 1, BINS + 1)
    counts = np.bincount(np.searchsorted(edges[1:-1], confidence), minlength=BINS)
    counts = counts[counts > 0]
    return float(np.sum(counts * np.abs(true - mean)) / len(confidence))


def bootstrap(confidence, right):
    rng, n = PCG(1927, 2017), len(confidence)
    eces, briers = [], []
    for _ in range(2000):
        at = np.array([(rng.uint64() * n) >> 64 for _ in range(n)])
        eces.append(ece(confidence[at], right[at]))
        briers.append(metrics.mean_squared_error(right[at], confidence[at]))
    return (list(np.percentile(eces, [2.5, 97.5])), list(np.percentile(briers, [2.5, 97.5])))


def odds(confidence):
    c = 0.5 + (confidence - 0.5) * 0.998
    return np.log(c / (1 - c))


def platt(confidence, right):
    """Platt's smoothed targets, fitted by statsmodels' binomial regression."""
    pos, neg = right.sum(), len(right) - right.sum()
    target = np.where(right == 1, (pos + 1) / (pos + 2), 1 / (neg + 2))
    fit = sm.GLM(target, sm.add_constant(odds(confidence)), family=sm.families.Binomial()).fit(tol=1e-14, maxiter=200)
    b, a = fit.params
    return float(a), float(b)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def held_out(confidence, right):
    out = np.empty(len(right))
    part = np.arange(len(right)) % 5
    for fold in range(5):
        a, b = platt(confidence[part != fold], right[part != fold])
        out[part == fold] = sigmoid(a * odds(confidence[part == fold]) + b)
    return out


def model(gold, answers, confidence, ms, full):
    right = np.array([g == a for g, a in zip(gold, answers)], dtype=int)
    labels = sorted(set(gold))
    classes = labels + sorted(set(answers) - set(labels))
    p, r, f, n = metrics.precision_recall_fscore_support(gold, answers, labels=classes, zero_division=np.nan)
    answered = np.array([a in classes and a not in (REFUSED, BROKEN) for a in answers])
    has = answered & np.array([c is not None for c in confidence])
    conf = np.array([c for c, h in zip(confidence, has) if h], dtype=float)
    hit = right[has]
    true, mean = calibration.calibration_curve(hit, conf, n_bins=BINS, strategy="uniform")
    eces, briers = bootstrap(conf, hit)
    none = lambda v: None if np.isnan(v) else float(v)
    out = {
        "accuracy": metrics.accuracy_score(gold, answers),
        "wilson": list(map(float, proportion_confint(int(right.sum()), len(right), 0.05, "wilson"))),
        "macro_f1": float(metrics.f1_score(gold, answers, labels=labels, average="macro", zero_division=0)),
        "classes": classes,
        "precision": [none(v) for v in p],
        "recall": [none(v) for v in r],
        "f1": list(map(float, metrics.f1_score(gold, answers, labels=classes, average=None, zero_division=0))),
        "n": [int(v) for v in n],
        "matrix": metrics.confusion_matrix(gold, answers, labels=classes).tolist(),
        "points": int(has.sum()),
        "ece": ece(conf, hit),
        "brier": float(metrics.brier_score_loss(hit, conf)),
        "ece_interval": eces,
        "brier_interval": briers,
        "reliability_right": list(map(float, true)),
        "reliability_mean": list(map(float, mean)),
        "p50": float(np.percentile(np.array(ms)[answered], 50)),
        "p95": float(np.percentile(np.array(ms)[answered], 95)),
    }
    if full:
        a, b = platt(conf, hit)
        if a <= 0:  # surer answers are not more often right
            return out | {"no_platt": a}
        held = held_out(conf, hit)
        at = [0, 0.1, 0.5, 0.6, 0.9, 0.95, 1]
        out |= {"platt": [a, b], "apply_at": at, "apply": list(map(float, sigmoid(a * odds(np.array(at)) + b))), "ece_held_out": ece(held, hit)}
    return out


def cascade(gold, a, b, confidence, cost_a, cost_b):
    # As vision.Chain asks: never after a first answer that is none, and where the second is none the first counts.
    right_a = np.array([x == g for x, g in zip(a, gold)])
    right_b = np.array([y == g or y in (REFUSED, BROKEN) and x == g for x, y, g in zip(a, b, gold)])
    c = np.array([np.inf if x in (REFUSED, BROKEN) else -1 if v is None else v for v, x in zip(confidence, a)], dtype=float)
    steps = []
    for bound in [0.0] + sorted(set(c[(c >= 0) & (c < np.inf)]))[1:] + [2.0]:
        ask = c < bound
        steps.append({
            "bound": float(bound),
            "asked": int(ask.sum()),
            "accuracy": float(np.where(ask, right_b, right_a).mean()),
            "cost": float((np.array(cost_a) + np.where(ask, cost_b, 0)).mean()),
        })
    return steps


def table(name, rng, n, classes, skill, states, edges=False, odd=0.0, tilt=0.8, full=True):
    """n pictures; skill[i] is how often model i is right, states[i] the confidences that it states."""
    weights = 1 / np.arange(1, len(classes) + 1)  # some classes are rare
    gold = [classes[i] for i in rng.choice(len(classes), n, p=weights / weights.sum())]
    columns = {"gold": gold}
    hard = rng.random(n)
    for i, who in enumerate("ab"):
        answers, confidence = [], []
        for j, g in enumerate(gold):
            c = float(rng.choice(states[i]))
            chance = skill[i] * (1 - tilt + tilt * c) - 0.25 * (hard[j] > 0.8)
            u = rng.random()
            if u < odd:
                answers.append(str(rng.choice([REFUSED, BROKEN, "something else"])))
                confidence.append(None if answers[-1] in (REFUSED, BROKEN) else c)
                continue
            answers.append(g if rng.random() < chance else str(rng.choice(classes)))
            confidence.append(None if rng.random() < odd / 2 else c)
        columns |= {
            who: answers,
            "confidence_" + who: confidence,
            "ms_" + who: [round(float(v), 3) for v in rng.lognormal(6.5 + i / 2, 0.5, n)],
            "cost_" + who: [int(v) for v in rng.integers(100, 300, n) * (1 + 9 * i)],
        }
    if edges:  # confidences on the edges of bins
        for i in range(n):
            columns["confidence_a"][i] = i % 16 / 15
    right = {w: np.array([g == x for g, x in zip(gold, columns[w])], dtype=int) for w in "ab"}
    counts = [[int(((right["a"] == x) & (right["b"] == y)).sum()) for y in (1, 0)] for x in (1, 0)]
    d = DescrStatsW(right["b"] - right["a"])
    doc = {
        "made_with": {"python": platform.python_version(), "numpy": np.__version__, "scipy": scipy.__version__,
                      "scikit-learn": sklearn.__version__, "statsmodels": statsmodels.__version__},
        "columns": columns,
        "models": [model(gold, columns[w], columns["confidence_" + w], columns["ms_" + w], full) for w in "ab"],
        "pairs": counts,
        "mcnemar": float(mcnemar(counts, exact=True).pvalue),
        "difference": [float(d.mean), *map(float, d.zconfint_mean())],
        "cascade": cascade(gold, columns["a"], columns["b"], columns["confidence_a"], columns["cost_a"], columns["cost_b"]),
    }
    text = json.dumps(doc, ensure_ascii=False)
    text = text.replace('], "', '],\n"').replace('}, {', '},\n{')
    (HERE / f"table-{name}.json").write_text(text + "\n", encoding="utf-8")
    print(name, n, doc["models"][0]["accuracy"], doc["models"][1]["accuracy"], doc["models"][0]["ece"], doc["models"][0].get("platt"), doc["models"][0].get("ece_held_out"), doc["mcnemar"])


spoken = [0.6, 0.7, 0.8, 0.85, 0.9, 0.9, 0.95, 0.95, 0.98, 1.0]
fine = list(np.linspace(0.02, 0.99, 98))
table("small", np.random.default_rng(1), 32, ["glass", "paper"], [0.9, 1.0], [fine, spoken], edges=True, full=False)
table("plain", np.random.default_rng(2), 250, ["glass", "metal", "paper"], [0.95, 1.1], [fine, fine])
table("odd", np.random.default_rng(3), 400, [f"class {i:02}" for i in range(19)], [0.8, 1.0], [spoken, spoken], odd=0.1)
table("surest", np.random.default_rng(4), 600, ["battery", "can", "film", "lamp", "paper"], [0.7, 0.9], [spoken, spoken], tilt=-0.4)
table("korean", np.random.default_rng(5), 1300, ["플라스틱", "비닐", "종이", "유리병", "캔", "미분류"], [0.85, 1.05], [spoken, fine], odd=0.02)
