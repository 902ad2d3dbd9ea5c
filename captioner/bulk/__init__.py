"""Bulk captioning: any number of images on any number of machines, in chunks; a run that was killed goes on.

The output folder holds

    _plan.jsonl            what decides the captions, then a line for each chunk: which images it is made of
    part-000012.parquet    (or .jsonl) a row for each image of a chunk: its caption, or the reason why it has none

The first run writes the plan and later ones read it, so that all agree on what is in a chunk, whatever happened to the
images since. A chunk is written beside its place and renamed when it is whole: it is there, or it is not done. No run
needs to know more than that to go on, and it does no harm when a chunk is begun twice. (Readers of parquet folders
leave out files that begin with "_" or ".".)

Reading order: `work.py` (what a chunk is made of), `plan.py` (which chunks there are), `chunks.py` (captioning one),
`run.py` (all of them, by Ray).
"""

from captioner.bulk.chunks import MAX_TRIES, Done, Worker, answer, done_before, look_up, record, write_chunk
from captioner.bulk.plan import PLAN, WORKSHOP, Job, Plan, PlanError, PlannedChunk
from captioner.bulk.run import Share, ray_cluster, run_chunks, share_out
from captioner.bulk.work import ImageList, TableRows, TarShard, Work, divide_images, divide_table, find_work

__all__ = [
    "MAX_TRIES",
    "PLAN",
    "WORKSHOP",
    "Done",
    "ImageList",
    "Job",
    "Plan",
    "PlanError",
    "PlannedChunk",
    "Share",
    "TableRows",
    "TarShard",
    "Work",
    "Worker",
    "answer",
    "divide_images",
    "divide_table",
    "done_before",
    "find_work",
    "look_up",
    "ray_cluster",
    "record",
    "run_chunks",
    "share_out",
    "write_chunk",
]
