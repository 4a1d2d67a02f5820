"""The documents tell the truth: their tables name what exists, their code runs, their figures are the measured ones."""

import json
import pkgutil
import re
from pathlib import Path

import pytest

from benchmarks import documents
from benchmarks.speed import NETS
from jaxcnn.verify import OPERATIONS, chosen_cases
from jaxcnn.zoo.presets import PRESETS

ROOT = Path(__file__).parents[1]
TAG = re.compile(r"\b([GIFALBTN]\d{1,2})\b")
DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("[RC]*.md"), *ROOT.glob("docs/*.md")])
FORMULAS = (ROOT / "docs/formulas.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"^\| [A-Z]\d+ .*$", FORMULAS, re.M)
]


def cited_tags():
    """Tags in square brackets in the docstrings and comments of the library."""
    for path in [*(ROOT / "jaxcnn").rglob("*.py"), *(ROOT / "reference").glob("*.py")]:
        for bracket in re.findall(r"\[([A-Z]\d+(?:, [A-Z]\d+)*)\]", path.read_text()):
            yield from TAG.findall(bracket)


def test_every_formula_of_the_documents_has_a_row():
    last = {"G": 3, "I": 4, "F": 9, "A": 4, "L": 2, "B": 12, "T": 6}
    of_documents = {row[0] for row in ROWS if not row[0].startswith("N")}  # N is what lies beyond them
    assert of_documents == {f"{letter}{n}" for letter, end in last.items() for n in range(1, end + 1)}


def test_every_cited_tag_has_a_row_and_every_row_is_cited():
    rows = [row[0] for row in ROWS]
    assert len(rows) == len(set(rows))
    assert set(cited_tags()) == set(rows)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_functions_and_tests_of_a_formula_exist(row):
    tag, _, functions, tests = row
    for name in re.findall(r"`([^`]+)`", functions):
        assert pkgutil.resolve_name(name) is not None, (tag, name)
    found = re.findall(r"`([^`]+)`", tests)
    assert found, tag
    for test in found:
        path, _, function = test.partition("::")
        assert f"def {function}(" in (ROOT / path).read_text(), (tag, test)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_the_python_in_a_document_runs(document):
    text = re.sub(r"<!-- jaxcnn/.*?<!-- end -->", "", (ROOT / document).read_text(), flags=re.S)  # quoted code
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert blocks
    names = {}
    for block in blocks:
        exec(compile(block, document, "exec"), names)


@pytest.mark.parametrize("document", documents.PRINTING)
@pytest.mark.usefixtures("on_cpu_alone")
def test_the_python_in_a_document_prints_what_stands_below_it(document):
    def rounded(text):  # what is rounding error differs between processors
        return re.sub(r"\b\d\.\d+e-1\d\b", "0", text)

    text = (ROOT / document).read_text()
    assert "```text" in text
    assert rounded(documents.run(text)) == rounded(text)


def test_the_parts_of_the_documents_are_what_they_say_they_are():
    for document, said, text in documents.parts():
        assert f"<!-- {said} -->\n{text}\n<!-- end -->" in (ROOT / document).read_text(), (document, said)


def test_every_document_with_printed_text_is_run():
    printing = {name for name in DOCUMENTS if "```text" in (ROOT / name).read_text()}
    assert printing - {"docs/tutorial.zh-CN.md"} == set(documents.PRINTING)


def test_the_tutorial_differentiates_nothing_automatically():
    text = (ROOT / "docs/tutorial.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", text, re.S))
    assert not re.findall(r"\b(grad|vjp|jvp|value_and_grad|linearize|jacobian|jacrev|jacfwd)\b", code)
    steps = " ".join(re.findall(r"^## Steps? ([\d, and]+):", text, re.M))
    assert sorted(map(int, re.findall(r"\d+", steps))) == list(range(1, 12))


def test_the_chinese_tutorial_has_the_code_the_printed_lines_and_the_steps_of_the_english_one():
    english, chinese = ((ROOT / "docs" / name).read_text() for name in ("tutorial.md", "tutorial.zh-CN.md"))

    def blocks(text):
        return re.findall(r"```(?:python|text)\n.*?```", text, re.S)

    assert blocks(chinese) == blocks(english)
    steps = "、".join(re.findall(r"^## 第 ([\d、]+) 步：", chinese, re.M))
    assert sorted(map(int, steps.split("、"))) == list(range(1, 12))
    assert len(re.findall(r"^## ", chinese, re.M)) == len(re.findall(r"^## ", english, re.M))
    assert "(tutorial.zh-CN.md)" in english
    assert "(tutorial.md)" in chinese


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_in_a_document_exist(document):
    text = (ROOT / document).read_text()
    for path in re.findall(r"`((?:jaxcnn|reference|tests|docs|benchmarks)/[\w./]*)`", text):
        assert "family" in path or (ROOT / path).exists(), path  # "family" is the checklist's placeholder
    for link in re.findall(r"\]\(((?!http)[\w./-]+)\)", text):
        assert ((ROOT / document).parent / link).exists(), link


def test_the_figures_of_the_digits_are_the_committed_ones():
    result = json.loads((ROOT / "benchmarks/results/digits.json").read_text())
    accuracies, seconds = zip(*((run["accuracy"], run["seconds"]) for run in result["runs"]), strict=True)
    assert [run["seed"] for run in result["runs"]] == [0, 1, 2, 3, 4]
    assert sorted(accuracies)[2] == result["median_accuracy"]
    text = " ".join((ROOT / "docs/presets.md").read_text().split())
    assert f"{result['median_accuracy']:.2%} test accuracy" in text
    assert f"{sorted(seconds)[2]} s (at most {max(seconds)} s)" in text


def test_the_sentence_on_speed_is_the_committed_measurement():
    rows = json.loads((ROOT / "benchmarks/results/steps.json").read_text())["rows"]
    steps = [row for row in rows if row["table"] == "step" and row["batch"] == 128 and row["precision"] == "float32"]
    assert tuple(dict.fromkeys(row["net"] for row in steps)) == NETS
    of_grad, of_torch = [], []
    for net in NETS:
        times = {row["variant"]: row["milliseconds"] for row in steps if row["net"] == net}
        of_grad.append(times["ours"] / times["jax.grad"])
        of_torch.append(times["ours"] / min(times["torch"], times["torch, channels last"]))
    for document, to in (("README.md", "to"), ("README.zh-CN.md", "到")):
        text = (ROOT / document).read_text()
        for ratios in (of_grad, of_torch):
            assert f"{min(ratios):.2f} {to} {max(ratios):.2f}" in text, document


def test_the_readme_fits_on_two_screens():
    text = (ROOT / "README.md").read_text()
    assert len(text.split()) <= 600
    assert len(re.findall(r"\d+(?:[.,]\d+)*", text)) <= 60


def test_the_presets_are_all_described():
    text = (ROOT / "docs/presets.md").read_text()
    for name in PRESETS:
        assert f"**{name}**" in text


def test_the_tables_name_every_operation_and_pass():
    for document, extra in (("docs/verify.md", []), ("docs/reference.txt", ["network"])):
        text = (ROOT / document).read_text()
        for op in [*OPERATIONS, *extra]:
            (line,) = re.findall(rf"^{op} +\d+ .*$", text, re.M)
            assert line.endswith("  ok")
            if op in OPERATIONS:
                cases = chosen_cases(OPERATIONS[op], thorough=document != "docs/verify.md")
                assert int(line.split()[1]) == len(cases)


def test_the_chinese_readme_has_the_code_and_the_figures_of_the_english_one():
    english, chinese = ((ROOT / name).read_text() for name in ("README.md", "README.zh-CN.md"))

    def parts(text):
        fences = re.findall(r"```.*?```", text, re.S)
        prose = re.sub(r"```.*?```", "", text, flags=re.S)
        links = {link.replace(".zh-CN", "") for link in re.findall(r"\]\((docs/[\w./-]+)\)", text)}
        return fences, links, sorted(re.findall(r"\d+[.,]\d+", prose)), len(re.findall(r"^## ", text, re.M))

    assert parts(chinese) == parts(english)
    assert "(README.zh-CN.md)" in english
    assert "(README.md)" in chinese
