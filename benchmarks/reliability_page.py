"""``docs/reliability.md`` from ``docs/reliability/*.json``.

python -m benchmarks.reliability_page
"""

from __future__ import annotations

import json
from pathlib import Path

from monai_ifim.data.atomic import complete_file

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "reliability"
PAGE = ROOT / "docs" / "reliability.md"
ORDER = (
    *("kills", "torchrun", "signals", "full_disk", "workers"),
    *("two_runs", "vanished", "raising", "overhead"),
)
HEAD = """# What disturbed runs lose

Made by `python -m benchmarks.reliability_page` from `docs/reliability/*.json`; do not edit.

Real runs of `bundles/ifim_signal_2d` on {images} images made by the harness, batches of one
unless said otherwise. A run is disturbed, then goes on with `--ifim_resume true`, and every byte
of `ifim.csv`, `predictions.csv` and all volumes is compared with an undisturbed run. A trial has
lost something when a byte differs, a file is missing or too much, the resumed run does not end
with 0, or a promise of the last column is not kept. To save time a parent imports torch and MONAI
once and forks each run, which is then a process of its own; torchrun's are started as a user
does.

| what | trials | lost something | images done twice | promises kept | command |
| --- | --- | --- | --- | --- | --- |
"""
TAIL = """
"Images done twice" counts images whose work had begun when the run was cut short and began anew
after it: per kill at most the one in work (on two ranks, two).

## What a results folder holds

- `run.json`: network (SHA-256 of the weights), settings, preprocessing, bundle, versions,
  command, and whether the run is `running`, `complete` or `interrupted`, with the reason.
- `.ifim/journal-*.jsonl`: one file a process, a line for each image when its volumes have their
  names: all numbers, sizes of the volumes, size and time of the source. `.ifim/images.json`: the
  list.
- `ifim.csv`, made from these at the end and after each interruption that can be caught; one that
  was cut short has a last row `run` (or `rank N`) that says so, and the images not reached have
  rows.

`resume=True` (`--resume`, `--ifim_resume true`) leaves out, before they are loaded, images whose
line, source and volumes are as they were; a batch of which a part is done is done again as a
whole, so that the last digits are the same. Failed images are tried again. An image whose process
ends while it is in work is tried three times in all, the third time in a batch of one, and then
gets a row. Another network, settings, preprocessing or bundle are refused with what differs;
`vjp_chunk` and `offload` may change.

Without `resume`, results of another run are refused, or moved (`--existing move`,
`--ifim_existing move`) into `earlier-<date>`. Of a handler's several epochs each has its table,
`ifim_epoch_0003.csv`, and `ifim.csv` is that of the last one, whose volumes lie there;
the process that made a complete run may repeat it (a notebook). `ifim_validate.yaml` moves by
default.

Several processes can share a list and a folder, `--shard 3/100`; the last one to end writes the
tables, and `run.json` says in `parts` which have begun and ended. `monai-ifim merge` makes one
table of the journals of one folder or several and names every listed image without a row
([scaling.md](scaling.md)).

## Limits

- Files are renamed into place, not synced: after a power cut (not a kill) a volume can be empty
  although its line is there. Its size differs then, so that `resume` does the image again, and
  `monai-ifim merge --verify` names it. `MONAI_IFIM_FSYNC=1` syncs every file and journal line.
- Savers of other packages write at their end and hold only the last part after a resume; metrics
  too. `ifim.csv` has the probabilities of all images, `PredictionSaver` all predictions.
- Data without a list of files (arrays, iterable data sets), and files listed twice, are done
  again.
- A lock needs a disk with `flock`; where there is none the log says so.
- The ranks of a process group still hand their rows to rank 0 through it; journals serve the
  resume.
"""


def page() -> str:
    """The text of the page."""
    found = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.json")}
    cases = [found[name] for name in ORDER if name in found and "details" in found[name]]
    lines = [HEAD.format(images=cases[0]["images"])]
    for case in cases:
        trials = case["details"]
        again = sum(trial.get("begun_again", 0) for trial in trials)
        twice = str(again) if any("begun_again" in trial for trial in trials) else "–"
        names = dict.fromkeys(n for trial in trials for n in trial.get("kept_promises", ()))
        kept = [
            f"{name} {sum(trial['kept_promises'][name] for trial in trials)}/{len(trials)}"
            for name in names
        ]
        lost = case["trials_that_lost_something"]
        cells = [case["what"], len(trials), lost, twice, "; ".join(kept), f"`{case['command']}`"]
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
    if "overhead" in found:
        lines.append("\n" + overhead(found["overhead"]))
    return "".join(lines) + TAIL + long_runs(found)


def long_runs(found: dict[str, dict]) -> str:
    """What soak, fuzz and random networks found."""
    lines = ["\n## Numbers, long runs and hostile input\n\n"]
    if soak := found.get("soak"):
        files, attached = soak["open_files"], soak["attached"]
        lines.append(
            f"- {soak['images']:,} small images in one process, with handler and two volumes each: "
            f"resident memory grows by {soak['megabytes_per_1000_images']:.2f} MB per 1,000 "
            f"images (rows of the table are kept to the end), open files {files[0]} → {files[1]}, "
            f"tensors {soak['tensors'][0]} → {soak['tensors'][1]}, of which with a graph "
            f"{soak['tensors_with_a_graph'][1]}; a handler attached and detached "
            f"{attached['times']:,} times leaves {attached['handlers_left']} functions and "
            f"{max(attached['objects_left'], 0)} objects; {len(soak['faults'])} faults "
            f"(`{soak['command']}`; `make soak` runs 20,000).\n"
        )
    if fuzz := found.get("fuzz"):
        named = ", ".join(f"{fault['file']}: {fault['what']}" for fault in fuzz["faults"])
        rows = ", ".join(f"{count:,} with {what}" for what, count in fuzz["rows"].items())
        lines.append(
            f"- {fuzz['files']:,} damaged NIfTI and DICOM files, made of {fuzz['originals']} files "
            f"of nibabel's and pydicom's tests and of ours: one row each ({rows}), at most "
            f"{fuzz['megabytes_at_most']} MB beyond the imports ({fuzz['megabytes_allowed']} "
            f"allowed), the slowest took {fuzz['seconds_of_the_slowest']} s "
            f"({fuzz['seconds_allowed']} allowed); {len(fuzz['faults'])} at fault "
            f"{named and f'[{named}] '}(`{fuzz['command']}`; `make fuzz` runs 10,000).\n"
        )
    if networks := found.get("networks"):
        worst = "; ".join(f"{name} {error:.1e}" for name, error in networks["worst"].items())
        lines.append(
            f"- {sum(networks['problems'].values()):,} random networks and images from 1e-6 to "
            f"1e6 against the dense float64 matrix: worst errors relative to the largest "
            f"eigenvalue, {worst} ({networks['bound']:.0e} allowed; `{networks['command']}`).\n"
        )
    lines.append(
        "- The random networks found that torch 2.13 on the CPU gives instance norms, and batch "
        "norms of one image, a wrong input gradient where they stand beside a map of tokens (off "
        "by more than its own size). `eigenspace` and `IFIMInferer` have the right one "
        "(`pytest tests/core/gradients/fast/test_laid_out_norms.py`), but not in TorchScript, nor "
        "of a batch norm of one image in a checkpointed part of the network; training does not "
        "have it. On a GPU it was not tried.\n"
        "- Pickles in weights and images, names that would leave the folder, links and "
        "connections: `pytest tests/test_hostile.py`; what is trusted: `SECURITY.md` of the "
        "repository.\n"
    )
    return "".join(lines)


def overhead(result: dict) -> str:
    """What a line of the journal takes."""
    return (
        f"Journalling takes {result['milliseconds_per_image']:.3f} ms an image (start line, states "
        f"of the source and {result['volumes']} volumes, row line; median of {result['images']}), "
        f"reading what is done {result['milliseconds_to_look_back']:.3f} ms an image at a resume "
        f"(`{result['command']}`).\n"
    )


def main() -> None:
    """Write the page."""
    with complete_file(PAGE) as partial:
        partial.write_text(page())


if __name__ == "__main__":
    main()
