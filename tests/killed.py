"""Commands killed in the middle of filling a ledger."""

import os
import signal
import sqlite3
import subprocess
import sys
import time


def killed_after_the_first_batch(file, *words) -> int:
    """Runs a command until its file holds something, and gives how much is there after the kill."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lascaux.cli.main", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (count := vectors(file)):
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    assert vectors(file) >= count
    return vectors(file)


def vectors(file) -> int:
    if not file.exists():
        return 0
    connection = sqlite3.connect(file)
    try:
        return connection.execute("select count(*) from vectors").fetchone()[0]
    except sqlite3.OperationalError:  # not made yet
        return 0
    finally:
        connection.close()
