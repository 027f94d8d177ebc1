"""``mtastsctl setup --apply`` and ``--undo``: change main.cf with postconf(1), and restore it exactly.

The earlier values of main.cf are kept in a file next to it, which only root can write, so that no
forged undo file is applied.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from .output import escape, print_error, print_out

__all__ = ["MainCf", "MainCfChange", "apply", "changes", "merge_changes", "undo"]

_FORMAT = 1
_UNDO_FILE = "main.cf.mtasts-daemon-undo.json"
_TIMEOUT = 30.0
"""Seconds for one call of postconf(1)."""


class PostconfError(Exception):
    """postconf(1) is missing or failed, or main.cf or its undo file cannot be read or written. The text says which."""


@dataclass(frozen=True, slots=True)
class MainCfChange:
    """One parameter of main.cf. ``before`` is None if main.cf did not set it."""

    name: str
    before: str | None
    after: str


@dataclass(frozen=True, slots=True)
class _Applied:
    """Content of the undo file. ``text`` is main.cf before the first change; None if only values can be restored."""

    changes: tuple[MainCfChange, ...]
    text: str | None
    digest: str
    """SHA-256 of main.cf after the last change."""


def changes(
    wanted: Mapping[str, str], in_force: Mapping[str, str], explicit: Mapping[str, str]
) -> tuple[MainCfChange, ...]:
    """Return what has to change so that each wanted value is in force.

    ``in_force`` has the expanded values including defaults, ``explicit`` those that main.cf sets, as it writes them.
    """
    return tuple(
        MainCfChange(name, explicit.get(name), value)
        for name, value in wanted.items()
        if in_force.get(name, "") != value
    )


def merge_changes(earlier: Sequence[MainCfChange], later: Sequence[MainCfChange]) -> tuple[MainCfChange, ...]:
    """Return the changes of two calls as one: the values before the first and after the second."""
    found = {change.name: change for change in earlier}
    for change in later:
        first = found.get(change.name)
        found[change.name] = change if first is None else replace(change, before=first.before)
    return tuple(found.values())


class MainCf:
    """main.cf of the Postfix instance that postconf(1) works on (MAIL_CONFIG chooses another one)."""

    def __init__(self, postconf: str) -> None:
        self._postconf = postconf
        # Symbolic links are followed: the file that they name is replaced, not the link.
        self.path = Path(
            os.path.realpath(Path(self._run("-hx", "config_directory").strip() or "/etc/postfix", "main.cf"))
        )
        self._undo_file = self.path.with_name(_UNDO_FILE)

    def explicit(self, names: Sequence[str]) -> dict[str, str]:
        """Return the values that main.cf sets, of these names."""
        lines = (line.partition("=") for line in self._run("-n").splitlines())
        found = {name.strip(): value.strip() for name, equals, value in lines if equals}
        return {name: found[name] for name in names if name in found}

    def write(self, values: Sequence[MainCfChange]) -> None:
        """Set each parameter, and note how to undo it before the first is changed."""
        before = self._read()
        earlier = self._applied()
        if earlier is None:
            done = _Applied(tuple(values), before.decode("latin-1"), "")
        else:
            untouched = earlier.digest == _digest(before)
            done = _Applied(merge_changes(earlier.changes, values), earlier.text if untouched else None, "")
        self._note(done)
        self._run("-e", *(f"{change.name}={change.after}" for change in values))
        self._note(replace(done, digest=_digest(self._read())))

    def applied(self) -> tuple[MainCfChange, ...]:
        """Return the changes that ``restore`` would undo."""
        found = self._applied()
        return () if found is None else found.changes

    def restore(self) -> tuple[MainCfChange, ...]:
        """Undo the changes. Return those that were skipped because main.cf has another value now.

        If main.cf was not edited since, it gets back every byte it had.
        """
        found = self._applied()
        if found is None:
            return ()
        left: list[MainCfChange] = []
        if found.text is not None and found.digest == _digest(self._read()):
            _replace(self.path, found.text.encode("latin-1"), like=self.path)
        else:
            now = self.explicit([change.name for change in found.changes])
            for change in found.changes:
                if now.get(change.name) != change.after:
                    if now.get(change.name) != change.before:
                        left.append(change)
                elif change.before is None:
                    self._run("-X", change.name)
                else:
                    self._run("-e", f"{change.name}={change.before}")
        self._undo_file.unlink(missing_ok=True)
        return tuple(left)

    def _applied(self) -> _Applied | None:
        try:
            tree = json.loads(self._undo_file.read_bytes())
            if tree["format"] != _FORMAT:
                raise PostconfError(f"{self._undo_file}: written by another version; remove it to start again")
            listed = tuple(
                MainCfChange(str(item["name"]), item["before"], str(item["after"])) for item in tree["changes"]
            )
            return _Applied(listed, tree["text"], str(tree["digest"]))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PostconfError(f"{self._undo_file}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise PostconfError(f"{self._undo_file}: damaged; restore main.cf by hand and remove it") from error

    def _note(self, applied: _Applied) -> None:
        _replace(self._undo_file, json.dumps({"format": _FORMAT, **asdict(applied)}, indent=1).encode())

    def _read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise PostconfError(f"{self.path}: {error.strerror}") from error

    def _run(self, *arguments: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603 - postconf(1), as found
                [self._postconf, *arguments],
                stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT, check=False,
                env={**os.environ, "LC_ALL": "C"},
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            raise PostconfError(f"{self._postconf}: {error}") from error
        if done.returncode != 0:
            raise PostconfError(done.stderr.decode("utf-8", "replace").strip() or f"{self._postconf} failed")
        return done.stdout.decode("utf-8", "surrogateescape")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _replace(path: Path, content: bytes, like: Path | None = None) -> None:
    """Write the file in one step, with the owner and mode of ``like``, otherwise for its owner only."""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                if like is not None:
                    state = like.stat()
                    os.fchown(file.fileno(), state.st_uid, state.st_gid)
                    os.fchmod(file.fileno(), state.st_mode & 0o7777)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise PostconfError(f"{path}: {error.strerror}") from error


# -- the commands ------------------------------------------------------------------------------------------


def apply(wanted: Mapping[str, str], in_force: Mapping[str, str], *, confirmed: bool) -> int:
    """Show the change, ask, and make it. Return an exit code."""
    try:
        main_cf = _main_cf()
        needed = changes(wanted, in_force, main_cf.explicit(list(wanted)))
        if not needed:
            return print_out(f"{main_cf.path}: nothing to change")
        _show(main_cf.path, [(change.name, change.before, change.after) for change in needed])
        if not confirmed and not _confirm():
            return print_error(os.EX_USAGE, "nothing was changed; --yes applies it without a question")
        main_cf.write(needed)
    except PostconfError as error:
        return print_error(os.EX_CANTCREAT, f"main.cf was not changed: {error}")
    return print_out("applied; now run: postfix reload\nto restore main.cf: mtastsctl setup --undo")


def undo(*, confirmed: bool) -> int:
    """Show the changes of ``apply``, ask, and undo them. Return an exit code."""
    try:
        main_cf = _main_cf()
        made = main_cf.applied()
        if not made:
            return print_error(os.EX_NOINPUT, f"{main_cf.path}: no change by setup --apply is on record")
        _show(main_cf.path, [(change.name, change.after, change.before) for change in made])
        if not confirmed and not _confirm():
            return print_error(os.EX_USAGE, "nothing was changed; --yes applies it without a question")
        left = main_cf.restore()
    except PostconfError as error:
        return print_error(os.EX_CANTCREAT, f"main.cf was not restored: {error}")
    for change in left:
        print_error(os.EX_OK, f"{change.name} was changed since and is left as it is")
    return print_out("restored; now run: postfix reload")


def _main_cf() -> MainCf:
    postconf = shutil.which("postconf", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if postconf is None:
        raise PostconfError("postconf(1) is not installed")
    return MainCf(postconf)


def _show(path: Path, lines: Sequence[tuple[str, str | None, str | None]]) -> None:
    print_out(f"{path}:")
    for name, before, after in lines:
        if before is not None:
            print_out(f"- {name} = {escape(before)}")
        if after is not None:
            print_out(f"+ {name} = {escape(after)}")


def _confirm() -> bool:
    if not sys.stdin.isatty():
        return False
    print_out("Apply this change? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
