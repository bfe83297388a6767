"""What `chainft evaluate` and `chainft check data` print."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from chainft.report.inspection import print_data_card, print_scores

WIDTHS = (60, 80, 160)


def console(width: int = 80) -> Console:
    return Console(width=width, file=io.StringIO(), markup=False, highlight=False)


def shown(target: Console) -> str:
    return target.file.getvalue()


def test_scores_of_one_split_name_it_with_its_examples(ner_sample):
    target = console()
    record = {"run": "runs/x", "split": "validation", "examples": 250} | ner_sample.files["all_results.json"][
        "validation"
    ]
    print_scores(record, console=target)
    text = shown(target)
    assert "Scores on 250 validation examples" in text and re.search(r"entity_f1 +0\.8204", text)
    assert "Entities per type (validation)" in text


def test_scores_of_an_empty_split_say_so():
    target = console()
    print_scores({"run": "runs/x", "split": "test", "examples": 0, "values": {}}, console=target)
    assert shown(target) == "No scores: test has no examples.\n"


@pytest.mark.parametrize("width", WIDTHS)
def test_data_card_counts_examples_and_labels(classify_sample, width):
    target = console(width)
    print_data_card(classify_sample.files["data_card.json"], console=target)
    text = shown(target)
    assert re.search(r"train +1,250 +159 +128", text)
    assert re.search(r"card_arrival +1,000 +200 +200", text) and "(61 classes between)" in text
    assert max(map(cell_len, text.splitlines())) <= width


def test_data_card_without_labels_and_lengths(generate_sample):
    card = generate_sample.files["data_card.json"]
    del card["splits"]["train"]["lengths"]
    target = console()
    print_data_card(card, console=target)
    assert re.search(r"train +1,250 +– +–", shown(target)) and "How often" not in shown(target)
