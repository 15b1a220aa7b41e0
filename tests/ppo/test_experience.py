"""Rollouts as tensors."""

import pytest
import torch

from bai_pipeline.ppo.experience import Experience, build_experience
from bai_pipeline.ppo.ranks import Ranks

CPU = torch.device("cpu")


def example() -> Experience:
    return build_experience([[5, 6], [7, 8, 9]], [[10, 11, 2], [12]], [[-1.0, -2.0, -3.0], [-4.0]], 0, CPU)


def test_an_entry_speaks_about_the_token_after_it() -> None:
    batch = example()
    assert batch.tokens.tolist() == [[5, 6, 10, 11, 2], [7, 8, 9, 12, 0]]
    assert batch.targets[batch.mask].tolist() == [10, 11, 2, 12]
    assert batch.sample_logprobs[batch.mask].tolist() == [-1, -2, -3, -4]
    assert batch.inputs.tolist() == [[5, 6, 10, 11], [7, 8, 9, 12]]


def test_real_entries_are_those_whose_input_is_no_padding() -> None:
    batch = build_experience([[5, 6], [7]], [[10, 2], [12]], [[-1.0, -2.0], [-4.0]], 0, CPU)
    assert batch.real.tolist() == [[True, True, True], [True, False, False]]


def test_rows_are_trimmed_to_the_longest_of_them() -> None:
    part = example().rows(torch.tensor([1]))
    assert part.tokens.tolist() == [[7, 8, 9, 12]]
    assert part.mask.tolist() == [[False, False, True]]
    assert part.returns.shape == (1, 3)


def test_every_row_is_in_one_mini_batch() -> None:
    batch = build_experience([[5]] * 5, [[token] for token in range(10, 15)], [[0.0]] * 5, 0, CPU)
    parts = list(batch.mini_batches([4, 0, 3, 1, 2], 2))
    assert [part.targets[part.mask].tolist() for part in parts] == [[14, 10], [13, 11], [12]]


def test_computing_in_chunks_puts_results_back_in_place() -> None:
    batch = example()
    for chunk in (1, 2):
        result = batch.compute(lambda part: part.targets.float(), chunk, Ranks())
        assert result[batch.mask].tolist() == [10, 11, 2, 12]


def of_lengths(lengths: list[int]) -> Experience:
    """Responses of so many tokens to prompts of one."""
    return build_experience([[9]] * len(lengths), [[10 + n] * n for n in lengths], [[0.0] * n for n in lengths], 0, CPU)


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 3, None])
@pytest.mark.parametrize("lengths", [[5, 1, 4, 2, 3, 6], [4] * 6, [1, 1, 1, 1, 1, 9], [9, 9, 9, 1, 1, 1]])
def test_the_ranks_micro_batches_are_all_rows_in_as_many_pieces_of_few_enough_tokens(
    ranks: int, size: int | None, lengths: list[int]
) -> None:
    batch = of_lengths(lengths)
    shares = [batch.micro_batches(size, Ranks(rank, ranks)) for rank in range(ranks)]
    parts = [part.lengths.tolist() for share in shares for part in share]
    assert sorted(length - 1 for part in parts for length in part) == sorted(lengths)
    assert len({len(share) for share in shares}) == 1
    assert max(map(sum, parts)) <= (size or len(lengths)) * (max(lengths) + 1)
    assert len(shares[0]) <= -(-len(lengths) // ranks // (size or len(lengths)))


def test_short_rows_need_no_micro_batches_of_their_own() -> None:
    assert [len(part.tokens) for part in of_lengths([1, 1, 9, 1, 1, 1]).micro_batches(2, Ranks())] == [6]
    assert [len(part.tokens) for part in of_lengths([9] * 6).micro_batches(2, Ranks())] == [2, 2, 2]


def test_a_reading_is_all_rows_without_padding_and_what_a_model_says_finds_its_place() -> None:
    batch = example()
    reading = batch.reading()
    assert reading["input_ids"].tolist() == [[5, 6, 10, 11, 7, 8, 9]]
    assert reading["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert reading["sequence_lengths"] == (4, 3)
    assert batch.responding().tolist() == [[False, True, True, True, False, False, True]]
    said = reading["input_ids"].float()
    assert batch.of_reading(said).tolist() == [[5, 6, 10, 11], [7, 8, 9, 0]]
    assert batch.of_responses(said[batch.responding()]).tolist() == [[0, 6, 10, 11], [0, 0, 9, 0]]
