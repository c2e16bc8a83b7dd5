"""What a command says is on disk is on disk: contents are synced before a move, folders after it."""

from __future__ import annotations

import pytest

from probekit.container import RECORD, atomic_directory, atomic_file, write_json


def moves_to(events, path):
    """Return place and source of the move to a path."""
    return next((k, e[1]) for k, e in enumerate(events) if e[0] == "move" and e[2] == path)


@pytest.mark.parametrize("replace", [True, False])
def test_a_file_is_synced_before_its_move_and_its_folder_after(events, tmp_path, replace):
    path = tmp_path / "a.jsonl"
    with atomic_file(path, replace=replace, record={"command": "x"}) as temporary:
        temporary.write_text("content")
    record = path.with_name(path.name + RECORD)
    at, source = moves_to(events, path)
    assert ("sync", source) in events[:at] and ("sync", tmp_path) in events[at:]
    after, companion = moves_to(events, record)
    assert after > at and ("sync", companion) in events[:at]  # both are on disk before either moves
    assert ("sync", tmp_path) in events[after:]


def test_a_directory_is_synced_with_all_below_it(events, tmp_path):
    for _ in range(2):
        del events[:]
        with atomic_directory(tmp_path / "made", force=True) as folder:
            (folder / "below").mkdir()
            write_json(folder / "below" / "a.json", {"a": 1})
            (folder / "plain.txt").write_text("b")
        synced = [entry[1] for entry in events if entry[0] == "sync"]
        assert {folder, folder / "below", folder / "plain.txt", folder / "digests.json"} <= set(
            synced
        )
        assert synced[-1] == tmp_path
