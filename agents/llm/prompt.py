"""The prompt of one proposal, rendered from lineage: the same lineage gives the same bytes, and the size is bounded.

`render(request)` gives a system part (rules, environment, surface, role brief), which stays the same
from session to session and is worth caching, and a user part made of sections with a budget each
(agents.llm.prompt_sizes). With the arm `no_lineage` the lineage sections are left out and everything
else is the same; a generalist's prompt does not depend on which copy of it asks. Templates are the
Markdown files in agents/llm/prompts. Limits: characters are budgeted, not tokens (about four to one).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files as resources

import jinja2

from agents.edits.file_text import shown
from agents.llm.knowledge import AS_FILES, BY_TOOL, contents, lessons_section
from agents.llm.prompt_sections import SECTIONS, Scene, display_name, now, parent_choice, steering
from agents.llm.prompt_sizes import FRAME, ROUND_BUDGETS, SYSTEM_BUDGETS, clipped
from agents.protocol import ProposalRequest
from lineage.environment_spec import EnvironmentSpec, Gate, Role, Surface
from lineage.python_ast import parse as parse_source
from lineage.safe_text import for_terminal, numbered, shortened, word

SESSION, WORKSPACE = "system.md", "brief.md"
SEPARATOR = "\n\n<<< what changes from session to session >>>\n\n"


@dataclass(frozen=True)
class Prompt:
    """`sections` has the size of every section in characters; `parent` the trial started from."""

    system: str
    user: str
    parent: str
    sections: dict[str, int]

    @property
    def text(self) -> str:
        """What lineage stores by hash."""
        return self.system + SEPARATOR + self.user

    @property
    def tokens(self) -> int:
        return -(-len(self.text) // 4)


def sees_lineage(arm: str) -> bool:
    return arm != "no_lineage"


def render(
    request: ProposalRequest, budgets: Mapping[str, int] | None = None, template: str = SESSION
) -> Prompt:
    """The prompt for a request. `budgets` overrides ROUND_BUDGETS by section name.

    `template`: SESSION for a model with tools, WORKSPACE for an agent with the files before it.
    """
    room = {**ROUND_BUDGETS, **(budgets or {})}
    scene = Scene(request.view, request.spec, request.role, template == WORKSPACE)
    lineage = sees_lineage(request.arm)
    parent, _ = parent_choice(request.view)
    source = request.files_of((parent.trial or "") if parent else "")
    parts = {
        "now": now(scene, room["now"], lineage),
        "steering": steering(request.steering, room["steering"]),
        "files": file_section(request.spec, request.role, source, room["files"]),
    }
    if lineage:
        parts.update({name: section(scene, room[name]) for name, section in SECTIONS.items()})
    if request.lessons:
        parts["lessons"] = lessons_section(request.lessons, room["lessons"])
    how = AS_FILES if template == WORKSPACE else BY_TOOL
    knowledge = contents(request.knowledge, how, SYSTEM_BUDGETS["knowledge"])
    system, system_parts = render_system(request.spec, request.role, lineage, template, knowledge)
    user = _template("round.md").render(lineage=lineage, **{"lessons": "", **parts}).strip() + "\n"
    sizes = {name: len(text) for name, text in {**system_parts, **parts}.items()}
    return Prompt(system, user, (parent.trial or "") if parent else "", sizes)


def size_limit(budgets: Mapping[str, int] | None = None) -> int:
    """No prompt is longer than this many characters."""
    room = {**SYSTEM_BUDGETS, **ROUND_BUDGETS, **(budgets or {})}
    return sum(room.values()) + len(SEPARATOR) + FRAME


def render_dry_run(request: ProposalRequest) -> str:
    """The prompt as it would be sent, then its size by section: `bakeoff propose --dry-run`."""
    prompt = render(request)
    sizes = "\n".join(f"{size:7d}  {name}" for name, size in prompt.sections.items())
    total = len(prompt.text)
    return (
        f"{prompt.text}\n--- {total} characters, about {prompt.tokens} tokens, "
        f"limit {size_limit()} characters; by section:\n{sizes}\n"
    )


# ---- the static part ---------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _templates() -> jinja2.Environment:
    """Templates of this package; an undefined name is an error, nothing is HTML."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(
            lambda name: resources("agents.llm").joinpath("prompts", name).read_text("utf-8")
        ),
        undefined=jinja2.StrictUndefined,
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _template(name: str) -> jinja2.Template:
    return _templates().get_template(name)


def render_system(
    spec: EnvironmentSpec, role: Role, lineage: bool, template: str = SESSION, knowledge: str = ""
) -> tuple[str, dict[str, str]]:
    """The part that is cached by the endpoint, and its sections."""
    parts = {
        "environment": clipped(environment_section(spec), SYSTEM_BUDGETS["environment"]),
        "surface": clipped(surface_section(spec, role), SYSTEM_BUDGETS["surface"]),
        "role": clipped(
            f"# Your role: {display_name(role)}\n\n{for_terminal(role.brief)}", SYSTEM_BUDGETS["role"]
        ),
    }
    text = _template(template).render(tools_lineage=lineage, knowledge=knowledge, **parts).strip() + "\n"
    rules = text[: text.index(parts["environment"])]
    return text, {"rules": rules, **parts, **({"knowledge": knowledge} if knowledge else {})}


def _limit_text(gate: Gate) -> str:
    rule = f"at least {gate.at_least:g}" if gate.at_least is not None else f"at most {gate.at_most:g}"
    how = {
        "mean": "the mean over the runs",
        "bound": f"the one-sided {gate.confidence * 100:g} % confidence bound of the mean, not the mean",
        "each": "every single run",
    }[gate.on]
    return f"- gate: {gate.quantity} {rule} ({how})"


def environment_section(spec: EnvironmentSpec) -> str:
    budget, score, judged = spec.budget, spec.score, spec.evaluation
    better = "lower is better" if score.direction == "min" else "higher is better"
    lines = [
        f"# Environment: {for_terminal(spec.title)} ({spec.name})",
        for_terminal(spec.description),
        f"- score: {score.metric} in {score.unit}, {better}; mean of {judged.runs} runs with the judge's seeds, "
        f"{judged.confirm_runs} or more fresh ones to confirm",
        *[_limit_text(gate) for gate in spec.gates],
        f"- each run: training {budget.train_cpu_s:g} CPU-s, prediction {budget.predict_cpu_s:g} CPU-s, "
        f"imports and warm-up {budget.start_cpu_s:g} CPU-s, {budget.memory_mb} MB memory, {budget.threads} threads",
        f"- sizes: trained artifact {budget.artifact_bytes:,} bytes, source {budget.source_bytes:,} bytes",
        *_task_lines(spec),
        f"- packages: {', '.join(spec.packages)}; hardware: {spec.hardware}",
        _contract(spec),
    ]
    if spec.audits:
        lines.append(f"- audits: {', '.join(spec.audits)}: answers may depend only on their own input")
    return "\n".join(lines)


def _task_lines(spec: EnvironmentSpec) -> list[str]:
    task = spec.task
    if task.kind in ("text", "judge"):
        most = f", each answer at most {task.text_bytes} bytes of UTF-8" if task.kind == "text" else ""
        asked = (
            "a list of texts and returns as many"
            if task.kind == "text"
            else "what the judge's own program asks"
        )
        return [
            f"- task: {task.kind}, {task.batch} rows a request{most}; predict takes {asked}: keep the types and shapes that "
            "the start's predict takes and returns"
        ]
    if task.kind != "script":
        return [
            f"- task: {task.kind}, {task.outputs} outputs, {task.batch} rows a request"
            + (f", context {task.context}" if task.context else "")
        ]
    lines = [f"- task: a script, run as it is: `{task.train}`"]
    lines += [f"- then, by a program that you cannot change: `{task.evaluate}`"] if task.evaluate else []
    lines += [f"- metric {metric.name}: {metric.take} of {metric.source}" for metric in task.metrics]
    if spec.trust == "reported":
        lines.append(
            "- here the score is what the recipe itself says: it must be measured as the start measures it; another "
            "number in its place, or an easier task, is tampering"
        )
    lines += [f"- protected, not yours to change: {', '.join(task.protected)}"] if task.protected else []
    return lines


def _contract(spec: EnvironmentSpec) -> str:
    if spec.task.kind == "script":
        return (
            "- contract: the command must keep its arguments and end with exit code 0; take all randomness from the "
            "seed; leave results in {out}. The clock runs from the start of the process to its end."
        )
    return (
        "- contract: `train.py` has `train(data, out, seed)` and may have `warm_up(fake)`, which runs before the "
        "data is released and is not billed; `predict.py` has `load(artifact)` and `predict(model, inputs)`. "
        "The clock runs from the release of the data to the end of training, and again over prediction."
    )


def _surface_lines(surface: Surface) -> list[str]:
    lines = [f"- {surface.name}: {for_terminal(surface.title)}"]
    for path, names in surface.units.items():
        lines.append(f"  - {path}: {'the whole file' if names == ['*'] else ', '.join(names)}")
    if surface.allow_new:
        lines.append(f"  - new definitions may be named: {', '.join(surface.allow_new)}")
    if surface.new_files:
        lines.append(f"  - new files may be named: {', '.join(surface.new_files)}")
    if surface.imports:
        lines.append(f"  - imports may be added of: {', '.join(surface.imports)}")
    return lines


def surface_section(spec: EnvironmentSpec, role: Role) -> str:
    """What the role may change, by file and definition, and how much."""
    lines = ["# What you may change"]
    for name in role.surfaces:
        lines += _surface_lines(spec.surface(name))
    lines.append(
        f"At most {role.max_changed_lines} changed lines in one edit. Everything else is read-only to you."
    )
    return "\n".join(lines)


# ---- source ------------------------------------------------------------------------------------


def owned_paths(spec: EnvironmentSpec, role: Role) -> list[str]:
    """Files in which the role may change something, in the order of its surfaces."""
    return list(dict.fromkeys(path for name in role.surfaces for path in spec.surface(name).units))


def outline(source: str) -> str:
    """Top-level definitions with their line numbers: what is shown of a file that is too long."""
    try:
        tree = parse_source(source)
    except (SyntaxError, ValueError, RecursionError):
        return "(does not parse)"
    named = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)]
    return (
        "\n".join(f"  lines {n.lineno}-{n.end_lineno}: {word(n.name)}" for n in named) or "(no definitions)"
    )


def file_section(spec: EnvironmentSpec, role: Role, files: Mapping[str, bytes], budget: int) -> str:
    """Every file's size, and the text of those the role owns as far as the budget goes."""
    mine = owned_paths(spec, role)
    lines = ["## Source of the scratch copy (the number and bar before each line are not part of it)"]
    for path in sorted(files):
        count = files[path].count(b"\n")
        mark = "yours" if path in mine else "read-only"
        lines.append(f"- {word(path)}: {count} lines, {len(files[path])} bytes, {mark}")
    head = clipped("\n".join(lines), budget // 3)
    room = budget - len(head)
    blocks: list[str] = []
    for path in [p for p in mine if p in files]:
        text = shown(path, files[path])
        block = f"\n### {word(path)}\n{numbered(text.removesuffix(chr(10)))}"
        if len(block) > room:
            block = (
                f"\n### {word(path)} (too long to show whole; use view)\n{shortened(outline(text), 1_500)}"
            )
        if len(block) <= room:
            blocks.append(block)
            room -= len(block)
    return head + "".join(blocks)
