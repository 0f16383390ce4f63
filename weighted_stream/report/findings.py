"""What a run has to say for itself, in words: the answers at the top of the page."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from weighted_stream.report.charts import ENOUGH, Parts, group_parts, shard_parts
from weighted_stream.report.run import Run
from weighted_stream.report.shown import visible

Level = Literal["good", "plain", "look"]

CONSTANT, HARDLY, MILD, STRONG = 0.999, 0.98, 0.85, 0.3
"""Effective sample sizes that words begin and end at."""

ALIKE = 1.03
"""Parts of the data whose mean weights differ from that of all by a factor of less than this are called alike."""


class Finding(NamedTuple):
    """An answer.

    Attributes:
        question: what it answers.
        answer: in some words.
        detail: the figures behind it.
        level: ``"look"`` if somebody should look at it.
    """

    question: str
    answer: str
    detail: str
    level: Level = "plain"


def findings(run: Run) -> list[Finding]:
    """The answers of a run, but for those about single samples."""
    if not run.census.samples:
        return [Finding("What is in it?", "Nothing yet", "The store remembers no sample.", "look")]
    found = [varied(run)]
    of = "candidates" if run.course is not None and run.course.passed else "visits"
    for what, parts, missing in (
        (
            "kind of text",
            group_parts(run),
            "The stream named no groups: WeightedStream(…, group_fn=…) says which domain, language or source a sample "
            "is of.",
        ),
        (
            "shard",
            shard_parts(run),
            "The ids of this dataset do not tell the shard (those of MDS and Parquet without id_fn do).",
        ),
    ):
        found.append(preferred(what, parts, missing, of))
    return [*found, learned(run), covered(run), scored(run), finite(run)]


def varied(run: Run) -> Finding:
    """Whether the weights were so different that they can have mattered."""
    question = "Did the weights vary enough to matter?"
    course = run.course
    batch, chosen = "the batch", ""
    if course is None or not course.moments()[0]:
        stats = run.stats
        if not stats["window"]:
            return Finding(question, "No weights", "The store remembers no weight of any sample.", "look")
        ess, cv = stats["ess"], stats["weight_cv"]
        low, high = stats["weight_q05"], stats["weight_q95"]
        of = f"the latest {stats['window']:,.0f} weights (there is no journal with more)"
    else:
        count, _, cv = course.moments()
        each = course.ess()
        low, high = np.quantile(course.all_weights(), (0.05, 0.95)).tolist() if len(course.all_weights()) else (0, 0)
        if len(each):
            ess = float(each.mean())
            of = f"{len(each):,} steps" if course.width == 1 else f"groups of {course.width} steps"
        else:
            ess, batch, of = course.ess_of_all(), "all weights", f"{count:,.0f} steps of one weight each"
        if course.passed:
            chosen = f"{count / (count + course.passed):.1%} of the candidates were chosen. "
    figures = (
        f"{chosen}Effective sample size {ess:.1%} of {batch}, coefficient of variation {cv:.2f}; nine of ten weights "
        f"lie between {low:.2f} and {high:.2f}. Over {of}."
    )
    if chosen and (ess > HARDLY or not cv > 0):
        return Finding(question, "No: samples were chosen, not weighed", figures)
    if ess > CONSTANT or not cv > 0:
        return Finding(question, "No: this was uniform training", figures + " Equal weights change nothing.", "look")
    if ess > HARDLY:
        return Finding(question, "Hardly", figures + " So little will be hard to tell from uniform training.", "look")
    if ess > MILD:
        return Finding(question, "Yes, mildly", figures, "good")
    if ess >= STRONG:
        return Finding(question, "Yes", figures, "good")
    more = " So few samples carried the training that its gradients are those of a much smaller batch."
    return Finding(question, "Yes, perhaps too much", figures + more, "look")


def preferred(what: str, parts: Parts, missing: str, of: str = "visits") -> Finding:
    """Which parts got more of the weight than of the visits (or of what ``of`` names), and which less."""
    question = f"Which {what} got weight?"
    if not parts.known:
        return Finding(question, "Not known", missing if not len(parts.names) else "No sample has a weight.")
    mean, (visits, weight) = parts.mean(), parts.shares()
    enough = np.flatnonzero(parts.visits >= ENOUGH)
    few = np.flatnonzero((parts.visits > 0) & (parts.visits < ENOUGH))
    if len(enough) + len(few) < 2:
        return Finding(question, f"There is one {what} only", f"{len(parts.names)} named, {len(enough)} with samples.")
    if len(enough) < 2:
        return Finding(question, f"Too few {of} to say", f"{len(few)} have fewer than {ENOUGH} each.")
    order = enough[np.argsort(-mean[enough], kind="stable")]

    def named(row: int) -> str:
        name = visible(parts.names[row], 60)
        return f"{name}: {weight[row]:.1%} of the weight for {visits[row]:.1%} of the {of} (×{mean[row]:.2f})"

    most, least = int(order[0]), int(order[-1])
    ups = [row for row in order[:2].tolist() if mean[row] > 1] or [most]
    downs = [row for row in order[:-3:-1].tolist() if mean[row] < 1 and row not in ups] or [least]
    unranked = ""
    if len(few):
        rest = ", ".join(f"{visible(parts.names[row], 60)} (×{mean[row]:.2f})" for row in few[:3].tolist())
        unranked = f" Not ranked, with fewer than {ENOUGH} {of}: {rest}{' …' if len(few) > 3 else ''}."
    detail = f"Most: {'; '.join(map(named, ups))}. Least: {'; '.join(map(named, downs))}.{unranked}"
    if mean[most] < ALIKE and mean[least] > 1 / ALIKE:
        detail = f"The mean weights of {len(order):,} lie between ×{mean[least]:.2f} and ×{mean[most]:.2f} that of all."
        detail += unranked
        return Finding(question, "All alike", detail)
    answer = f"{visible(parts.names[most], 40)} most (×{mean[most]:.2f}), {visible(parts.names[least], 40)} least "
    return Finding(question, f"{answer}(×{mean[least]:.2f})", detail)


def learned(run: Run) -> Finding:
    """How the loss went."""
    question = "Did the loss fall?"
    course = run.course
    if course is None:
        return Finding(question, "Not known", "The store has no journal, which would say it.")
    mean = course.loss_means()[0]
    known = mean[np.isfinite(mean)]
    if len(known) < 2:
        return Finding(question, "Too short to say", f"{course.visits:,} losses.")
    first, last = float(known[0]), float(known[-1])
    lowest = float(known.min())
    steps = course.intervals
    part = "of the run"
    if run.feed.falls:
        part = "since the steps began anew"
    elif course.visits < run.stats["visits"]:
        part = "of what the journal has"
    detail = f"Mean loss {first:.3g} in the first interval {part}, {last:.3g} in the last, steps {steps.first:,} to "
    detail += f"{steps.last:,}; each sample before it was trained on, all counted alike."
    if last >= first:
        return Finding(question, "No, it rose" if last > first else "No", detail, "look")
    if last > lowest + 0.25 * (first - lowest):
        return Finding(question, "Yes, but it rose again", f"{detail} The lowest was {lowest:.3g}.", "look")
    return Finding(question, f"Yes, from {first:.3g} to {last:.3g}", detail, "good")


def covered(run: Run) -> Finding:
    """What was never trained on."""
    question = "Was anything skipped?"
    census, visits = run.census, run.stats["visits"]
    total = _total(run)
    parts = [f"{census.visited:,} samples were trained on" + (f" of {total:,} in the dataset." if total else ".")]
    if not total:
        parts.append("How many there are is not known from their ids.")
    rows = run.places.rows
    untouched = np.flatnonzero((run.census.shards[1, :-1] == 0) & (rows > 0))
    enough = total is not None and visits >= total
    look = False
    if census.passed:
        why = "never chosen, or their losses were not finite" if run.stats["nonfinite"] else "never chosen"
        parts.append(f"{census.passed:,} were drawn and {why}.")
    if run.course is not None and run.course.passed:
        share = run.course.passed / (run.course.passed + run.course.moments()[0])
        parts.append(f"{share:.1%} of the candidates were passed over: they were read and did not count.")
    if run.course is not None and run.course.zero:
        share = run.course.zero / run.course.moments()[0]
        parts.append(f"{share:.1%} of the weights were 0: those samples were read and did not count.")
    if len(untouched):
        look = enough
        names = ", ".join(visible(run.places.names[shard], 60) for shard in untouched[:3].tolist())
        parts.append(
            f"{len(untouched):,} of {len(rows):,} shards were never trained on ({names}…)."
            if len(untouched) > 3
            else f"Shards that were never trained on: {names}."
        )
    missing = 0 if total is None else max(0, total - census.visited)
    if missing and not enough:
        parts.append(f"The run had {visits:,.0f} visits, less than one pass over the dataset.")
    elif missing > 0.02 * (total or 1) and not census.passed:
        look = True
        parts.append(
            f"With {visits:,.0f} visits, {visits / (total or 1):.1f} passes, more of them could have been seen."
        )
    if total is None or missing:
        parts.append("What on_bad_shard left out is not written down as such; it is among what was never trained on.")
    if total is None:
        answer = "Not known"
    elif not missing:
        answer = "No: every sample was trained on"
    elif len(untouched):
        answer = f"{missing:,} samples, {len(untouched):,} whole shards"
    else:
        answer = f"{missing:,} samples ({missing / total:.1%})"
    return Finding(question, answer, " ".join(parts), "look" if look else "good" if total and not missing else "plain")


def scored(run: Run) -> Finding:
    """Whether samples lacked a score."""
    question = "Was anything unscored?"
    scores, unscored = int(run.stats["scored"]), int(run.stats["unscored"])
    if not scores:
        return Finding(question, "No scores were used", "No sample of this store has a similarity.")
    detail = f"{scores:,} samples have a similarity; {unscored:,} were trained on without one, as if it were neutral."
    if not unscored:
        return Finding(question, "No", detail, "good")
    share = unscored / max(1, run.census.visited)
    return Finding(question, f"{unscored:,} samples ({share:.1%})", detail, "look" if share > 0.01 else "plain")


def finite(run: Run) -> Finding:
    """Whether losses were not finite."""
    question = "Was anything broken?"
    bad = int(run.stats["nonfinite"])
    trouble = run.feed.trouble
    parts = [
        f"{bad:,} losses were NaN, infinite or beyond 1e38, of {len(run.census.broken):,} samples"
        + (" or more" if len(run.census.broken) >= 200 else "")
        + "; they had weight 0 and count nowhere."
        if bad
        else "All losses were finite."
    ]
    if trouble:
        parts.append(f"The journal could not be read to the end, and the charts end there: {visible(trouble, 300)}")
    answer = " and ".join(
        [*([f"{bad:,} losses that were not finite"] if bad else []), *(["a damaged journal"] if trouble else [])]
    )
    return Finding(question, answer or "No", " ".join(parts), "look" if answer else "good")


def _total(run: Run) -> int | None:
    """Samples of the dataset, where that is known."""
    if len(run.places):
        return int(run.places.rows.sum())
    size = None if run.fingerprint is None else run.fingerprint.get("size")
    return size if isinstance(size, int) and size >= 0 else None
