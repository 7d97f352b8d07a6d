"""A disk that forgets what was not synced when the power goes, over a real folder.

Everything is really there as long as the power is on, so the shipped code reads and writes real files.
Beside that the model knows what is durable: the bytes of a file since its last sync, the names of a folder since its
own, and each change of a name since then, which may survive or not, whatever happens to the changes before it.
"""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.storage.posix import Posix

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

__all__ = ["ModelDisk", "PowerError"]


class PowerError(BaseException):
    """The power is gone: nothing of the program goes on."""


@dataclass(eq=False)
class File:
    """A file, whatever its names."""

    content: bytes = b""
    durable: bytes = b""

    def survive(self, dice: Random) -> None:
        """What was not synced is there, or not, or in part, or zeros."""
        if self.content != self.durable:
            whole = self.content
            # Files only grow: what was synced before stays.
            cut = dice.randrange(len(self.durable), len(whole) + 1)
            self.content = dice.choice([self.durable, whole, whole[:cut], whole[:cut] + bytes(len(whole) - cut)])
        self.durable = self.content


@dataclass(eq=False)
class Folder:
    """Names, and what they lead to."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    durable: dict[str, File | Folder] = field(default_factory=dict)
    pending: list[tuple[str, File | Folder | None]] = field(default_factory=list)
    """Changes since the last sync: a name, and what it leads to or that it is gone."""

    def change(self, name: str, node: File | Folder | None) -> None:
        if node is None:
            del self.names[name]
        else:
            self.names[name] = node
        self.pending.append((name, node))

    def survive(self, dice: Random) -> None:
        """Each change that was not synced lives or dies on its own."""
        kept, luck = dict(self.durable), dice.random()
        for name, node in self.pending:
            if dice.random() < luck:
                if node is None:
                    kept.pop(name, None)
                else:
                    kept[name] = node
        self.names, self.durable, self.pending = kept, dict(kept), []
        for node in kept.values():
            node.survive(dice)


class ModelDisk(Posix):
    """The calls that change a disk, on a folder of its own.

    :param root: an empty folder; everything below goes through here.
    """

    def __init__(self, root: Path, dice: Random, *, files: bool = True, folders: bool = True) -> None:
        """:param files: syncing a file makes it durable; else it is a lie.
        :param folders: the same of folders.
        """
        self.calls_left: int | None = None
        """Before the power goes; ``None`` for ever."""
        self.off = False
        self._root = root
        self._dice = dice
        self._files = files
        self._folders = folders
        self._top = Folder()
        self._open: dict[int, File | Folder] = {}

    # ------------------------------------------------------------------ power

    def cut(self) -> None:
        """The power goes and comes back: the folder is what survived."""
        self._top.survive(self._dice)
        self.restart()
        shutil.rmtree(self._root)
        self._root.mkdir()
        self._lay(self._root, self._top, {})

    def restart(self) -> None:
        """The program was killed and may be started again; the power stayed on."""
        for descriptor in self._open:
            super().close(descriptor)
        self._open.clear()
        self.calls_left, self.off = None, False

    def _lay(self, path: Path, folder: Folder, laid: dict[int, Path]) -> None:
        for name, node in folder.names.items():
            here = path / name
            if isinstance(node, Folder):
                here.mkdir()
                self._lay(here, node, laid)
            elif id(node) in laid:
                os.link(laid[id(node)], here)
            else:
                here.write_bytes(node.content)
                laid[id(node)] = here

    def _tick(self) -> None:
        if self.calls_left is not None:
            self.calls_left -= 1
            self.off = self.off or self.calls_left <= 0
        if self.off:
            raise PowerError

    # ------------------------------------------------------------------ names

    def _folder(self, path: Path) -> Folder:
        folder = self._top
        for step in path.relative_to(self._root).parts:
            below = folder.names[step]
            assert isinstance(below, Folder)
            folder = below
        return folder

    def _node(self, path: Path) -> File | Folder:
        if path == self._root:
            return self._top
        folder = self._folder(path.parent)
        if path.name not in folder.names:  # written by somebody who is not asked: a part on its way
            assert stat.S_ISREG(path.lstat().st_mode)
            folder.change(path.name, File(path.read_bytes()))
        return folder.names[path.name]

    # ------------------------------------------------------------------ calls

    def create(self, path: Path) -> int:
        self._tick()
        descriptor = super().create(path)
        self._open[descriptor] = File()
        self._folder(path.parent).change(path.name, self._open[descriptor])
        return descriptor

    def reopen(self, path: Path) -> int:
        self._tick()
        descriptor = super().reopen(path)
        self._open[descriptor] = self._node(path)
        return descriptor

    def open(self, path: Path) -> int:
        self._tick()
        descriptor = super().open(path)
        self._open[descriptor] = self._node(path)
        return descriptor

    def write(self, descriptor: int, content) -> None:
        whole = b"".join(content)
        for half in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
            self._tick()
            super().write(descriptor, [half])
            self._open[descriptor].content += half

    def sync(self, descriptor: int) -> None:
        self._tick()
        node = self._open[descriptor]
        if isinstance(node, Folder):
            if self._folders:
                node.durable, node.pending = dict(node.names), []
        elif self._files:
            node.durable = node.content

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        super().close(descriptor)

    def link(self, path: Path, name: Path) -> None:
        self._tick()
        node = self._node(path)
        super().link(path, name)
        self._folder(name.parent).change(name.name, node)

    def unlink(self, path: Path) -> None:
        self._tick()
        super().unlink(path)
        folder = self._folder(path.parent)
        if path.name in folder.names:
            folder.change(path.name, None)

    def rename(self, path: Path, name: Path) -> None:
        self._tick()
        node = self._node(path)
        super().rename(path, name)
        self._folder(path.parent).change(path.name, None)
        self._folder(name.parent).change(name.name, node)

    def exchange(self, a: Path, b: Path) -> None:
        self._tick()
        one, other = self._node(a), self._node(b)
        super().exchange(a, b)
        self._folder(a.parent).change(a.name, other)
        self._folder(b.parent).change(b.name, one)

    def make_folder(self, folder: Path, mode: int) -> None:
        self._tick()
        super().make_folder(folder, mode)
        self._folder(folder.parent).change(folder.name, Folder())

    def remove_folder(self, folder: Path) -> None:
        self._tick()
        super().remove_folder(folder)
        self._folder(folder.parent).change(folder.name, None)
