"""The site and the report: what they show, how they behave in a browser, and that no text of a run gets out."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Browser, chromium

from harness import evaluate, load_run
from harness.judge import summarise
from harness.probes import probe
from harness.record import RunFolder
from harness.tasks import make_task
from leaderboards import Board, publish
from leaderboards.board import sha256_of
from leaderboards.markup import MAX_TEXT, block, text
from leaderboards.page import MARKER, write_site
from leaderboards.published import Figure, published_header
from leaderboards.report import write_report
from leaderboards.schema import cell
from stepgame.cli import main
from stepgame.errors import InputError

ROOT = Path(__file__).parent.parent
PUBLISHED = ROOT / "leaderboards" / "published.csv"

HOSTILE_LABELS = (1, 2, 4)
"""Hostile runs whose samples' ids, gold labels and options are hostile too, between them with each of the texts."""

HOSTILE = [
    "<script>document.title='broken'</script>",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "\u202egnp.exe\u202c",
    '"><img src=x onerror=alert(1)>',
    "</pre></title><svg/onload=alert(1)>",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "runs"
    stories = {"hops": "1-4", "per_hop": 6}
    for noise in (True, False):
        for model in ("oracle", "random"):
            evaluate(model, out=folder / f"{model}-{'noise' if noise else 'clean'}", noise=noise, **stories)
    for number in range(len(HOSTILE)):
        make_hostile(folder / "random-noise", folder / f"hostile-{number}", number)
    return folder


def make_hostile(source: Path, target: Path, number: int) -> None:
    """Make a run whose every text is hostile, one answer a megabyte long, with results that follow from it."""
    shutil.copytree(source, target)
    name = HOSTILE[number]
    manifest = json.loads((target / "manifest.json").read_text())
    # Another prompt hash, so that the board takes each for a measurement of its own.
    manifest["model"] |= {"spec": name, "backend": "openai", "content_hash": None}
    manifest["command"] = ["stepgame", "run", "--model", name]
    manifest["prompt"]["name"] = name
    (target / "manifest.json").write_text(json.dumps(manifest))
    (target / "training.json").write_text(json.dumps({"command": [name]}))
    examples = make_task("stepgame", manifest["task"]["params"]).examples
    lines = [json.loads(line) for line in (target / "samples.jsonl").read_text().splitlines()]
    named = {example.id: example for example in examples}
    if number in HOSTILE_LABELS:
        # The board takes other labels than the nine from other tasks alone.
        manifest["task"]["name"] = name
        (target / "manifest.json").write_text(json.dumps(manifest))
    for place, line in enumerate(lines):
        if number in HOSTILE_LABELS:
            text = HOSTILE[(number + place) % len(HOSTILE)]
            renamed = f"{text} {line['id']}"
            named[line["id"]] = replace(named[line["id"]], id=renamed)
            line |= {"id": renamed, "gold": text, "options": [text, *line["options"]], "correct": False}
        for column in ("logprobs", "option_tokens", "prediction_normalised", "correct_normalised"):
            del line[column]
        line |= {"prompt": name, "raw": name, "finish": "stop", "prediction_strict": None, "correct_strict": False}
    lines[0] |= {"raw": name + "A" * 1_000_000, "prediction": None, "correct": False}
    (target / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with RunFolder(target) as record:
        record.finish({**summarise(lines, list(named.values())), "seconds": 1.0, "examples_per_second": 24.0})


@pytest.fixture(scope="module")
def published(runs: Path) -> Path:
    """Return the published figures, and with each hostile text a row in which all words are."""
    with PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    plain = next(row for row in rows if row["confidence"] == "verified" and row["acc_k10"])
    for each in HOSTILE:
        words = dict.fromkeys(("system", "method", "source", "table", "note"), cell(each))
        rows.append(plain | words | {"url": f"https://example.org/{cell(each)}"})
    path = runs.parent / "published.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, published_header())
        writer.writeheader()
        writer.writerows(sorted(rows, key=lambda row: Figure(0, row).order))
    return path


@pytest.fixture(scope="module")
def site(runs: Path, published: Path) -> Path:
    out = runs.parent / "site"
    publish(sorted(runs.iterdir()), runs.parent / "board.csv", allow_dirty=True)
    done = write_site(out, runs.parent / "board.csv", published, [runs], 3)
    assert (done.rows, done.notes) == (10, [])
    return out


@pytest.fixture(scope="module")
def report(runs: Path) -> Path:
    probe("random", out=runs.parent / "probed", hops="1-2", per_hop=6, noise=True)
    names = ("oracle-noise", "random-noise", "random-clean", "hostile-0", "hostile-3", "hostile-5", "../probed")
    for number in HOSTILE_LABELS:
        # By themselves: their labels differ from the others', so that nothing can be compared.
        write_report([runs / f"hostile-{number}"], runs.parent / "reports" / f"{number}.html", examples=3, plots=False)
    done = write_report([runs / name for name in names], runs.parent / "report.html", examples=3)
    assert {path.suffix for path in done.plots} == {".svg", ".png"}
    assert all(path.stat().st_size > 1000 for path in done.plots) and not done.notes
    return done.page


class Tags(html.parser.HTMLParser):
    """What a page is made of."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def hostile_pages(runs: Path, site: Path) -> list[Path]:
    """Return the pages of the site that are of hostile runs."""
    answers = [sha256_of(runs / f"hostile-{number}" / "samples.jsonl") for number in range(len(HOSTILE))]
    return [site / "runs" / f"{each[:16]}.html" for each in answers]


def test_every_page_holds_nothing_but_itself(runs: Path, site: Path, report: Path) -> None:
    pages = [*site.rglob("*.html"), report, *(report.parent / "reports").iterdir()]
    assert len(pages) == 15
    for page in pages:
        tags = Tags(page).tags
        names = [name for name, _ in tags]
        assert names.count("script") == 1 and "img" not in names and "iframe" not in names, page
        assert {name for name, attributes in tags if "src" in attributes} == set()
        ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
        assert len(set(ids)) == len(ids), "two tasks on the same stories have one ranking each"
        assert not [each for _, attributes in tags for each in attributes if each.startswith("on")]
        links = {attributes.get("href") or "" for name, attributes in tags if name in ("a", "link")}
        assert all(
            re.match(r"(#|data:,|https://|runs/[0-9a-f]{16}(-\d+)?\.html|\.\./index\.html|\w+\.csv)", link)
            for link in links
        )
        assert page.stat().st_size < 400_000, "a megabyte of answer makes no megabyte of page"
        assert not re.search("[\u202a-\u202e]", page.read_text(encoding="utf-8")), page
    for page in [*hostile_pages(runs, site), *(report.parent / "reports").iterdir()]:
        shown = page.read_text(encoding="utf-8")
        assert re.search(rf"A \u2026 \(1,000,0\d\d characters, the first {MAX_TEXT:,} shown\)", shown), page


def test_every_hostile_text_is_shown_as_text(runs: Path, site: Path, report: Path) -> None:
    """What is not shown cannot get out, so each place is looked at: names, ids, gold labels, options, sources."""
    index = (site / "index.html").read_text(encoding="utf-8")
    pages = [page.read_text(encoding="utf-8") for page in hostile_pages(runs, site)]
    labels = "".join(pages[number] for number in HOSTILE_LABELS)
    reports = "".join(page.read_text(encoding="utf-8") for page in (report.parent / "reports").iterdir())
    for number, each in enumerate(HOSTILE):
        assert f"<h1>{text(cell(each))}</h1>" in pages[number]
        assert pages[number].count("<details><summary>training.json</summary>") == 1
        assert f'rel="noreferrer noopener">{text(cell(each))}</a>' in index, "the source of a published row"
        assert f"<small>{text(cell(each))}</small>" in index, "its note"
        for shown in (labels, reports):
            assert f"gold {text(each, 60)}</span>" in shown and f"<small>{text(each + ' core-official', 80)}" in shown


def test_names_lead_to_no_path_and_no_formula(site: Path, runs: Path) -> None:
    files = sorted(path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file())
    assert len(files) == 14 and files[0] == MARKER
    assert all(re.fullmatch(r"runs/[0-9a-f]{16}(-\d+)?\.html", each) for each in files if each.startswith("runs/"))
    assert (site / "stepgame.csv").read_bytes() == (runs.parent / "board.csv").read_bytes()
    board = (site / "stepgame.csv").read_text()
    assert "'=cmd|" in board and not re.search(r"(^|[,\n\"])[=@]", board)
    assert "\u202e" not in board


def test_text_is_text() -> None:
    assert text("<b>&\"'") == "&lt;b&gt;&amp;&quot;&#x27;"
    assert text("a\u202eb\x00\n") == "a\\u202eb\\x00\\n" and text(None) == ""
    long = block("x" * 1_000_000)
    assert len(long) < MAX_TEXT + 100 and "1,000,000 characters" in long
    assert block("a\nb") == "<pre>a\nb</pre>"


def test_the_front_page_in_a_browser(site: Path) -> None:
    with chromium() as browser:
        browser.look()
        browser.open(site / "index.html")
        assert browser.js("document.title") == "StepGame leaderboard"
        check_sorting(browser)
        check_filters(browser)
        check_keyboard(browser)
        check_focus_is_seen(browser)
        assert browser.js("document.querySelectorAll('#board tbody th a').length") == 10
        browser.look(390, 844, dark=True, phone=True)
        assert browser.js("document.documentElement.scrollWidth") <= 390, "a phone scrolls the table, not the page"
        assert browser.js("getComputedStyle(document.body).backgroundColor") == "rgb(22, 22, 26)"
        heights = browser.js("[...document.querySelectorAll('nav a')].map(a => a.getBoundingClientRect().height)")
        assert len(heights) == 7 and min(heights) >= 40, "a finger hits them"
        check_quiet(browser, site)


def check_sorting(browser: Browser) -> None:
    column = "[...document.querySelectorAll('#board thead th')].findIndex(h => h.textContent === 'k 3')"
    values = f"""[...document.querySelectorAll('#board tbody')].map(group =>
        [...group.querySelectorAll('tr:not(.group)')].map(row => row.cells[{column}].dataset.v))"""
    button = f"document.querySelectorAll('#board thead th')[{column}].querySelector('button').click()"
    ranked = "[...document.querySelectorAll('#board tbody')].map(group => group.dataset.ranked === 'yes')"
    before = browser.js(values)
    for sign, state in ((-1, "descending"), (1, "ascending")):
        browser.js(button)
        groups = browser.js(values)
        assert [sorted(group) for group in groups] == [sorted(group) for group in before], "rows stay in their ranking"
        for group, fixed, first in zip(groups, browser.js(ranked), before, strict=True):
            known = [float(each) for each in group if each]
            assert known == sorted(known, key=lambda value: sign * value) if fixed else group == first
            assert "" not in group[: len(known)] or not fixed, "empty cells stand last"
        assert browser.js(f"document.querySelectorAll('#board thead th')[{column}].getAttribute('aria-sort')") == state


def check_filters(browser: Browser) -> None:
    shown = "[...document.querySelectorAll('#board tbody tr:not(.group)')].filter(row => row.offsetParent).length"
    total = browser.js(shown)
    assert browser.js("document.getElementById('count').textContent") == f"{total} of {total} rows"

    def put(control: str, value: str) -> int:
        browser.js(
            f"(() => {{ const c = document.getElementById('{control}'); c.value = {json.dumps(value)};"
            " c.dispatchEvent(new Event('input')); })()"
        )
        found: int = browser.js(shown)
        return found

    assert 0 < put("search", "gpt-4 chain corrected") < 10
    assert put("search", "nobody asked this") == 0 and put("search", "") == total
    assert put("origin", "measured") == 10
    assert put("data", "corrected") == 0 and put("origin", "") > 10
    assert put("data", "") == total
    curves = "[...document.querySelectorAll('g.series')].filter(one => getComputedStyle(one).display !== 'none').length"
    few = browser.js(curves)
    browser.js("document.getElementById('unsure').click()")
    assert browser.js(curves) > few, "unverified figures are plotted only on request"
    browser.js("document.querySelector('.legend button').click()")
    assert browser.js(
        "document.getElementById(document.querySelector('.legend button').dataset.series).hasAttribute('hidden')"
    )


def check_keyboard(browser: Browser) -> None:
    """Everything that can be pressed is reached by Tab, in the order of the page, and pressed by Enter."""
    browser.js("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        browser.press("Tab")
        seen.append(browser.js("document.activeElement.id || document.activeElement.textContent.slice(0, 20)"))
    assert seen[0] == "Skip to the content"
    assert [each for each in seen if each in ("search", "data", "origin", "unsure")] == [
        "search",
        "data",
        "origin",
        "unsure",
    ]
    assert "mean" in seen
    browser.js("[...document.querySelectorAll('#board thead button')].find(b => b.textContent === 'mean').focus()")
    browser.press("Enter")
    assert browser.js("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"


def check_focus_is_seen(browser: Browser) -> None:
    """Links of the table that get the focus from below, as by Shift and Tab, do not stop under its header."""
    tops = """(() => {
        const head = document.querySelector('#board thead th');
        const links = [...document.querySelectorAll('#board tbody a')].filter(each => each.offsetParent).reverse();
        return links.map(each => {
            each.focus();
            return each.getBoundingClientRect().top - head.getBoundingClientRect().bottom;
        });
    })()"""
    found = browser.js(tops)
    assert len(found) > 50 and min(found) >= 0


def check_quiet(browser: Browser, page: Path) -> None:
    assert not browser.console
    assert browser.requests and all(each.startswith((page.parent.as_uri(), "data:,")) for each in browser.requests)


def test_hostile_pages_in_a_browser(site: Path, report: Path) -> None:
    with chromium() as browser:
        for page in [*sorted((site / "runs").iterdir()), report]:
            browser.open(page)
            browser.js("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            assert browser.js("document.title") != "broken"
            assert browser.js("document.images.length + document.querySelectorAll('[onload], [onerror]').length") == 0
            assert browser.js("document.scripts.length") == 1
        check_quiet(browser, site)


def test_a_policy_stops_what_escaping_would_miss(site: Path, tmp_path: Path) -> None:
    """The page as if escaping had failed: its script does not run, its picture is not asked for."""
    page = tmp_path / "index.html"
    inject = "<script>document.title='broken'</script><img src='http://127.0.0.1:9/x.png'>"
    page.write_text((site / "index.html").read_text().replace("<main", inject + "<main"))
    with chromium() as browser:
        browser.open(page)
        assert browser.js("document.title") == "StepGame leaderboard"
        assert len(browser.console) >= 2, "the browser says that it refused both"


def noise_rows(board: Path) -> list[dict[str, str]]:
    """Return the random model's rows, with noise and without, as if an adapter had answered."""
    rows = [row.cells for row in Board.read(board).rows if row.cells["model"] == "random"]
    assert sorted(row["noise"] for row in rows) == ["no", "yes"]
    named = {"yes": "stepgame-v1-official", "no": "stepgame-v1-official-clean"}
    return [row | {"adapter": "dept", "adapter_hash": "a" * 64, "data": named[row["noise"]]} for row in rows]


def shown_noise(rows: list[dict[str, str]]) -> str:
    from leaderboards.page import _noise

    return "".join(_noise(rows, {id(row): "runs/x.html" for row in rows}))


def test_noise_names_the_adapter(site: Path, runs: Path) -> None:
    assert ">random + dept (zero-shot@1, choice)</a>" in shown_noise(noise_rows(runs.parent / "board.csv"))


def test_noise_is_shown_of_named_twins_alone(site: Path, runs: Path) -> None:
    """Two rows may agree in every column and be on stories that differ in more than noise: in names, in balance."""
    rows = noise_rows(runs.parent / "board.csv")
    for yes, no in (("stepgame-v1-official", ""), ("", ""), ("stepgame-v1-official", "stepgame-v1-exact-clean")):
        others = [row | {"data": yes if row["noise"] == "yes" else no} for row in rows]
        assert "No two measured rows on named stories differ in noise alone yet" in shown_noise(others)
    unnamed = [row | {"data": ""} for row in rows]
    assert shown_noise([*rows, *unnamed]).count(">random + dept (") == 1


def test_words_say_what_the_columns_hold(site: Path) -> None:
    with PUBLISHED.open(newline="") as file:
        partly = [row for row in csv.DictReader(file) if row["overall"] and not row["acc_k10"]]
    index = (site / "index.html").read_text()
    assert partly and all(f'<td data-v="{float(row["overall"])}">' in index for row in partly)
    assert "of a published row that does not give all ten, the total that its source gives" in index


def test_what_is_not_ranked_is_drawn_on_request(site: Path) -> None:
    """Words of confidence promise that a figure is plotted on request; those of data that nobody knows are too."""
    panels = [
        (hidden, title)
        for hidden, title in re.findall(
            r'(<div class="unsure">)?<figure><figcaption>(.*?)</figcaption>', (site / "index.html").read_text()
        )
    ]
    found = [title for hidden, title in panels if hidden and title.startswith("data not stated")]
    assert len(found) == 1 and "curves cannot be compared" in found[0]
    assert not [title for hidden, title in panels if not hidden and "cannot be compared" in title]
    with PUBLISHED.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["confidence"] == "medium"]
    index = (site / "index.html").read_text()
    labels = re.findall(r'<li class="unsure"><button[^>]*>.*?</svg>(.*?)</button>', index)
    assert rows and all(any(text(row["system"]) in label for label in labels) for row in rows)


def test_report_says_what_the_harness_says(report: Path, runs: Path) -> None:
    shown = report.read_text()
    for heading in ("What was run", "Results by k", "Paired comparisons", "Kinds of mistake", "Invariance", "Answers"):
        assert f">{heading}</h2>" in shown
    oracle = load_run(runs / "oracle-noise").results
    assert oracle is not None and oracle["mean_accuracy"] == 1.0
    assert "random-noise − oracle-noise" in shown and "they differ" in shown and "Noise sensitivity: random" in shown
    assert "renamed" in shown and "shuffled" in shown


def test_report_paths(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert write_report([runs / "oracle-noise"], tmp_path / "r", plots=False).page == tmp_path / "r" / "index.html"
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(runs / "oracle-noise"), "--out", str(tmp_path / "x.html")])
    assert not stopped.value.code
    names = sorted(path.name for path in tmp_path.glob("x*"))
    assert names == ["x-accuracy.png", "x-accuracy.svg", "x.html"], "a run without mistakes has no plot of them"
    (tmp_path / "file").touch()
    (tmp_path / "x.html").unlink()
    (tmp_path / "x.html").mkdir()
    for out in (tmp_path / "file", tmp_path / "x.html"):
        with pytest.raises(InputError, match=r"expected a file that ends in \.html, or a folder"):
            write_report([runs / "oracle-noise"], out, plots=False)
    with pytest.raises(InputError, match="is no run folder"):
        write_report([tmp_path / "r"], tmp_path / "y.html", plots=False)


def test_same_rows_give_the_same_site(site: Path, runs: Path, published: Path, tmp_path: Path) -> None:
    for _ in range(2):
        write_site(tmp_path / "again", runs.parent / "board.csv", published, [runs], 3)
    for page in site.rglob("*.html"):
        assert page.read_bytes() == (tmp_path / "again" / page.relative_to(site)).read_bytes()


def test_site_replaces_sites_alone(site: Path, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    board = runs.parent / "board.csv"
    with pytest.raises(InputError, match="holds something that is no site"):
        write_site(tmp_path, board, PUBLISHED)
    assert (tmp_path / "kept.txt").read_text() == "mine"
    done = write_site(tmp_path / "site", board, PUBLISHED, [tmp_path])
    assert done.notes == ["answers of 10 rows are not shown: no folder of their run was found; name it by --runs"]
    with pytest.raises(InputError, match="is no folder"):
        write_site(tmp_path / "other", board, PUBLISHED, [tmp_path / "none"])


def test_site_in_the_working_folder_is_refused(
    site: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder that somebody stands in cannot be replaced by another without taking it from under them."""
    (tmp_path / "inner").mkdir()
    (tmp_path / MARKER).touch()
    monkeypatch.chdir(tmp_path / "inner")
    for out, other in ((".", "site"), ("..", "../site")):
        with pytest.raises(InputError, match=rf"--out {out}: .*working folder.*for instance --out {other}"):
            write_site(Path(out), runs.parent / "board.csv", PUBLISHED, [runs])
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    write_site(tmp_path / "link", runs.parent / "board.csv", PUBLISHED, [runs], 0)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "index.html").is_file()


def test_pages_and_files_of_a_site_agree(
    site: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The board may be written at any moment: what is read of it goes into the site, or nothing does."""
    from leaderboards import page

    boards = {name: Path(shutil.copy(runs.parent / "board.csv", tmp_path / name)) for name in ("during", "after")}

    def shortened(board: Path) -> None:
        board.write_text("".join(board.read_text().splitlines(keepends=True)[:-1]))

    find, read = page._find_runs, Board.read
    monkeypatch.setattr(page, "_find_runs", lambda *given: shortened(boards["after"]) or find(*given))
    write_site(tmp_path / "site", boards["after"], PUBLISHED, [runs])
    assert (tmp_path / "site" / "stepgame.csv").read_bytes() == (runs.parent / "board.csv").read_bytes()
    assert len(list((tmp_path / "site" / "runs").iterdir())) == 10
    monkeypatch.setattr(page.Board, "read", lambda path: (read(path), shortened(path))[0])
    with pytest.raises(InputError, match="was written by another process while it was read"):
        write_site(tmp_path / "other", boards["during"], PUBLISHED, [runs])
    assert not (tmp_path / "other").exists()


def copied(runs: Path, target: Path) -> tuple[Path, str]:
    """Copy the run of the random model, and name its page."""
    shutil.copytree(runs / "random-noise", target)
    return target, f"runs/{sha256_of(target / 'samples.jsonl')[:16]}.html"


def test_records_of_another_run_are_told(site: Path, runs: Path, tmp_path: Path) -> None:
    """Only the hash of its answers binds a folder to a row; what lies beside them may be anything."""
    run, name = copied(runs, tmp_path / "runs" / "forged")
    assert "may be of another run" not in (site / name).read_text()
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["model"]["spec"] = "gpt-9"
    manifest["created"] = "2001-01-01T00:00:00+00:00"
    (run / "manifest.json").write_text(json.dumps(manifest))
    write_site(tmp_path / "site", runs.parent / "board.csv", PUBLISHED, [run])
    shown = (tmp_path / "site" / name).read_text()
    assert "its records may be of another run. They differ in: model, date.</p>" in shown


@pytest.mark.parametrize("how", ["scores", "command", "no answers", "deep"])
def test_a_folder_that_cannot_be_read_costs_its_answers_alone(site: Path, runs: Path, tmp_path: Path, how: str) -> None:
    run, _ = copied(runs, tmp_path / "runs" / "odd")
    board = (runs.parent / "board.csv").read_text()
    samples, manifest = run / "samples.jsonl", json.loads((run / "manifest.json").read_text())
    before = sha256_of(samples)
    if how == "scores":
        first, _, rest = samples.read_text().partition("\n")
        samples.write_text(json.dumps(json.loads(first) | {"logprobs": [10**400] * 9}) + "\n" + rest)
    elif how == "deep":
        first, _, rest = samples.read_text().partition("\n")
        deep = "[" * 20_000 + "]" * 20_000
        samples.write_text(json.dumps(json.loads(first) | {"messages": 5}).replace(": 5", f": {deep}") + "\n" + rest)
    elif how == "command":
        (run / "manifest.json").write_text(json.dumps(manifest | {"command": 5}))
    else:
        samples.unlink()
        samples.mkdir()
    if samples.is_file():
        board = board.replace(before, sha256_of(samples))
    (tmp_path / "board.csv").write_text(board)
    done = write_site(tmp_path / "site", tmp_path / "board.csv", PUBLISHED, [run, runs / "oracle-noise"])
    assert done.rows == 10 and len([note for note in done.notes if note.startswith(f"left out: {run}")]) == 1
    pages = [path.read_text() for path in (tmp_path / "site" / "runs").iterdir()]
    assert sum("its answers are not shown" in page for page in pages) == 9, "the other folder's are"
