"""The model card: what the hub reads is valid, what people read is complete, and nothing local leaks."""

from __future__ import annotations

import pytest
import yaml

from chainft.report.card import model_card


def card_of(sample) -> tuple[dict, str]:
    text = model_card(sample.write())
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


@pytest.mark.parametrize(
    ("sample", "pipeline", "metric"),
    [
        ("ner_sample", "token-classification", {"type": "f1", "name": "entity_f1", "value": 0.8123}),
        ("classify_sample", "text-classification", {"type": "accuracy", "name": "accuracy", "value": 0.874}),
        ("generate_sample", "text-generation", {"type": "rouge", "name": "rouge_l", "value": 0.54}),
    ],
)
def test_header_is_what_the_hub_reads(sample, pipeline, metric, request):
    header, body = card_of(request.getfixturevalue(sample))
    assert header["library_name"] == "transformers" and header["pipeline_tag"] == pipeline
    assert metric in header["model-index"][0]["results"][0]["metrics"]
    assert f'pipeline("{pipeline}"' in body and "chainft predict" in body


def test_header_loads_in_huggingface_hub(any_sample):
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(any_sample.write()))
    results = card.data.eval_results
    assert {one.dataset_split for one in results} == {"test"}
    assert any(one.metric_name == any_sample.files["all_results.json"]["main_metric"] for one in results)


@pytest.mark.parametrize(
    ("path", "base"),
    [
        ("starter", "sentence-transformers/all-MiniLM-L6-v2"),
        ("bert-base-cased", "bert-base-cased"),
        ("org/some-model.v2", "org/some-model.v2"),
        ("/data/models/bert", None),
        ("./bert", None),
        ("~/bert", None),
        ("a/b/c", None),
    ],
)
def test_base_model_is_a_hub_name_or_left_out(ner_sample, path, base):
    ner_sample.files["plan.json"]["model"]["path"] = path
    header, body = card_of(ner_sample)
    assert header.get("base_model") == base
    if base is None:
        assert path not in body and "a local model" in body


def test_existing_folder_is_not_taken_for_a_hub_name(ner_sample, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org" / "model").mkdir(parents=True)
    ner_sample.files["plan.json"]["model"]["path"] = "org/model"
    assert "base_model" not in card_of(ner_sample)[0]


def test_no_local_path_is_in_the_card(any_sample, tmp_path):
    any_sample.files["data_card.json"]["findings"][0]["message"] = f"rows of {tmp_path}/test.conll are also in train"
    assert str(tmp_path) not in model_card(any_sample.write())


def test_body_tells_labels_scores_training_and_limits(ner_sample):
    _, body = card_of(ner_sample)
    assert "`B-PER`" in body
    assert "| entity_f1 | 0.0812 | 0.8123 | +0.7311 |" in body
    assert "| PER | 0.9100 | 0.8827 | 0.8963 | 40 |" in body
    assert "1,250 train examples, 250 validation examples, 250 test examples" in body
    assert "optimizer adamw, peak learning rate 3e-4, linear schedule, 20 warm-up steps" in body
    assert "12 test examples are also in train" in body.split("## Limits")[1]


def test_labels_cannot_break_the_markdown(ner_sample):
    """fault 44: labels are data."""
    attack = "`<script>|\n# x"
    ner_sample.files["plan.json"]["data"]["labels"][1] = attack
    ner_sample.files["all_results.json"]["test"]["after"]["tables"][0]["rows"][0][0] = attack
    _, body = card_of(ner_sample)
    assert "`` `<script>|\\n# x ``" in body
    assert "\\`\\<script\\>\\|\\\\n\\# x" in body


def test_without_scores_the_card_says_so(ner_sample):
    ner_sample.files["all_results.json"] |= {"test": None, "validation": None}
    header, body = card_of(ner_sample)
    assert "model-index" not in header and "None were measured" in body


def test_scores_that_are_not_finite_stay_out_of_the_header(ner_sample):
    ner_sample.files["all_results.json"]["test"]["after"]["values"]["entity_f1"] = None
    header, _ = card_of(ner_sample)
    assert "entity_f1" not in {one["name"] for one in header["model-index"][0]["results"][0]["metrics"]}
