"""Start a command with a listening socket, as systemd does: ``python activate.py NAME=FD COMMAND...``.

sd_listen_fds(3): the socket is descriptor 3. LISTEN_PID is this process, which then executes the command.
"""

import os
import sys


def main(handed: str, *command: str) -> None:
    """Execute the command in this process."""
    name, descriptor = handed.split("=")
    if descriptor == "3":
        os.set_inheritable(3, True)
    else:
        os.dup2(int(descriptor), 3, inheritable=True)
        os.close(int(descriptor))
    os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": name}
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
