"""What a page does not have, and what in it was drawn at random."""

from __future__ import annotations

from weighted_stream.report.run import Run
from weighted_stream.report.shown import visible
from weighted_stream.report.texts import Read, name_of


def notes(run: Run, second: Run | None, read: Read, shown: int, texts: bool) -> list[str]:
    """What is not in the page, and what was drawn at random.

    Args:
        run, second: what it is of.
        read: the texts.
        shown: samples in the table.
        texts: whether there were data to read them from.
    """
    said = []
    for one in (run, second):
        if one is None:
            continue
        of = f" of {visible(name_of(one.path), 60)}" if second is not None else ""
        census, course = one.census, one.course
        if not census.whole:
            said.append(
                f"{len(census.ids):,} of the {census.samples:,} samples{of} were looked at one by one: drawn at "
                "random, and those with the highest and lowest last weight, last loss and similarity. Lists and the "
                "table are made of these; counts, sums and shares are of all."
            )
        if course is None:
            said.append(
                f"The store{of} has no journal with steps: nothing is known of how weights and losses moved, and the "
                "weight of a sample is its last one. A store with a path keeps a journal, unless journal=False."
            )
            continue
        if course.drawn:
            said.append(f"Quantiles over time{of} are those of 4,096 visits drawn at random from each interval.")
        if one.feed.falls:
            before, after = one.feed.falls[-1]
            said.append(
                f"The steps{of} begin anew: step {after:,} comes after step {before:,}, so a second run wrote into the "
                "store of a first one, without load_state_dict. What is said of steps, weights and losses is of what "
                f"came after, {course.visits:,} of {one.stats['visits']:,.0f} visits; the records, from which the rest "
                "is taken, are of all."
            )
        elif course.visits < one.stats["visits"]:
            said.append(
                f"The journal{of} has {course.visits:,} of {one.stats['visits']:,.0f} visits: older ones were "
                f"compacted into the records, and charts begin at step {course.intervals.first:,}; a larger "
                "journal_bytes= keeps more."
            )
    if not texts:
        said.append("No texts: name the data with --data, and the samples can be read here.")
    said += [visible(note, 400) for note in read.notes]
    if run.census.visited > shown:
        said.append(
            f"The table has {shown:,} of {run.census.visited:,} samples: those of all lists, and others drawn at "
            "random."
        )
    if len(read.ids) and not read.whole:
        said.append(f"Repeats were looked for among the {len(read.ids):,} texts that were read, not among all.")
    return said
