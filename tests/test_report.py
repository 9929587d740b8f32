"""Reports from folders: the numbers against plain arithmetic, and the same from a summary alone."""

import json
import shutil
import sys
from pathlib import Path
from statistics import mean, stdev
from xml.etree import ElementTree

import pytest
from PIL import Image

from nada import experiments
from nada.__main__ import main
from nada.checkpoint import CHECKPOINTS, fingerprint, load_generator
from nada.experiments.figures import FIGURES, at_step, of_whole_seeds, paired, signed
from nada.experiments.folder import finished
from nada.experiments.report import fill_in, write_report

LP = {  # case, target, seed → LP
    ("plain", "zombie", 0): 0.50,
    ("plain", "zombie", 1): 0.54,
    ("plain", "devil", 0): 0.40,
    ("plain", "devil", 1): 0.44,
    ("changed", "zombie", 0): 0.45,
    ("changed", "zombie", 1): 0.47,
    ("changed", "devil", 0): 0.43,
    ("changed", "devil", 1): 0.43,
}
QUALITY = [0.2, 0.4, 0.55, 0.56, 0.561]  # along the steps: flat from step 30 on


def write_run(folder: Path, key: tuple[str, str, int], lp: float) -> str:
    """A run's folder as a sweep leaves it; its id."""
    case, target, seed = key
    name = f"{target}-{seed}-{case}"
    home = folder / "runs" / name
    home.mkdir(parents=True)
    figures = {"judged": 0.75, "lp": lp, "quality": 0.56, "identity": 0.25, "hair": None}
    result = {
        "id": name,
        "target": target,
        "seed": seed,
        "figures": figures,
        "steps_done": 40,
        "layers": ["conv1"] if case == "plain" else ["convs.2"],
        "seconds": 100.0 if key == ("plain", "devil", 1) else 10.0 + 2 * seed,
        "diverged": None,
        "made_by": "torch 2 on paper",
    }
    (home / "result.json").write_text(json.dumps(result))
    looks = [
        {"step": 10 * i, "quality": q, "identity": 1 - i / 8, "clip_diversity": 0.1,
         "judged": 0.75 * (i > 1), "lp": lp + abs(i - 2) / 10}
        for i, q in enumerate(QUALITY)
    ]  # fmt: skip
    (home / "metrics.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    colour = (40 * seed, 100, 200 if case == "plain" else 50)
    Image.new("RGB", (80, 16), colour).save(home / "grid.png")
    return name


@pytest.fixture
def folder(tmp_path) -> Path:
    """A sweep's folder: two cases, two targets, two seeds, all done but one run that is not."""
    ids = {key: write_run(tmp_path, key, lp) for key, lp in LP.items()}
    cases = [
        {
            "name": case,
            "settings": {},
            "all_settings": {"k": k, "steps": 40, "global_": 0.5},
            "runs": [name for key, name in ids.items() if key[0] == case],
        }
        for case, k in (("plain", 1), ("changed", 2))
    ]
    cases[1]["runs"].append("devil-2-changed")
    group = {
        "title": "One | two",
        "text": "Does it matter?",
        "cases": cases,
        "generator": "demo",
        "measure": {"clip": "demo", "judge": "demo", "samples": 128},
        "stopping": True,
    }
    plan = {"name": "test", "title": "A test", "text": "Why.", "groups": [group], "spec": ""}
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans/test.json").write_text(json.dumps(plan))
    return tmp_path


def cells(text: str, *start: str) -> list[str]:
    """The cells of the first table row that begins so, as they stand."""
    for line in text.splitlines():
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if row[: len(start)] == list(start):
            return row
    raise AssertionError(f"no row {start}")


def test_tables_hold_the_means_and_spreads_that_arithmetic_gives(folder):
    text = write_report(folder).read_text()
    head, plain, changed = (cells(text, name) for name in ("case", "plain", "changed"))
    lp = head.index("lp")
    for name, row in (("plain", plain), ("changed", changed)):
        seeds = [mean(v for k, v in LP.items() if k[0] == name and k[2] == s) for s in (0, 1)]
        assert row[lp] == f"{mean(seeds):.3f} ± {stdev(seeds):.3f}"
    assert plain[1] == "4" and changed[1] == "4 of 5"
    assert plain[head.index("judged")] == "75% ± 0%" and "hair" not in head
    assert plain[head.index("seconds")] == changed[head.index("seconds")] == "11"  # the median
    assert "- judged: share of pictures that" in text and "- hair: " not in text
    assert "8 of 9 runs are done (torch 2 on paper)." in text


def test_cases_are_held_against_the_first_pair_by_pair(folder):
    text = write_report(folder).read_text()
    table = text[text.index("Against “plain”") :]
    changes = [mean((0.45 - 0.50, 0.47 - 0.54)), mean((0.43 - 0.40, 0.43 - 0.44))]
    error = stdev(changes) / 2**0.5
    row = cells(table, "changed")
    assert "seconds" not in cells(table, "case")  # the machine's, not the run's
    assert row[cells(table, "case").index("lp")] == (
        f"−{abs(mean(changes)):.3f} ± {error:.3f} (1 of 2)"
    )


def test_pairs_are_runs_of_one_target_and_seed():
    def run(target, seed, value):
        return {"target": target, "seed": seed, "figures": {"lp": value}}

    ours = [run("a", 0, 3.0), run("a", 1, 5.0), run("b", 0, 1.0), run("c", 0, None)]
    theirs = [run("a", 0, 1.0), run("b", 0, 2.0), run("b", 1, 9.0), run("c", 0, 1.0)]
    assert paired(ours, theirs, "lp") == [2.0, -1.0]


def test_a_change_has_its_sign_unless_it_is_rounded_away():
    told = [signed(value, ".0%") for value in (0.2, -0.2, 0.001, -0.001)]
    assert told == ["+20%", "−20%", "0%", "0%"]


def test_stops_are_told_with_what_they_cost(folder):
    text = write_report(folder).read_text()
    table = text[text.index("When to stop.") :]
    head = cells(table, "case")
    best, rule, last = (cells(table, "plain", name) for name in ("best", "plateau", "last"))
    assert [row[head.index("at step")] for row in (best, rule, last)] == [
        "20 ± 0",
        "30 ± 0",
        "40 ± 0",
    ]
    by_seed = [mean((0.50, 0.40)), mean((0.54, 0.44))]
    for row, extra in ((best, 0.0), (rule, 0.1), (last, 0.2)):
        assert row[head.index("lp")] == f"{mean(by_seed) + extra:.3f} ± {stdev(by_seed):.3f}"
    assert rule[head.index("identity")] == "62% ± 0%"  # 1 − 3/8


def test_layers_are_counted_and_common_settings_told(folder):
    text = write_report(folder).read_text()
    table = text[text.index("How often a layer") :]
    assert cells(table, "case") == ["case", "conv1", "convs.2"]
    assert cells(table, "changed") == ["changed", "0%", "100%"]
    assert "Common to all: steps 40, global 0.5." in text


def test_charts_are_sound_and_show_every_case_and_figure(folder):
    text = write_report(folder).read_text()
    for kind in ("figures", "curves"):
        assert f"![One \\| two: {kind}](figures/test-1-{kind}.svg)" in text
        chart = ElementTree.parse(folder / f"figures/test-1-{kind}.svg").getroot()
        texts = {element.text for element in chart.iter() if element.tag.endswith("text")}
        assert {"plain", "changed", "lp ↓", "quality ↑"} <= texts
        width, height = (float(chart.get(side).removesuffix("pt")) for side in ("width", "height"))
        marks = [element for element in chart.iter() if element.tag.endswith("use")]
        marks = [mark for mark in marks if mark.get("x") != "0"]  # bands have whole coordinates
        assert marks
        for mark in marks:
            assert 0 < float(mark.get("x")) < width and 0 < float(mark.get("y")) < height


def test_without_matplotlib_there_is_a_report_and_a_sentence(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # import fails
    assert main(["report", str(folder)]) == 0
    assert 'pip install -e ".[reports]"' in capsys.readouterr().err
    text = (folder / "report.md").read_text()
    assert "| changed |" in text and ".svg" not in text and "test-1-people.png" in text
    (folder / "figures/test-1-curves.svg").write_text("drawn elsewhere")
    assert "(figures/test-1-curves.svg)" in write_report(folder).read_text()


def test_people_of_one_seed_stand_below_each_other(folder):
    write_report(folder)
    with Image.open(folder / "figures/test-1-people.png") as sheet:
        colours = [sheet.getpixel((sheet.width - 12, 18 + 8 * row + 4)) for row in range(3)]
    assert colours == [(0, 100, 200), (0, 100, 200), (0, 100, 50)]  # frozen, plain, changed


def test_the_summary_alone_gives_the_same_report(folder, tmp_path_factory):
    text = write_report(folder).read_text()
    kept = tmp_path_factory.mktemp("kept")
    for name in ("plans", "figures"):
        shutil.copytree(folder / name, kept / name)
    shutil.copy(folder / "summary.jsonl", kept)
    assert write_report(kept).read_text() == text
    for path in folder.glob("figures/*.svg"):
        assert (kept / "figures" / path.name).read_bytes() == path.read_bytes()
    assert (kept / "summary.jsonl").read_bytes() == (folder / "summary.jsonl").read_bytes()


def test_a_page_of_ones_own_takes_up_the_tables_at_its_marks(folder, tmp_path, capsys):
    page = tmp_path / "PAGE.md"
    page.write_text("# Mine\n\n<!-- test: One | two -->\nold\n<!-- end -->\n\nSo it is.\n")
    assert main(["report", str(folder), "--into", str(page)]) == 0
    assert "Filled in" in capsys.readouterr().out
    text, report = page.read_text(), (folder / "report.md").read_text()
    head, tables = text.split("<!-- test: One | two -->\n\n")
    tables, tail = tables.split("\n\n<!-- end -->")
    assert (head, tail) == ("# Mine\n\n", "\n\nSo it is.\n")
    for part in tables.split("\n\n")[:-1]:
        assert part in report
    assert "(figures/test-1-figures.svg)" in tables and "| changed |" in tables
    assert "(figures/test-1-curves.svg)" in tables
    assert tables.endswith("(figures/test-1-people.png)")
    fill_in(page, folder)
    assert page.read_text() == text  # the same again
    page.write_text("<!-- test: Another -->\n<!-- end -->")
    with pytest.raises(ValueError, match="asks for “test: Another”"):
        fill_in(page, folder)


RESULTS = Path(experiments.__file__).parent / "results"


def test_the_projects_report_says_what_its_runs_came_to(tmp_path):
    kept = shutil.copytree(RESULTS, tmp_path / "nada/experiments/results")
    page = tmp_path / "REPORT.md"
    told = (CHECKPOINTS.parent / "REPORT.md").read_text()
    page.write_text(told)
    fill_in(page, kept)
    assert page.read_text() == told
    known = json.loads((kept / "models.json").read_text())
    assert known["generator demo"] == fingerprint(load_generator("demo"))


def test_the_order_of_runs_does_not_matter_and_a_run_without_a_result_does_not_count(folder):
    text = write_report(folder).read_bytes()
    names = [path.name for path in (folder / "runs").iterdir()]
    for name in names:  # made anew, the other way round
        (folder / "runs" / name).rename(folder / f"moved-{name}")
    for name in reversed(names):
        (folder / f"moved-{name}").rename(folder / "runs" / name)
    (folder / "runs" / "devil-2-changed").mkdir()
    assert write_report(folder).read_bytes() == text
    assert len(finished(folder)) == len(LP)


def test_a_seed_that_lacks_targets_does_not_count_yet():
    runs = [{"seed": seed, "target": t} for seed, t in ((0, "a"), (0, "b"), (1, "a"), (2, "a"))]
    assert of_whole_seeds(runs) == runs[:2]
    both = [*runs, {"seed": 1, "target": "b"}]
    assert [run["seed"] for run in of_whole_seeds(both)] == [0, 0, 1, 1]
    assert of_whole_seeds([]) == []


def test_a_curve_is_read_at_a_step():
    run = {"seed": 1, "target": "a", "curve": {"step": [0, 5], "lp": [1.0, 0.5]}}
    assert at_step(run, 5) == {"seed": 1, "target": "a", "figures": {"lp": 0.5}}


def test_every_figure_has_a_name_of_its_own_and_a_form_that_formats():
    assert len({figure.name for figure in FIGURES}) == len(FIGURES)
    assert all(format(0.5, figure.form) and figure.better in (-1, 0, 1) for figure in FIGURES)


def test_every_figure_of_the_projects_runs_is_told(folder):
    """What a trial measures stands in a table, and in no table what no trial measures."""
    measured = {name for run in finished(RESULTS).values() for name in run["figures"]}
    told = {figure.name for figure in FIGURES}
    assert told <= measured and measured - told == {"judged_before", "diversity_truth"}


def test_a_folder_without_a_sweep_is_told_in_a_sentence(tmp_path, capsys, folder):
    (tmp_path / "empty").mkdir()
    assert main(["report", str(tmp_path / "empty")]) == 2
    assert "holds no plans: give the folder of" in capsys.readouterr().err
    shutil.rmtree(folder / "runs")
    assert main(["report", str(folder)]) == 2
    assert "is finished: let the sweep do some first" in capsys.readouterr().err
