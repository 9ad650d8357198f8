"""One page of all finished studies: self-contained HTML, or Markdown with a folder of pictures."""

import base64
import json
import re
import shlex
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final

from ..errors import LabError
from ..proben1 import PROBLEMS
from ..results import check_writable, markdown_table, stored_results, write_file, write_json, write_text

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rprop-lab: studies</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
nav ul { columns: 20rem; column-gap: 2.5rem; padding-left: 1.2rem; }
section { border-top: 2px solid var(--line); margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.6rem 0 0.3rem; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.words { text-align: left; }
td.words { white-space: normal; min-width: 12rem; }
img { max-width: 100%; height: auto; background: white; margin: 0.5rem 0; }
pre { overflow-x: auto; font-size: 0.8rem; }
</style></head><body>
<h1>rprop-lab: studies</h1>
<nav aria-label="Studies"><ul>
{% for s in studies %}<li><a href="#{{ s.id }}">{{ s.title }}</a>: {{ s.line }} ({{ s.form }})</li>
{% endfor %}</ul></nav>
{% if unfinished %}<p>Not finished, so not on this page; the same command goes on:</p><ul>
{% for line in unfinished %}<li>{{ line }}</li>
{% endfor %}</ul>
{% endif %}{% for s in studies %}<section id="{{ s.id }}"><h2>{{ s.title }}: {{ s.line }}</h2>
<p><code>{{ s.command }}</code> ({{ s.form }})</p>
{% for t in s.tables %}<div class="scroll"><table><caption>{{ t.title }}</caption>
<thead><tr>{% for cell in t.heading %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in t.rows %}<tr>{% for cell in row -%}
<td{{ ' class="words"' | safe if is_words(cell) }}>{{ cell }}</td>
{%- endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}<ul>{% for line in s.statements %}<li>{{ line }}</li>
{% endfor %}</ul>
{% for name, data in s.shown %}<div class="scroll"><img alt="{{ s.title }}: {{ name }}"
 src="data:image/png;base64,{{ data }}"></div>
{% endfor %}<details><summary>Settings, machine and versions</summary>
<pre>{{ s.settings }}</pre><pre>{{ s.environment }}</pre></details></section>
{% endfor %}</body></html>
"""


INTRODUCTION: Final = """# The studies, and what they gave

Written by `rprop-lab report --markdown` from the results beside this page. Every study is one command; where it was not
run in full, the table and the study say how much of it was. "report" is what the report printed, "diff." is ours minus
that. "± x" is the standard deviation over seeds. Seconds are of the processor, on one core, unless the study says
otherwise.

"""


def write_report(folder: Path, path: Path, force: bool = False) -> int:
    """Write the page of all results below ``folder`` to ``path``; return the number of studies.

    Raises:
        LabError: there are none, or the page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    _check_page(path, PAGE, force)
    studies = _in_order(collect(folder))
    for index, study in enumerate(studies):
        study["id"] = f"study-{index + 1}"
        study["shown"] = [(f.name, base64.b64encode(f.read_bytes()).decode()) for f in study["pictures"]]
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    page = template.render(
        studies=studies,
        unfinished=unfinished(folder),
        is_words=lambda cell: len(cell) > 16 and " " in cell,
    )
    write_text(path, page)
    return len(studies)


def write_markdown(folder: Path, path: Path, force: bool = False) -> int:
    """Write a Markdown page of the studies below ``folder``; its pictures and results go to a folder of the same name.

    For each study that folder contains ``results.json`` (without paths of this machine) and small pictures; given as
    ``folder``, it produces the same page again.

    Raises:
        LabError: there are none, two folders have the same name, or the page cannot be written.
    """
    picture_folder = path.with_suffix("")
    _check_page(path, INTRODUCTION, force)
    studies = collect(folder)
    folders: dict[str, Path] = {}
    for study in studies:
        other = folders.setdefault(study["title"], study["folder"])
        if other != study["folder"]:
            raise LabError(
                f"{other} and {study['folder']} have the same name, so one page cannot hold both: rename one of them."
            )
    for study in studies:
        own = picture_folder / study["title"]
        if study["folder"].resolve() == own.resolve():
            continue
        results = _without_paths(study["found"]) | {"tables": study["tables"]}
        before = stored_results(own / "results.json")
        if before is not None and before != results and not force:
            raise LabError(f"{own} holds other results of {study['name']}. Replace them with --force.")
        write_json(own / "results.json", results)
        for picture in study["pictures"]:
            write_file(own / picture.name, partial(_compress, picture))
    write_text(path, markdown_page(collect(picture_folder), picture_folder.name))
    return len(studies)


def _check_page(path: Path, text: str, force: bool) -> None:
    """Check that a page can be written, and that a file that is replaced begins as such a page."""
    check_writable(path.parent, (path.name,))
    if force or not path.exists():
        return
    with suppress(OSError, UnicodeDecodeError):
        if path.read_text(encoding="utf-8").startswith(text[:60]):
            return
    raise LabError(f"{path} exists and is no page of rprop-lab. Choose another name, or replace it with --force.")


def markdown_page(studies: list[dict[str, Any]], picture_folder: str) -> str:
    """Return the text of :func:`write_markdown`'s page; ``picture_folder`` is the name of its folder of pictures."""
    from .registry import REPORTS, STUDIES
    from .runner import FINDING_PREFIX

    studies = _in_order(studies)
    machines = " and ".join(dict.fromkeys(study["machine"] for study in studies))
    text = f"{INTRODUCTION}Run on: {machines}.\n\n"
    text += "| study | what it repeats | how much of it |\n| :--- | :--- | :--- |\n"
    for study in studies:
        text += f"| [{study['title']}](#{study['title']}) | {_capital(study['line'])} | {study['form']} |\n"
    absent = [name for name in STUDIES if name not in {study["name"] for study in studies}]
    if absent:
        text += f"\nNo results on file yet: {', '.join(absent)}.\n"
    letter = ""
    for study in studies:
        name, title = study["name"], study["title"]
        if name[0] != letter and name in STUDIES:
            letter = name[0]
            text += f"\n## {letter.upper()}. {REPORTS[letter]}\n"
        text += f"\n### {title}\n\n{_capital(study['line'])}; {study['form']}.\n\n"
        text += f"```sh\n{study['command']}\n```\n"
        for table in study["tables"]:
            rows = [[_escaped(cell) for cell in row] for row in table["rows"]]
            text += f"\n**{table['title']}**\n\n" + markdown_table(list(map(_escaped, table["heading"])), rows)
        lines = [_escaped(line) for line in study["statements"]]
        if study["form"] == study["found"].get("findings of"):
            lines = [line.replace(FINDING_PREFIX, "**Seen:** ") for line in lines]
        text += "\n" + "".join(f"- {line}\n" for line in lines) + "\n"
        for picture in study["pictures"]:
            what = picture.stem.replace("-", " ").replace("_", " ")
            text += f"![{title}: {what}]({picture_folder}/{title}/{picture.name})\n\n"
        text += f"[Settings, versions and tables]({picture_folder}/{title}/results.json)\n"
    return text


def _in_order(studies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sort by the order of the registry, trainings first."""
    from .registry import STUDIES

    order = list(STUDIES)
    return sorted(studies, key=lambda s: (order.index(s["name"]) if s["name"] in order else -1, s["title"]))


def collect(folder: Path) -> list[dict[str, Any]]:
    """Load all finished studies and trainings below a folder.

    Raises:
        LabError: there are none.
    """
    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder. Name the one that holds your studies' folders.")
    studies = [found for file in sorted(folder.rglob("results.json")) if (found := _load_study(file)) is not None]
    if not studies:
        begun = unfinished(folder)
        raise LabError(
            f"{folder} holds no finished study. "
            + (
                f"Not finished: {'; '.join(begun)}. The same command goes on."
                if begun
                else "Run one first, such as: rprop-lab study d-activations."
            )
        )
    return studies


def unfinished(folder: Path) -> list[str]:
    """Describe the studies below a folder that have runs but no results, or damaged results."""
    lines = []
    for runs in sorted(folder.rglob("runs")):
        count = len(list(runs.glob("*.json"))) if runs.is_dir() else 0
        if count and runs != folder and not (runs.parent / "results.json").exists():
            lines.append(f"{runs.parent.name}: {count} run{'s' * (count != 1)} so far, no results")
    for file in sorted(folder.rglob("results.json")):
        if stored_results(file) is None:
            lines.append(f"{file.parent.name}: results.json is damaged")
    return lines


def _load_study(file: Path) -> dict[str, Any] | None:
    """Load a study; None if the file is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        environment, settings = found["environment"], found["settings"]
        statements = [str(line) for line in found["statements"]]
        tables = [{"title": t["title"], "heading": t["heading"], "rows": t["rows"]} for t in found["tables"]]
        name, line, form = found["study"], found["line"], found.get("form", "in full")
        machine, versions = environment["machine"], environment["versions"]
        processor = machine.get("processor name") or machine.get("processor", "")
        command = _command(name, found.get("options", {}))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    pictures = found.get("pictures") or sorted(path.name for path in file.parent.glob("*.png"))
    return {
        "name": name,
        "line": line,
        "form": form,
        "command": command,
        "machine": f"{processor}, {machine.get('cores', '?')} cores, Python {versions.get('python', '?')}, "
        f"NumPy {versions.get('numpy', '?')}",
        "tables": tables,
        "statements": statements,
        "settings": json.dumps(settings, indent=1),
        "environment": json.dumps(environment, indent=1),
        "pictures": [file.with_name(picture) for picture in pictures if file.with_name(picture).is_file()],
        "folder": file.parent,
        "title": file.parent.name.removeprefix("study-"),
        "found": found,
    }


def _command(name: str, options: dict[str, Any]) -> str:
    """Return the command line that repeats a study; the folder of the data is a placeholder."""
    config = options.get("config")
    if name == "train":
        words = ["rprop-lab train", shlex.quote(str(config))]
    else:
        words = [f"rprop-lab compare {shlex.quote(config)}" if config else f"rprop-lab study {name}"]
    words += ["--quick"] if options.get("quick") else []
    words += [f"--{key} {options[key]}" for key in ("seed", "seeds", "epochs") if options.get(key)]
    words += [f"--only {key}={value}" for key, values in (options.get("only") or {}).items() for value in values]
    if given := options.get("given"):
        words += [shlex.quote(word) for word in given]
    elif problems := options.get("problems"):
        words += ["--data-dir proben1"]
        words += [f"--problem {problem}" for problem in problems if set(problems) != set(PROBLEMS)]
    elif options.get("data"):
        data = options["data"]["data"]
        words.append(f"--data {data}" + (" --data-dir mnist" if data == "mnist" else ""))
    return " ".join(words)


def _without_paths(value: Any) -> Any:
    """Remove the paths of this machine from results; the names of data other than the report's stay."""
    if isinstance(value, dict):
        allowed = {"data_dir"} if value.get("is_mnist") is False else set()
        path_keys = ("data_dir", "path", "where")
        return {k: _without_paths(v) for k, v in value.items() if k in allowed or k not in path_keys}
    return [_without_paths(one) for one in value] if isinstance(value, list) else value


def _compress(picture: Path, file: Any) -> None:
    """Reduce a picture's colours and pixels to a third of its bytes."""
    from PIL import Image

    with Image.open(picture) as image:
        small = image.convert("RGB")
    small.thumbnail((1100, 1600), Image.Resampling.LANCZOS)
    small.quantize(64, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def _capital(line: str) -> str:
    return line[:1].upper() + line[1:]


def _escaped(text: str) -> str:
    return re.sub(r"([*|<])", r"\\\1", text)
