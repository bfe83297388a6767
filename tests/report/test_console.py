"""What the terminal shows: complete at any width, plain where there is no terminal, inert for any label."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from chainft.report.commands import next_commands
from chainft.report.console import (
    messages,
    output,
    print_findings,
    print_next,
    print_plan,
    print_results,
)
from chainft.report.tables import render
from chainft.tasks.base import Table

WIDTHS = (60, 80, 160)


@pytest.fixture(autouse=True)
def fresh_consoles():
    yield
    messages.cache_clear()
    output.cache_clear()


def console(width: int = 80, **options) -> Console:
    return Console(width=width, file=io.StringIO(), markup=False, highlight=False, **options)


def shown(target: Console) -> str:
    return target.file.getvalue()


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.parametrize("width", WIDTHS)
def test_plan_tells_model_data_steps_and_time(ner_sample, width):
    target = console(width)
    print_plan(ner_sample.files["plan.json"], console=target)
    text = words(shown(target))
    for fact in (
        "starter (BertForTokenClassification), 22,716,681 parameters, all trained; at most 128 tokens, new: classifier",
        "train 1,250 examples in 1,262 windows, 31,877 tokens",
        "9: O, B-PER",
        "32 examples",
        "200 (5 epochs of 40 steps)",
        "adamw, learning rate 3e-4, linear, warm-up 20 steps",
        "cpu, float32, seed 42",
        "about 7 min 3 s",
    ):
        assert fact in text
    assert max(map(cell_len, shown(target).splitlines())) <= width


def test_plan_of_a_resumed_partly_frozen_run_says_so(ner_sample):
    plan = ner_sample.files["plan.json"]
    plan["from_step"], plan["model"]["trainable"], plan["micro_batches_per_step"] = 120, 3465, 4
    target = console(160)
    print_plan(plan, console=target)
    assert "going on from step 120" in shown(target)
    assert "3,465 trained (0.0002)" in shown(target)
    assert "32 examples in 4 micro-batches" in shown(target)


@pytest.mark.parametrize("width", WIDTHS)
def test_results_show_before_and_after_and_no_line_is_too_wide(any_sample, width):
    target = console(width)
    print_results(any_sample.files["all_results.json"], console=target)
    text = shown(target)
    results = any_sample.files["all_results.json"]
    for name, value in results["test"]["after"]["values"].items():
        assert name in words(text) and f"{value:.4f}" in text
        assert f"{results['test']['before']['values'][name]:.4f}" in text
    lines = [line for line in text.splitlines() if "before," not in line]
    assert max(cell_len(line) for line in lines) <= width


def test_headline_names_metric_split_and_meaning(ner_sample):
    target = console(160)
    print_results(ner_sample.files["all_results.json"], console=target)
    assert "entity_f1 on test: 0.0812 before, 0.8123 after training" in shown(target)
    assert "whole entities" in shown(target)


def test_entities_and_tokens_are_in_titled_tables(ner_sample):
    target = console()
    print_results(ner_sample.files["all_results.json"], console=target)
    text = shown(target)
    assert text.index("Entities per type (test)") < text.index("MISC") < text.index("Tokens per tag (test)")
    assert re.search(r"PER +0\.9100 +0\.8827 +0\.8963 +40\n", text)
    assert re.search(r"O +0\.9000 +0\.8800 +0\.8900 +1,400\n", text)


def test_averages_stand_apart_from_classes(ner_sample):
    target = console()
    print_results(ner_sample.files["all_results.json"], console=target)
    assert re.search(r"MISC .*\n *\n *micro ", shown(target))


def test_many_classes_are_shortened_to_worst_and_best(classify_sample):
    target = console()
    print_results(classify_sample.files["all_results.json"], console=target)
    text = shown(target)
    assert "(61 classes between)" in text and "report.html" in text
    rows = re.findall(r"^\S+ +\d\.\d{4} +\d\.\d{4} +(\d\.\d{4}) +40", text, flags=re.MULTILINE)
    assert rows == sorted(rows) and len(rows) >= 14


def test_narrow_terminal_stacks_values_and_loses_none(classify_sample):
    target = console(30)
    print_results(classify_sample.files["all_results.json"], console=target)
    assert "before 0.0874" in shown(target) and "after 0.8740" in shown(target)
    assert "…" not in shown(target)


def test_no_number_is_cut_whatever_stands_beside_it():
    names = ("balance_not_updated_after_bank_transfer", "card")
    columns = ("label", "precision", "recall", "F1", "gold texts", "predicted texts")
    table = Table("Texts by label", columns, tuple((name, 0.1234, 0.5678, 0.9012, 4321, 8765) for name in names))
    for width in range(25, 130):
        target = console(width)
        target.print(render(table, target))
        text = shown(target)
        assert max(cell_len(line) for line in text.splitlines()) <= width
        for number in ("0.1234", "0.5678", "0.9012", "4,321", "8,765", "precision", "predicted"):
            assert text.count(number) >= (2 if number[0].isdigit() else 1), (width, number)


def test_without_test_examples_validation_is_shown(ner_sample):
    ner_sample.files["all_results.json"]["test"] = None
    target = console()
    print_results(ner_sample.files["all_results.json"], console=target)
    assert "entity_f1 on validation: 0.8204 after training" in words(shown(target))
    assert "Entities per type (validation)" in shown(target)
    assert "before" not in shown(target)


def test_without_scores_the_console_says_so(ner_sample):
    ner_sample.files["all_results.json"] |= {"test": None, "validation": None}
    target = console()
    print_results(ner_sample.files["all_results.json"], console=target)
    assert "No scores" in shown(target)


def test_results_go_to_standard_output_and_the_rest_to_standard_error(ner_sample, capsys):
    files = ner_sample.files
    print_plan(files["plan.json"])
    print_findings(files["data_card.json"]["findings"])
    print_next(Path("runs/x"), "ner")
    captured = capsys.readouterr()
    assert captured.out == "" and "Plan" in captured.err
    print_results(files["all_results.json"])
    captured = capsys.readouterr()
    assert "entity_f1" in captured.out and captured.err == ""
    assert "\x1b" not in captured.out


def test_terminal_is_coloured_unless_no_color_is_set(ner_sample, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm-256color")
    for value, coloured in (("", True), ("1", False)):
        output.cache_clear()
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setattr(sys, "stdout", Terminal())
        print_results(ner_sample.files["all_results.json"])
        assert ("\x1b[" in sys.stdout.getvalue()) is coloured


def test_labels_cannot_style_or_steer_the_terminal(ner_sample):
    """fault 44: markup and escape codes in labels and findings have no effect."""
    attack = "[bold red]x[/] \x1b[2J\r:smile:"
    results, findings = ner_sample.files["all_results.json"], ner_sample.files["data_card.json"]["findings"]
    results["test"]["after"]["tables"][0]["rows"][0][0] = attack
    ner_sample.files["plan.json"]["data"]["labels"][0] = attack
    findings[0] |= {"message": attack, "where": attack, "help": attack}
    target = console(160, force_terminal=True, color_system=None)
    print_results(results, console=target)
    print_plan(ner_sample.files["plan.json"], console=target)
    print_findings(findings, console=target)
    assert shown(target).count(r"[bold red]x[/] \x1b[2J\r:smile:") == 5
    assert "\x1b" not in shown(target) and "\r" not in shown(target)


def test_finding_shows_severity_place_number_and_remedy(ner_sample):
    target = console()
    print_findings(ner_sample.files["data_card.json"]["findings"], console=target)
    assert shown(target).splitlines()[:3] == [
        "warning[data/leakage]: 12 test examples are also in train",
        "  --> test.conll:118 and 11 more places",
        "  help: remove them from train",
    ]


def test_quiet_leaves_errors_only(ner_sample):
    target = console()
    findings = [*ner_sample.files["data_card.json"]["findings"], {"slug": "x", "severity": "error", "message": "bad"}]
    print_plan(ner_sample.files["plan.json"], quiet=True, console=target)
    print_next(Path("runs/x"), "ner", quiet=True, console=target)
    print_findings(findings, quiet=True, console=target)
    assert shown(target) == "error[data/x]: bad\n"


def test_next_commands_can_be_copied_whatever_the_folder_is_called(tmp_path):
    run = tmp_path / "my runs; rm -rf" / ("long" * 30)
    run.mkdir(parents=True)
    (run / "report.html").touch()
    target = console(60)
    print_next(run, "ner", console=target)
    commands = [line.strip() for line in shown(target).splitlines() if line.strip().startswith("chainft ")]
    assert commands[0] == f"chainft predict '{run}' 'Angela Merkel met engineers from Siemens in Berlin.'"
    assert len(commands) == 3 and "report.html" in shown(target)


@pytest.mark.parametrize(("tested", "line"), [(True, ""), (False, " data.test=FILE")])
def test_run_without_test_data_is_evaluated_on_a_file(tested: bool, line: str) -> None:
    target = console(60)
    print_next(Path("runs/x"), "ner", tested=tested, console=target)
    assert f"chainft evaluate runs/x{line}\n" in shown(target)


def test_other_data_of_several_tasks_are_named_by_task() -> None:
    (*_, last) = next_commands("runs/x", "joint", tested=False)
    assert last.line == "chainft evaluate runs/x data.tasks.NAME.test=FILE"


@pytest.mark.parametrize(("reached", "said"), [(0.1234, "better than"), (0.9999, "NOT better than")])
def test_the_best_baseline_is_told_and_whether_it_is_beaten(ner_sample, reached, said):
    results = ner_sample.files["all_results.json"]
    results["baselines"] = {"lexicon": {"entity_f1": reached}, "nothing": {"entity_f1": 0.0}}
    target = console()
    print_results(results, console=target)
    text = words(shown(target))
    assert f"  {said} the best simple baseline: lexicon, {reached}" in shown(target)
    assert "Compared with simple baselines (test)" in text


def test_of_tasks_learned_together_each_is_held_against_its_own_best_baseline(ner_sample):
    results = ner_sample.files["all_results.json"]
    results |= {"main_metric": "mean_score", "task_metrics": ["names/entity_f1", "mood/f1_macro"]}
    results["test"]["after"]["values"] = {"mean_score": 0.7, "names/entity_f1": 0.9, "mood/f1_macro": 0.5}
    results["baselines"] = {
        "majority": {"mood/f1_macro": 0.6},
        "lexicon": {"names/entity_f1": 0.8},
        "nothing": {"names/entity_f1": 0.0},
        "each best": {"mean_score": 0.7, "names/entity_f1": 0.8, "mood/f1_macro": 0.6},
    }
    target = console()
    print_results(results, console=target)
    assert [line for line in shown(target).splitlines() if "simple baseline:" in line] == [
        "  NOT better than the best simple baseline: each best, 0.7000",
        "  names/entity_f1 0.9000: better than the best simple baseline: lexicon, 0.8000",
        "  mood/f1_macro 0.5000: NOT better than the best simple baseline: majority, 0.6000",
    ]
