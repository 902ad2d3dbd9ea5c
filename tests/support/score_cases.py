"""Captions with references, and a Java of our own."""

from __future__ import annotations

import stat

REFERENCES = {
    7: ["A man rides a brown horse on the beach.", "A man's horse runs; he doesn't fall.", "Man on horse"],
    3: ["Two dogs play with a ball.", "Dogs playing (ball) in the U.S."],
    9: ["A t-shirt hangs on a well-lit wall.", 'A sign that says "stop"', "café at 5:54pm", "..."],
    5: ["A cat sleeps on the couch."],
    1: ["Nobody says what is here"],
}


HYPOTHESES = {
    3: "two dogs play ||| in the grass",
    1: "",
    9: "a shirt hangs on the wall.",
    7: "a man rides a horse",
}


def make_java(monkeypatch, folder, script):
    """Put a `java` that runs a shell script first in the path."""
    java = folder / "java"
    java.write_text("#!/bin/sh\n" + script)
    java.chmod(java.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
