"""Load the configuration: files and environment variables, merged into one Config."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ..text import sanitize
from .model import Config
from .problems import MAX_PROBLEMS, BadValue, ConfigProblems, Origin, Problem
from .sections.overrides import override_domain
from .sections.publish import published_domain
from .sections.zones import zone_name
from .yamlfile import MAX_DEPTH, KeyPath, Node, join_path, parse, read

__all__ = ["DEFAULT_PATH", "Loaded", "ReloadResult", "load", "load_with_origins"]

DEFAULT_PATH = Path("/etc/mtasts-daemon/config.yml")
"""The default file, which may be missing."""

MAX_FILES = 256
"""Maximum number of files in conf.d."""


class Loaded(NamedTuple):
    """A configuration and its origins.

    ``origins`` holds the values that were written, by key such as ``dns.timeout``; all others are defaults.
    ``files`` are the files that were read. ``ignored`` are environment variables that begin like ours but name no key.
    """

    config: Config
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]
    ignored: tuple[str, ...] = ()

    def origin(self, where: str) -> str:
        """Return the origin of a key's value: ``FILE:LINE``, ``environment NAME`` or ``default``."""
        found = self.origins.get(where)
        return "default" if found is None else str(found)


class ReloadResult(NamedTuple):
    """The last attempt to read the configuration; ``problems`` say why it is not in force."""

    at: float
    problems: Sequence[str] = ()
    succeeded_at: float = 0.0
    """When the configuration in force was read."""


def load(path: Path | None = None, *, environ: Mapping[str, str]) -> Config:
    """Load ``path``, ``conf.d/*.yml`` in its directory, and ``MTASTS_...`` variables; later values win.

    Mappings are merged key by key; other values are replaced. ``path`` None means ``DEFAULT_PATH``, which may be
    missing. Raises ``ConfigProblems`` with all problems.
    """
    return load_with_origins(path, environ=environ).config


def load_with_origins(path: Path | None = None, *, environ: Mapping[str, str]) -> Loaded:
    """Load like ``load``, and return the origin of each value too."""
    problems: list[Problem] = []
    main = path or DEFAULT_PATH
    files: list[Path] = []
    root = _nothing(str(main))
    for file in (main, *_conf_d(main, problems)):
        try:
            tree = read(file, problems)
        except FileNotFoundError:
            if path is not None or file != main:
                problems.append(Problem(sanitize(str(file), 4096), None, None, "", "no such file"))
            continue
        files.append(file)
        root = _merged(root, _section(tree, problems))
    names = [name for name in sorted(environ) if name.startswith(_PREFIX) and not _FOREIGN.match(name)]
    ignored = [name for name in names if _is_ignored(name)]
    for name in (name for name in names if name not in ignored):
        root = _merged(root, _section(_from_environment(name, environ[name], problems), problems))
    listed = tuple(sanitize(name, 200) for name in ignored[:MAX_PROBLEMS])
    return Loaded(_validated(root, problems), dict(_origins(root, ())), tuple(files), listed)


def _validated(root: Node, problems: list[Problem]) -> Config:
    try:
        config = Config.model_validate(root.plain())
    except ValidationError as error:
        from .hints import problems_of  # a valid configuration does not need it

        # A value that was rejected as YAML is reported once.
        reported = {(problem.file, problem.line, problem.column) for problem in problems}
        found = islice(problems_of(error, root, complete=not problems), MAX_PROBLEMS + 1)
        fresh = [problem for problem in found if (problem.file, problem.line, problem.column) not in reported]
        raise ConfigProblems(problems + fresh) from None
    if problems:
        raise ConfigProblems(problems)
    return config


def _nothing(file: str) -> Node:
    origin = Origin(sanitize(file, 4096), 1, 1)
    return Node({}, origin, origin)


def _conf_d(main: Path, problems: list[Problem]) -> list[Path]:
    """Return the files of conf.d in order, without hidden files."""
    directory = main.parent / "conf.d"
    try:
        found = sorted(file for file in directory.iterdir() if file.suffix == ".yml" and not file.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problems.append(Problem(sanitize(str(directory), 4096), None, None, "", f"cannot be read: {reason}"))
        return []
    if len(found) > MAX_FILES:
        problems.append(Problem(sanitize(str(directory), 4096), None, None, "", f"holds more than {MAX_FILES} files"))
    return found[:MAX_FILES]


def _section(tree: Node | None, problems: list[Problem]) -> Node:
    """Return the tree of a whole file, which must be a section, with normalized names."""
    if tree is None or tree.value is None:
        return _nothing("")
    if not isinstance(tree.value, dict):
        problems.append(Problem.at(tree.at, "", "must be a section with keys", "start with a key, such as listen:"))
        return _nothing("")
    _rename_keys(tree.value, "zones", zone_name, problems)
    _rename_keys(tree.value, "overrides", override_domain, problems)
    publish = tree.value.get("publish")
    if publish is not None and isinstance(publish.value, dict):
        _rename_keys(publish.value, "domains", published_domain, problems)
    return tree


def _rename_keys(section: dict[str, Node], key: str, kept: Callable[[str], str], problems: list[Problem]) -> None:
    """Normalize the names below ``key``."""
    node = section.get(key)
    if node is not None and isinstance(node.value, dict):
        section[key] = Node(_renamed(key, node.value, kept, problems), node.at, node.key_at)


# -- merging -----------------------------------------------------------------------------------------------


def _merged(below: Node, above: Node) -> Node:
    """Merge mappings key by key; other values of ``above`` replace those of ``below``."""
    if not isinstance(below.value, dict):
        return above
    if above.value is None or above.value == {}:
        # An empty section changes nothing.
        return below
    if not isinstance(above.value, dict):
        return above
    merged = dict(below.value)
    for key, node in above.value.items():
        merged[key] = _merged(merged[key], node) if key in merged else node
    return Node(merged, above.at, above.key_at)


def _renamed(
    section: str, names: dict[str, Node], kept: Callable[[str], str], problems: list[Problem]
) -> dict[str, Node]:
    """Normalize each name, so that its spellings in several files are merged. The model rejects bad names."""
    renamed: dict[str, Node] = {}
    for written, node in names.items():
        try:
            name = kept(written)
        except BadValue:
            name = written
        if name in renamed:
            first = renamed[name].key_at.line
            message = f"is given twice, in another spelling; first in line {first}"
            problems.append(Problem.at(node.key_at, join_path((section, written)), message, "remove one"))
        else:
            renamed[name] = node
    return renamed


def _origins(node: Node, path: KeyPath) -> Iterator[tuple[str, Origin]]:
    if isinstance(node.value, dict):
        for key, child in node.value.items():
            yield from _origins(child, (*path, key))
    else:
        yield join_path(path), node.at


# -- the environment ---------------------------------------------------------------------------------------

_PREFIX = "MTASTS_"

# Variables that Kubernetes sets in containers for a service of this name.
_FOREIGN = re.compile(
    r"MTASTS_(?!.*__)(?:.+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_.+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_.+)?)?)\Z"
)


def _is_ignored(name: str) -> bool:
    """Return True for variables that a platform names after the container, such as MTASTS_VERSION."""
    return "__" not in name and name.removeprefix(_PREFIX).lower() not in Config.model_fields


def _from_environment(name: str, value: str, problems: list[Problem]) -> Node | None:
    """Return ``MTASTS_SECTION__KEY=value`` as a tree; the value is YAML."""
    origin = Origin(f"environment {sanitize(name, 200)}")
    if not name.isascii():
        problems.append(Problem.at(origin, "", "is not a known key"))
        return None
    path = name.removeprefix(_PREFIX).lower().split("__", MAX_DEPTH)
    found: list[Problem] = []
    tree = parse(value.encode("utf-8", "surrogateescape"), origin.file, found)
    problems += (Problem.at(origin, join_path(tuple(path)), problem.message, problem.hint) for problem in found)
    if tree is None and found:
        return None
    node = Node(None, origin, origin) if tree is None else _unplaced(tree, origin)
    for key in reversed(path):
        node = Node({key: node}, origin, origin)
    return node


def _unplaced(node: Node, origin: Origin) -> Node:
    """Replace positions inside the variable's value by the variable."""
    value = node.value
    if isinstance(value, dict):
        value = {key: _unplaced(child, origin) for key, child in value.items()}
    elif isinstance(value, list):
        value = [_unplaced(child, origin) for child in value]
    return Node(value, origin, origin)
