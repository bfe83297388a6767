"""Ranges of blocks: what is written, what it means, and what is refused with the model's block map."""

from __future__ import annotations

import pytest

from chainft.errors import ConfigError
from chainft.stages.spans import BlockMap, Span, equal_spans, read_span, read_spans

ENCODER = BlockMap("BertModel", {"": 6})
BOTH = BlockMap("T5Model", {"encoder": 4, "decoder": 3})


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("embeddings, :4", Span(0, 4, True, False)),
        ("4:, head", Span(4, 6, False, True)),
        ("head", Span(6, 6, False, True)),
        ("embeddings", Span(0, 0, True, False)),
        ("-2:", Span(4, 6, False, False)),
        ("1, 2, 3:5", Span(1, 5, False, False)),
        ("embeddings, :, head", Span(0, 6, True, True)),
    ],
)
def test_a_range_means_its_units(text: str, span: Span) -> None:
    assert read_span(text, ENCODER, key="k") == span


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("embeddings, encoder.0:3", Span(0, 3, True, False)),
        ("encoder.3:, decoder.:1", Span(3, 5, False, False)),
        ("decoder.1:, head", Span(5, 7, False, True)),
    ],
)
def test_stacks_of_an_encoder_decoder_follow_each_other(text: str, span: Span) -> None:
    assert read_span(text, BOTH, key="k") == span


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("7:", "out-of-range"),
        (":9", "out-of-range"),
        ("3:3", "empty-range"),
        ("embedings", "bad-range"),
        ("", "bad-range"),
        ("encoder.0:2", "bad-range"),
        ("0, 2", "not-contiguous"),
        ("embeddings, 2:", "not-contiguous"),
    ],
)
def test_a_wrong_range_is_refused(text: str, slug: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_span(text, ENCODER, key="chain.stages.a.blocks")
    assert caught.value.problems[0].slug == slug
    assert caught.value.problems[0].key == "chain.stages.a.blocks"


def test_a_range_of_an_encoder_decoder_names_its_stack() -> None:
    with pytest.raises(ConfigError, match="does not say of which stack") as caught:
        read_span(":2", BOTH, key="k")
    assert "embeddings, encoder.0:4, decoder.0:3, head" in str(caught.value.problems[0].help)


@pytest.mark.parametrize(
    ("stages", "slug"),
    [
        ({"a": "embeddings, :3", "b": "4:, head"}, "gap"),
        ({"a": "embeddings, :3", "b": "2:, head"}, "overlap"),
        ({"a": ":3", "b": "3:, head"}, "gap"),
        ({"a": "embeddings, :3", "b": "3:"}, "gap"),
        ({"a": "embeddings, :, head", "b": "head"}, "overlap"),
    ],
)
def test_stages_follow_each_other_from_embeddings_to_head(stages: dict[str, str], slug: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_spans(stages, ENCODER)
    assert slug in {problem.slug for problem in caught.value.problems}
    assert all("embeddings, 0:6, head" in str(problem.help) for problem in caught.value.problems)


@pytest.mark.parametrize("count", range(1, 7))
def test_equal_spans_cover_every_block_once(count: int) -> None:
    spans = equal_spans(ENCODER, count)
    assert [block for span in spans for block in span.blocks] == list(range(6))
    assert max(len(span.blocks) for span in spans) - min(len(span.blocks) for span in spans) <= 1
    assert read_spans({str(i): span.within(ENCODER) for i, span in enumerate(spans)}, ENCODER) == {
        str(i): span for i, span in enumerate(spans)
    }


def test_more_stages_than_blocks_are_refused() -> None:
    with pytest.raises(ConfigError, match="has 6 blocks"):
        equal_spans(ENCODER, 7)
