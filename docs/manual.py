#!/usr/bin/env python3
"""The manual pages as Markdown: `make manual` writes docs/NAME.SECTION.md from man/NAME.SECTION.

mandoc parses a page, and what it prints as HTML becomes Markdown here. Its own -Tmarkdown indents the text of a
list by a tab, which browsers show as code. With --check nothing is written, and a page that differs is named.

Debian: apt-get install mandoc
"""

import re
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

ROOT = Path(__file__).parent.parent
WIDTH = 80  # of a synopsis


class Page(HTMLParser):
    """Markdown of a page: blocks, each with what stands before its first line and before the others."""

    def __init__(self):
        super().__init__()
        self.blocks, self.text, self.inside, self.first, self.rest = [], "", [], "", ""
        self.rows, self.tight, self.item = [], False, False

    def block(self, lines):
        """Ends a block."""
        first, self.first = self.first, self.rest
        # Only the items of a tight list have no blank line between them.
        item = self.tight and first != self.rest
        before = "" if not self.blocks or item and self.item else "\n"
        self.item = item
        text = "\n".join([first + lines[0]] + [self.rest + line if line else "" for line in lines[1:]])
        self.blocks.append(before + text)

    def paragraph(self):
        """Ends a paragraph that has come."""
        text = re.sub(r"\s+", " ", self.text).strip()
        self.text = ""
        if text:
            self.block([re.sub(r"‘(`[^`]*`)’", r"\1", text)])

    def verbatim(self, text):
        """A block of code."""
        self.text = ""
        self.block(["```", *text.strip("\n").split("\n"), "```"])

    def handle_starttag(self, tag, attributes):
        names = dict(attributes).get("class", "") or ""
        self.inside.append((tag, names))
        if tag == "table" and "Nm" in names:
            self.paragraph()
        elif tag == "table" and "Bl-column" in names:
            self.paragraph()
            self.rows = []
        elif tag == "tr":
            self.rows.append([])
        elif tag == "td" or (tag == "div" and "Bd" in names):
            self.paragraph()
        elif tag in ("dl", "ul", "ol", "p", "h1", "h2"):
            self.paragraph()
            if tag in ("dl", "ul", "ol") and not self.first.strip():
                self.tight = "compact" in names
        elif tag in ("dt", "li"):
            self.paragraph()
            ordered = any(name == "ol" for name, _ in self.inside)
            self.first = self.rest + ("1. " if ordered else "- ")
            if tag == "li":
                self.rest += "   " if ordered else "  "
        elif tag == "dd":
            self.text = self.text.rstrip() + ": " if self.tight else self.text
            if not self.tight:
                self.paragraph()
            self.rest += "  "
            self.first = self.first if self.tight else self.rest
        elif tag == "code" and not self.literal():
            self.text += "`"
        elif tag in ("var", "i") and not self.literal() and not self.quoted():
            self.text += "*"
        elif tag in ("br", "link", "meta"):
            self.inside.pop()

    def handle_endtag(self, tag):
        names = self.inside[-1][1] if self.inside else ""
        if tag == "code" and not self.literal(1):
            self.text += "`"
        elif tag in ("var", "i") and not self.literal(1) and not self.quoted():
            self.text += "*"
        elif tag == "h1":
            self.text = "## " + self.text.strip()
            self.paragraph()
        elif tag == "h2":
            self.text = "### " + self.text.strip()
            self.paragraph()
        elif tag == "pre":
            self.verbatim(self.text)
        elif tag == "div" and "Bd" in names.split():
            text = " ".join(self.text.split())
            if text:
                self.verbatim(text)
        elif tag == "td":
            self.rows[-1].append(re.sub(r"\s+", " ", self.text).strip())
            self.text = ""
        elif tag == "table" and "Nm" in names:
            self.synopsis()
        elif tag == "table" and "Bl-column" in names:
            self.table()
        elif tag in ("p", "section", "dl", "ul", "ol"):
            self.paragraph()
            if tag in ("dl", "ul", "ol"):
                self.tight = False
        elif tag == "dd" or tag == "li":
            self.paragraph()
            self.rest = self.rest[: -3 if "ol" in [name for name, _ in self.inside] else -2]
            self.first = self.rest
        if tag not in ("br", "link", "meta"):
            self.inside.pop()

    def literal(self, outer=0):
        """Whether what comes is code in a block of its own."""
        around = self.inside[: len(self.inside) - outer]
        return any(tag == "pre" or "Nm" in names and tag == "table" or "Bd" in names.split() for tag, names in around)

    def quoted(self):
        """Whether what comes is code in a line."""
        return any(tag == "code" for tag, _ in self.inside)

    def synopsis(self):
        """The table of one way to call a program."""
        program, arguments = self.rows[-1]
        self.rows = []
        # An option stays on one line with its value.
        option = r"\[[^\[\]]*(\[[^\[\]]*\])?[^\[\]]*\]"
        arguments = re.sub(option, lambda option: option[0].replace(" ", "\xa0"), arguments)
        lines = textwrap.wrap(arguments, WIDTH - len(program) - 1, break_on_hyphens=False)
        indent = " " * (len(program) + 1)
        lines = [(indent if at else program + " ") + line.replace("\xa0", " ") for at, line in enumerate(lines)]
        self.verbatim("\n".join(lines))

    def table(self):
        """A table whose first row is its head."""
        head, *rows = self.rows
        self.rows = []
        lines = ["| " + " | ".join(cell.strip("*") for cell in head) + " |", "| --- " * len(head) + "|"]
        lines += ["| " + " | ".join(row + [""] * (len(head) - len(row))) + " |" for row in rows]
        self.block([line.replace("|  |", "| |") for line in lines])

    def handle_data(self, data):
        if not self.inside or "head-" in self.inside[-1][1] or "foot-" in self.inside[-1][1]:
            return
        as_it_is = self.literal() or self.quoted()
        self.text += data if as_it_is else re.sub(r"([\\*`<>\[\]|#])", r"\\\1", data)


def rendered(path):
    """A manual page as Markdown."""
    html = subprocess.run(["mandoc", "-Thtml", "-O", "fragment", path], check=True, capture_output=True, text=True)
    page = Page()
    page.feed(re.sub(r'<table class="(head|foot)">.*?</table>', "", html.stdout, flags=re.S))
    text = "\n".join(page.blocks) + "\n"
    for other in sorted((ROOT / "man").iterdir()):
        name, section = other.name.rsplit(".", 1)
        if other != path:
            text = text.replace(f"{name}({section})", f"[{name}({section})]({other.name}.md)")
    name, section = path.name.rsplit(".", 1)
    return f"# {name}({section})\n\n<!-- `make manual` writes this page from man/{path.name}. -->\n\n{text}"


def main():
    check, differ = sys.argv[1:] == ["--check"], []
    for path in sorted((ROOT / "man").iterdir()):
        page = ROOT / "docs" / f"{path.name}.md"
        text = rendered(path)
        if check and (not page.is_file() or page.read_text() != text):
            differ.append(page.name)
        elif not check:
            page.write_text(text)
    if differ:
        sys.exit(f"not what `make manual` writes: {', '.join(differ)}")


if __name__ == "__main__":
    main()
