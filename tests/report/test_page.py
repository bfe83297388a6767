"""The page: whole, self-contained, inert, and without sections for what a run lacks."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chainft.errors import CheckpointError
from chainft.report.card import model_card
from chainft.report.page import write_report

ATTACK = '</style></script><script>alert(1)</script><img src=x onerror="alert(2)">\u202e{{7*7}}'
VOID = {"meta", "br", "hr", "col", "img", "input", "link"}
SECTIONS = {"findings", "scores", "curves", "classes", "confusion", "mistakes", "data", "next", "settings"}


class Outline(HTMLParser):
    """Checks that elements nest, and collects them with their attributes and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute of <{tag}> comes twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def sections(self) -> set[str]:
        return {str(section["id"]) for section in self.named("section")}


def page_of(sample) -> str:
    return write_report(sample.write()).read_text(encoding="utf-8")


def test_page_is_well_formed_with_every_section(ner_sample):
    outline = Outline(page_of(ner_sample))
    assert outline.sections == SECTIONS
    links = {str(link["href"]).removeprefix("#") for link in outline.named("a")}
    assert links == SECTIONS


def test_page_loads_nothing_and_runs_nothing(any_sample):
    page = page_of(any_sample)
    outline = Outline(page)
    policy = next(meta["content"] for meta in outline.named("meta") if meta.get("http-equiv"))
    assert policy is not None and policy.startswith("default-src 'none'") and "script-src" not in policy
    forbidden = {"script", "link", "img", "iframe", "object", "embed", "form", "base", "video", "audio"}
    assert not forbidden & {tag for tag, _ in outline.elements}
    for _, attributes in outline.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "srcset", "xlink:href")]
        assert str(attributes.get("href", "#")).startswith("#")
    assert not re.search(r"url\(|@import|https?://", page)


def test_policy_comes_before_the_style(ner_sample):
    page = page_of(ner_sample)
    assert page.index("Content-Security-Policy") < page.index("<style>") < page.index("</head>")


@pytest.mark.parametrize("place", ["label", "text", "config", "environment", "finding", "run", "metric", "title"])
def test_text_of_users_is_shown_and_never_executed(ner_sample, place):
    """fault 44: HTML and JavaScript in texts, labels and config stay text."""
    files = ner_sample.files
    scores = files["all_results.json"]["test"]["after"]
    if place == "label":
        scores["tables"][0]["rows"][0][0] = scores["confusions"][0]["labels"][1] = ATTACK
        files["data_card.json"]["splits"]["train"]["labels"] = {ATTACK: 3}
        files["mistakes.jsonl"][0]["gold_marks"][0]["label"] = ATTACK
    elif place == "text":
        files["mistakes.jsonl"][0]["text"] = files["mistakes.jsonl"][1]["text"] = ATTACK * 20
    elif place == "config":
        files["config.yaml"] = ATTACK
    elif place == "environment":
        files["environment.json"] = {ATTACK: ATTACK, "devices": [ATTACK], "chainft": ATTACK}
    elif place == "finding":
        files["data_card.json"]["findings"] = [
            {"slug": "x", "severity": ATTACK, "message": ATTACK, "where": ATTACK, "help": ATTACK, "count": 2}
        ]
    elif place == "run":
        files["all_results.json"]["run"] = files["all_results.json"]["task"] = files["plan.json"]["run"] = ATTACK
    elif place == "metric":
        scores["values"][ATTACK] = 0.5
        files["all_results.json"]["main_metric"] = ATTACK
    else:
        scores["tables"][0]["title"] = scores["confusions"][0]["title"] = ATTACK
    page = page_of(ner_sample)
    outline = Outline(page)
    assert not {"script", "img"} & {tag for tag, _ in outline.elements}
    assert "alert(1)" in outline.text, "the text itself is shown"
    assert "\u202e" not in page, "no text may reverse the reading direction of the page"


def test_broken_characters_do_not_stop_the_page(ner_sample):
    ner_sample.files["mistakes.jsonl"][0]["text"] = "The Bank \x00 \x1b[31m of New York Mellon and Zoë Quinn"
    folder = ner_sample.write()
    mistakes = folder.path / "mistakes.jsonl"
    mistakes.write_text(mistakes.read_text(encoding="utf-8").replace("Bank", "\\ud800ank"), encoding="utf-8")
    page = write_report(folder).read_text(encoding="utf-8")
    assert "\\ud800ank" in page and "\\x1b[31m" in page
    assert "\x1b" not in page and "\x00" not in page


def test_headline_says_what_came_out_before_and_after(ner_sample):
    text = " ".join(Outline(page_of(ner_sample)).text.split())
    assert "entity_f1 on test 0.0812 → 0.8123 +0.7311" in text
    assert "whole entities: one is right only if its type, its first and its last word are all right" in text
    assert "step 160 of 200 (epoch 4)" in text


def test_entity_and_token_tables_say_what_they_count(ner_sample):
    text = Outline(page_of(ner_sample)).text
    entities, tokens = text.index("Entities per type"), text.index("Tokens per tag")
    assert entities < text.index("Counts whole entities") < tokens < text.index("Counts single words")


def test_without_test_examples_validation_is_shown_with_a_warning(ner_sample):
    ner_sample.files["all_results.json"]["test"] = None
    text = Outline(page_of(ner_sample)).text
    assert "entity_f1 on validation" in text and "Scores on validation" in text
    assert "also chose the best checkpoint" in text


def test_without_scores_before_training_there_is_no_change(ner_sample):
    ner_sample.files["all_results.json"]["test"]["before"] = None
    outline = Outline(page_of(ner_sample))
    assert "→" not in outline.text and "change" not in outline.text


def test_without_any_scores_the_page_says_so(ner_sample):
    ner_sample.files["all_results.json"] |= {"test": None, "validation": None}
    outline = Outline(page_of(ner_sample))
    assert "Finished without scores" in outline.text
    assert not {"scores", "classes", "confusion"} & outline.sections


def test_generation_has_no_sections_about_classes(generate_sample):
    outline = Outline(page_of(generate_sample))
    assert not {"classes", "confusion"} & outline.sections
    assert "Labels" not in outline.text and "tokens the model hesitates" in outline.text


@pytest.mark.parametrize(
    ("missing", "section"),
    [("metrics.jsonl", "curves"), ("mistakes.jsonl", "mistakes"), ("data_card.json", "data")],
)
def test_section_is_left_out_with_its_file(ner_sample, missing, section):
    ner_sample.files[missing] = None
    assert section not in Outline(page_of(ner_sample)).sections


def test_unfinished_run_shows_its_curves_and_how_to_go_on(ner_sample):
    ner_sample.files["all_results.json"] = ner_sample.files["mistakes.jsonl"] = None
    outline = Outline(page_of(ner_sample))
    assert "This run has not finished" in outline.text and "resume=true" in outline.text
    assert "curves" in outline.sections


def test_empty_run_folder_makes_a_page(tmp_path: Path, ner_sample):
    ner_sample.files.clear()
    assert Outline(page_of(ner_sample)).sections == {"next"}


def test_cut_last_line_of_metrics_is_left_out_and_told(ner_sample):
    folder = ner_sample.write()
    with folder.metrics.open("a", encoding="utf-8") as stream:
        stream.write('{"kind": "train", "step": 201, "lo')
    assert "1 line of metrics.jsonl could not be read" in Outline(write_report(folder).read_text("utf-8")).text


def test_damaged_results_are_named(ner_sample):
    folder = ner_sample.write()
    folder.results.write_text('{"format": 1, "te', encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"all_results\.json is damaged"):
        write_report(folder)


def test_many_classes_are_folded_with_the_worst_first(classify_sample):
    outline = Outline(page_of(classify_sample))
    assert "The 8 worst of 77" in outline.text and "All 77 classes" in outline.text
    assert outline.text.index("Most frequent mix-ups") < outline.text.index("77 classes; rows: gold")


def test_numbers_that_are_not_finite_appear_nowhere(ner_sample):
    for record in ner_sample.files["metrics.jsonl"][::3]:
        if record["kind"] == "train":
            record["loss"] = record["grad_norm"] = None
    values = ner_sample.files["all_results.json"]["test"]["after"]["values"]
    values["entity_f1"], values["loss"] = None, float("nan")
    page = page_of(ner_sample)
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert drawings and not [one for one in drawings if re.search(r"nan|inf|None", one, flags=re.IGNORECASE)]


def test_style_serves_dark_mode_and_paper(ner_sample):
    page = page_of(ner_sample)
    assert "prefers-color-scheme: dark" in page and "@media print" in page


def test_many_mistakes_are_folded_and_numbered_on(ner_sample):
    ner_sample.files["mistakes.jsonl"] *= 15
    outline = Outline(page_of(ner_sample))
    assert "10 more mistakes" in outline.text
    assert [one.get("start") for one in outline.named("ol")] == [None, "21"]


def test_answer_of_nothing_is_visible(generate_sample):
    generate_sample.files["mistakes.jsonl"][0]["predicted"] = " "
    assert "nothing" in Outline(page_of(generate_sample)).text


def test_report_needs_no_heavy_library():
    names = ("page", "card", "console", "progress", "logs")
    code = f"import sys{''.join(f', chainft.report.{name}' for name in names)}; print(sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not [name for name in ("torch", "transformers", "datasets", "accelerate", "hydra") if f"'{name}'" in found]


def test_without_validation_nothing_is_said_to_be_the_best(ner_sample):
    ner_sample.files["all_results.json"]["validation"] = None
    ner_sample.files["metrics.jsonl"] = [one for one in ner_sample.files["metrics.jsonl"] if one["kind"] == "train"]
    text = Outline(page_of(ner_sample)).text
    assert "last weights" in text and "best" not in text
    assert "there was no validation to choose by" in model_card(ner_sample.folder)


PLOTS = [
    {
        "title": "Length",
        "note": "texts by length",
        "x": "words",
        "kind": "bar",
        "series": [{"name": "n", "points": [[1, 5], [2, 7]]}],
    },
    {
        "title": "By question",
        "note": "score",
        "x": "word",
        "kind": "bar",
        "series": [{"name": "f1", "points": [["<who>", 0.5]]}],
    },
    {
        "title": "Reliability",
        "note": "how often right",
        "x": "score",
        "kind": "line",
        "series": [{"name": "model", "points": [[0.1, 0.2], [0.9, 0.8]]}],
    },
    {"title": "Nothing", "note": "none", "x": "x", "kind": "line", "series": [{"name": "none", "points": []}]},
]


def test_charts_of_metrics_are_drawn_and_empty_ones_left_out(ner_sample):
    ner_sample.files["all_results.json"]["test"]["after"]["charts"] = PLOTS
    outline = Outline(page_of(ner_sample))
    assert outline.sections == SECTIONS | {"plots"}
    labels = [str(drawing.get("aria-label")) for drawing in outline.named("svg")]
    assert [sum(label.startswith(f"{plot['title']}: ") for label in labels) for plot in PLOTS] == [1, 1, 1, 0]
    assert "<who>" in outline.text


def test_baselines_stand_beside_the_trained_model(ner_sample):
    ner_sample.files["all_results.json"]["baselines"] = {"lexicon": {"entity_f1": 0.1234}}
    outline = Outline(page_of(ner_sample))
    assert "Compared with simple baselines (test)" in outline.text and "0.1234" in outline.text
    assert "better than the best simple baseline: lexicon, 0.1234" in outline.text
