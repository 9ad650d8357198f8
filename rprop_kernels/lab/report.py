"""All finished studies as one HTML page that needs nothing else: tables, pictures, settings, machine."""

import base64
import json
import re
from pathlib import Path
from typing import Any, Final

from .errors import LabError
from .output import check_writable, write_text

PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>rprop-lab: studies</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 20%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 0 auto; padding: 1rem; }
nav ul { columns: 20rem; padding-left: 1.2rem; }
section { border-top: 2px solid var(--line); margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.6rem 0 0.3rem; }
th, td { padding: 0.2rem 0.7rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; background: white; margin: 0.5rem 0; }
pre { overflow-x: auto; font-size: 0.8rem; }
</style></head><body>
<h1>rprop-lab: studies</h1>
<nav aria-label="Studies"><ul>
{% for s in studies %}<li><a href="#{{ s.id }}">{{ s.name }}</a>: {{ s.line }}</li>
{% endfor %}</ul></nav>
{% for s in studies %}<section id="{{ s.id }}"><h2>{{ s.name }}: {{ s.line }}</h2>
{% for t in s.tables %}<div class="scroll"><table><caption>{{ t.title }}</caption>
<thead><tr>{% for cell in t.heading %}<th scope="col">{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in t.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
{% endfor %}<ul>{% for line in s.statements %}<li>{{ line }}</li>
{% endfor %}</ul>
{% for name, data in s.pictures %}<p><img alt="{{ s.name }}: {{ name }}"
 src="data:image/png;base64,{{ data }}"></p>
{% endfor %}<details><summary>Settings, machine and versions</summary>
<pre>{{ s.settings }}</pre><pre>{{ s.environment }}</pre></details></section>
{% endfor %}</body></html>
"""


def write_report(folder: Path, path: Path) -> int:
    """Writes the page of all results below ``folder`` to ``path``; gives how many studies it shows.

    Raises:
        LabError: there are none, or the page cannot be written.
    """
    from jinja2 import Environment, StrictUndefined

    if not folder.is_dir():
        raise LabError(f"{folder} is not a folder. Name the one that holds your studies' folders.")
    check_writable(path.parent, (path.name,))
    studies = [found for file in sorted(folder.rglob("results.json")) if (found := _study(file)) is not None]
    if not studies:
        raise LabError(
            f"{folder} holds no finished study. Run one first, such as: rprop-lab study d-activations."
        )
    for index, study in enumerate(studies):
        study["id"] = f"study-{index + 1}"
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(PAGE)
    write_text(path, template.render(studies=studies))
    return len(studies)


def _study(file: Path) -> dict[str, Any] | None:
    """What the page needs of a study or a comparison; None where the file is neither."""
    try:
        found = json.loads(file.read_text())
        environment, settings = found["environment"], found["settings"]
        statements = [str(line) for line in found["statements"]]
        tables = found.get("tables")
        if tables is None:  # a comparison keeps its table as Markdown
            tables = [_markdown(file.with_name("table.md").read_text())]
        tables = [{"title": t["title"], "heading": t["heading"], "rows": t["rows"]} for t in tables]
        name, line = found["study"], found.get("line", f"in {file.parent.name}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    pictures = found.get("pictures") or sorted(path.name for path in file.parent.glob("*.png"))
    there = [file.with_name(picture) for picture in pictures if file.with_name(picture).is_file()]
    return {
        "name": name,
        "line": line,
        "tables": tables,
        "statements": statements,
        "settings": json.dumps(settings, indent=1),
        "environment": json.dumps(environment, indent=1),
        "pictures": [(picture.name, base64.b64encode(picture.read_bytes()).decode()) for picture in there],
    }


def _markdown(text: str) -> dict[str, Any]:
    rows = [re.split(r"\s*\|\s*", line.strip("| \n")) for line in text.splitlines() if line.startswith("|")]
    return {"title": "Results", "heading": rows[0], "rows": rows[2:]}
