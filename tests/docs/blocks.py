# SPDX-License-Identifier: Apache-2.0
"""Runs the code of a page: fenced blocks are written, compiled, executed and compared in the order of the page.

    ```LANGUAGE file=NAME   the block is written to NAME; C is compiled with the public headers and the shared library
    ```sh run               the block is run by `sh -e` with `moeblock` on PATH; it must succeed
    ```text output          what the block before must have printed (standard output and error together); `...` stands
                            for any text in a line, and a line of nothing else for any number of lines

Other blocks are only shown. Everything happens in a temporary folder that sees the repository's own folders by name.
"""
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("MOEBLOCK_BUILD_DIR", os.path.join(ROOT, "build", "release"))
CLI = os.environ.get("MOEBLOCK_CLI", os.path.join(BUILD, "moeblock"))
COMPILER = shlex.split(os.environ.get("CC", "cc"))
WARNINGS = ["-std=c17", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-g"]
SEEN = ("configs", "docs", "examples", "scripts", "tests")  # of the repository
SKIPPED = 77


class Block:
    """One fenced block: its language, the words after it, its text and the line where it begins."""

    def __init__(self, info, line):
        words = info.split()
        self.language = words[0] if words else ""
        self.words = words[1:]
        self.line = line
        self.text = ""

    def file(self):
        names = [word[len("file="):] for word in self.words if word.startswith("file=")]
        return names[0] if names else None

    def runs(self):
        return self.language == "sh" and "run" in self.words

    def is_output(self):
        return self.language == "text" and "output" in self.words

    def is_live(self):
        return bool(self.file()) or self.runs() or self.is_output()


class Failed(Exception):
    """A block that does not do what its page says."""


def read(page):
    """All fenced blocks of a page."""
    blocks, block = [], None
    with open(page, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if block is None and line.startswith("```"):
                block = Block(line[3:].strip(), number)
            elif block is not None and line.rstrip() == "```":
                blocks.append(block)
                block = None
            elif block is not None:
                block.text += line
    if block is not None:
        raise Failed(f"line {block.line}: the block is not closed")
    return blocks


def cache_value(name):
    """A value of the build's CMakeCache.txt, None where there is no such file or entry."""
    path = os.path.join(BUILD, "CMakeCache.txt")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        found = re.search(rf"^{name}:[A-Z]+=(.*)$", file.read(), re.MULTILINE)
    return found.group(1) if found else None


def sanitizer_flags():
    """A program that links a sanitized library needs the same sanitizers."""
    names = cache_value("MOEBLOCK_SANITIZE")
    return [f"-fsanitize={names}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"] if names else []


def skip_unless_built():
    """Ends the program with the status of a skipped test where the library or the command line is missing."""
    for path in (os.path.join(BUILD, "libmoeblock.so"), CLI):
        if not os.path.exists(path):
            print(f"SKIPPED: {path} is not built")
            sys.exit(SKIPPED)
    program = "int main(void) { return 0; }\n"
    with tempfile.TemporaryDirectory() as folder:
        tried = subprocess.run([*COMPILER, *sanitizer_flags(), "-x", "c", "-", "-o", os.path.join(folder, "a.out")],
                               input=program, capture_output=True, text=True, check=False)
    if tried.returncode:
        print(f"SKIPPED: {' '.join(COMPILER + sanitizer_flags())} does not make a program here: {tried.stderr}")
        sys.exit(SKIPPED)


def pattern(expected):
    """The regular expression of an output block."""
    lines = []
    for line in expected.splitlines():
        if line.strip() == "...":
            lines.append(r"(?:.*\n)*?")
        else:
            lines.append(".*".join(re.escape(part) for part in line.rstrip().split("...")) + r"[ ]*\n")
    return re.compile("".join(lines))


class Page:
    """The folder in which a page's blocks act, and what the last one printed."""

    def __init__(self, folder):
        self.folder = folder
        self.printed = None
        for name in SEEN:
            if os.path.isdir(os.path.join(ROOT, name)):
                os.symlink(os.path.join(ROOT, name), os.path.join(folder, name))
        os.mkdir(os.path.join(folder, "build"))
        os.symlink(BUILD, os.path.join(folder, "build", "release"))
        self.environment = dict(os.environ, PATH=os.path.dirname(CLI) + os.pathsep + os.environ.get("PATH", ""))
        self.environment.pop("MOEBLOCK_CPU", None)

    def write(self, block):
        path = os.path.join(self.folder, block.file())
        with open(path, "w", encoding="utf-8") as file:
            file.write(block.text)
        if block.language == "c":
            self.compile(path, block)

    def compile(self, path, block):
        command = [*COMPILER, *WARNINGS, *sanitizer_flags(), "-I" + os.path.join(ROOT, "include"), path,
                   "-L" + BUILD, "-lmoeblock", "-lm", "-Wl,-rpath," + BUILD, "-o", os.path.splitext(path)[0]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failed(f"line {block.line}: {block.file()} does not compile:\n{done.stderr}")

    def run(self, block):
        done = subprocess.run(["sh", "-e"], input=block.text, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              cwd=self.folder, env=self.environment, check=False, timeout=300)
        self.printed = done.stdout
        if done.returncode:
            raise Failed(f"line {block.line}: status {done.returncode} of\n{block.text}\nthat printed\n{done.stdout}")

    def compare(self, block):
        if self.printed is None:
            raise Failed(f"line {block.line}: an output without a block that runs before it")
        if not pattern(block.text).fullmatch(self.printed):
            raise Failed(f"line {block.line}: the page says\n{block.text}\nbut this was printed\n{self.printed}")
        self.printed = None

    def act(self, block):
        if block.file():
            self.write(block)
        elif block.runs():
            self.run(block)
        else:
            self.compare(block)


def run_page(name, needed):
    """Runs a page of the repository and ends the program. `needed`: kinds of block it must hold, as (kind, least)."""
    skip_unless_built()
    folder = tempfile.mkdtemp(prefix="moeblock-docs-")
    try:
        live = [block for block in read(os.path.join(ROOT, name)) if block.is_live()]
        kinds = [block.language for block in live]
        few = [f"{kinds.count(kind)} {kind}" for kind, least in needed if kinds.count(kind) < least]
        if few or not live:
            raise Failed(f"only {', '.join(few) or 0} blocks are marked to be run; blocks.py explains the marks")
        page = Page(folder)
        for block in live:
            page.act(block)
    except Failed as failure:
        print(f"{name}: {failure}")
        sys.exit(1)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{name}: {len(live)} blocks do what the page says")
