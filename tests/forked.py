"""Run commands and scripts in children of one process that has imported what they all import.

Importing torch and transformers is most of what a short command costs. A child begins as a process of its own
does: its own folder, streams and exit code, nothing run before it.
"""

from __future__ import annotations

import array
import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

CLIENT = """#!{python} -ES
import array, json, os, socket, sys
line = socket.socket(socket.AF_UNIX)
line.connect({address!r})
ask = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
streams = array.array("i", [0, 1, 2])
line.sendmsg([len(ask).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
line.sendall(ask)
sys.exit(int.from_bytes(line.recv(1), "big"))
"""


class Forked:
    """A server of forks, and a folder with a `probekit` that asks it."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "forked")
        client = folder / "bin" / "probekit"
        client.parent.mkdir()
        client.write_text(CLIENT.format(python=sys.executable, address=self.address))
        client.chmod(0o755)
        self.bin = str(client.parent)
        words = [sys.executable, "-P", "-m", "tests.forked", self.address]
        place = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
        self._server = subprocess.Popen(words, env=place)
        while not Path(self.address).exists():
            assert self._server.poll() is None, "the server ended"
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server."""
        self._server.kill()
        self._server.wait()


def _serve(address: str) -> None:
    import peft  # noqa: F401
    import plotly.graph_objects  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import torch  # noqa: F401
    import transformers.models.llama.modeling_llama  # noqa: F401

    import probekit.cli.main  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the answers
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(f"{address}.new")
    listening.listen()
    Path(f"{address}.new").rename(address)
    while True:
        line, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            _answer(line)
        line.close()


def _answer(line: socket.socket) -> None:
    """Run what is asked for in a child, and send its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, places, *_ = line.recvmsg(8, socket.CMSG_LEN(3 * 4))
    streams = array.array("i", places[0][2])
    ask = b""
    while len(ask) < int.from_bytes(head, "big"):
        ask += line.recv(1 << 16)
    argv, folder, environment = json.loads(ask)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        code = 1
        try:
            from probekit.cli.main import main

            main(argv)
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        except BaseException:  # noqa: BLE001 - as a process ends
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    line.sendall(os.waitstatus_to_exitcode(status).to_bytes(1, "big", signed=False))
    os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
