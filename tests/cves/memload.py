# SPDX-License-Identifier: GPL-2.0-or-later
"""Load for memcached: sets and gets on four connections, each answer checked, for some seconds.

python -m tests.cves.memload SOCKET
"""

from __future__ import annotations

import socket
import sys
import threading
import time

SECONDS = 6.0
failures: list[str] = []


def client(path: str, number: int) -> None:
    """Set and get, again and again."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        answers = connection.makefile("rb")
        deadline, turn = time.monotonic() + SECONDS, 0
        while time.monotonic() < deadline:
            key, value = b"key%d" % number, b"%d" % turn
            connection.sendall(b"set %s 0 0 %d\r\n%s\r\nget %s\r\n" % (key, len(value), value, key))
            found = [answers.readline() for _ in range(4)]
            if found != [b"STORED\r\n", b"VALUE %s 0 %d\r\n" % (key, len(value)),
                         value + b"\r\n", b"END\r\n"]:  # fmt: skip
                failures.append(repr(found))
                return
            turn += 1


def main() -> int:
    """Run the clients; return 1 where an answer was wrong."""
    threads = [threading.Thread(target=client, args=(sys.argv[1], n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("\n".join(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
